// The patch search of one level: patches.py does the same arithmetic in the same order, and gives
// the same bits. A patch is eight rows of eight pixels, and all its pixels have the same fractions
// of a pixel, so that rows are loaded whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace patches {

constexpr int SIDE = 8, STRIDE = 4;
constexpr float SHARE = 1.0f / (SIDE * SIDE), LEAST_DETERMINANT = 1e-6f;
constexpr int BORDER = SIDE + 2;  // pixels around a frame that displaced patches read

typedef float Row __attribute__((vector_size(4 * SIDE)));
inline Row load(const float* p) { Row r; std::memcpy(&r, p, sizeof r); return r; }
inline float total(Row a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }

struct Frame {
    int width, height, stride;
    std::vector<float> memory;
    Frame(const float* pixels, int h, int w) : width(w), height(h), stride(w + 2 * BORDER) {
        memory.resize((size_t)(h + 2 * BORDER) * stride);
        for (int y = -BORDER; y < h + BORDER; y++) {
            const float* from = pixels + (size_t)std::clamp(y, 0, h - 1) * w;
            float* to = memory.data() + (size_t)(y + BORDER) * stride + BORDER;
            std::memcpy(to, from, sizeof(float) * w);
            for (int i = 1; i <= BORDER; i++) to[-i] = from[0], to[w - 1 + i] = from[w - 1];
        }
    }
    const float* at(int y, int x) const {
        return memory.data() + (size_t)(y + BORDER) * stride + x + BORDER;
    }
};

// Where a displaced patch reads. It goes no further than just outside of the frame.
struct Reader {
    const float* corner;
    int stride;
    float upper_left, upper_right, lower_left, lower_right;
    bool whole;
    Reader(const Frame& frame, float x, float y) : stride(frame.stride) {
        x = std::min(std::max(x, (float)-SIDE), (float)frame.width);
        y = std::min(std::max(y, (float)-SIDE), (float)frame.height);
        const float whole_x = std::floor(x), whole_y = std::floor(y);
        const float across = x - whole_x, down = y - whole_y;
        const float rest_x = 1 - across, rest_y = 1 - down;
        corner = frame.at((int)whole_y, (int)whole_x);
        upper_left = rest_x * rest_y, upper_right = across * rest_y;
        lower_left = rest_x * down, lower_right = across * down;
        whole = across == 0 && down == 0;
    }
    Row row(int j) const {
        const float *above = corner + (size_t)j * stride, *below = above + stride;
        if (whole) return load(above);  // the other weights are zero
        return (upper_left * load(above) + upper_right * load(above + 1))
             + (lower_left * load(below) + lower_right * load(below + 1));
    }
};

struct Patch {
    int x, y;
    float across, down;  // sums of both derivatives
    float xx, xy, yy;    // the inverse of the matrix of squared gradients
};

// What the search of a level is told; mirrored field by field in native.py.
struct Numbers {
    int32_t grid_radius, grid_step, rounds, steps;
    int32_t distances[8];
};

class Level {
public:
    Level(const float* first_pixels, const float* second_pixels, int height, int width)
        : first(first_pixels, height, width), second(second_pixels, height, width),
          across((size_t)height * width), down((size_t)height * width),
          columns((width - SIDE + STRIDE - 1) / STRIDE + 1),
          rows((height - SIDE + STRIDE - 1) / STRIDE + 1) {
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++) {
                const size_t at = (size_t)y * width + x;
                across[at] = (*first.at(y, x + 1) - *first.at(y, x - 1)) * 0.5f;
                down[at] = (*first.at(y + 1, x) - *first.at(y - 1, x)) * 0.5f;
            }
        for (int j = 0; j < rows; j++)
            for (int i = 0; i < columns; i++)
                all.push_back(prepare(std::min(STRIDE * i, width - SIDE),
                                      std::min(STRIDE * j, height - SIDE)));
        for (auto* values : {&u, &v, &costs, &new_u, &new_v, &new_costs}) values->resize(all.size());
    }

    // Finds a displacement for each patch, from the flow (2, height, width) to start from.
    void search(const float* start, const Numbers& n) {
        const size_t area = (size_t)first.height * first.width, count = all.size();
        for (size_t k = 0; k < count; k++) {
            const size_t centre = (size_t)(all[k].y + SIDE / 2) * first.width + all[k].x + SIDE / 2;
            u[k] = start[centre], v[k] = start[area + centre];
            costs[k] = cost(all[k], u[k], v[k]);
            if (n.grid_radius > 0) best_of_grid(k, n);
        }
        for (int round = 0; round < n.rounds; round++) {
            for (int j = 0; j < rows; j++)
                for (int i = 0; i < columns; i++) best_of_neighbours(j, i, n.distances[round]);
            std::swap(u, new_u), std::swap(v, new_v), std::swap(costs, new_costs);
            for (size_t k = 0; k < count; k++) descend(k, n.steps);
        }
    }

    // The flow (2, height, width) of the displacements.
    void densify(float* flow) const {
        const int width = first.width, height = first.height;
        const size_t area = (size_t)height * width;
        std::vector<float> weights(area, 0.0f);
        std::fill_n(flow, 2 * area, 0.0f);
        for (size_t k = 0; k < all.size(); k++) {
            const Patch& patch = all[k];
            const float here_u = u[k], here_v = v[k];
            const float weight = 1 / std::max(costs[k] * SHARE, 1.0f);
            const Reader reader(second, patch.x + here_u, patch.y + here_v);
            for (int j = 0; j < SIDE; j++) {
                const Row difference = reader.row(j) - load(first.at(patch.y + j, patch.x));
                const size_t at = (size_t)(patch.y + j) * width + patch.x;
                for (int i = 0; i < SIDE; i++) {
                    const float share = weight / std::max(std::fabs(difference[i]), 1.0f);
                    weights[at + i] += share;
                    flow[at + i] += share * here_u, flow[area + at + i] += share * here_v;
                }
            }
        }
        for (size_t at = 0; at < area; at++) flow[at] /= weights[at], flow[area + at] /= weights[at];
    }

private:
    Frame first, second;
    std::vector<float> across, down;
    int columns, rows;
    std::vector<Patch> all;
    std::vector<float> u, v, costs, new_u, new_v, new_costs;

    Patch prepare(int x, int y) const {
        Row sum_x{}, sum_y{}, sum_xx{}, sum_xy{}, sum_yy{};
        for (int j = 0; j < SIDE; j++) {
            const size_t at = (size_t)(y + j) * first.width + x;
            const Row gx = load(across.data() + at), gy = load(down.data() + at);
            sum_x += gx, sum_y += gy, sum_xx += gx * gx, sum_xy += gx * gy, sum_yy += gy * gy;
        }
        const float by_x = total(sum_x), by_y = total(sum_y);
        const float xx = total(sum_xx) - by_x * by_x * SHARE, xy = total(sum_xy) - by_x * by_y * SHARE;
        const float yy = total(sum_yy) - by_y * by_y * SHARE;
        const float determinant = std::max(xx * yy - xy * xy, LEAST_DETERMINANT);
        return {x, y, by_x, by_y, yy / determinant, -xy / determinant, xx / determinant};
    }

    // Squared differences of both patches, without their means.
    float cost(const Patch& patch, float at_u, float at_v) const {
        const Reader reader(second, patch.x + at_u, patch.y + at_v);
        Row sum{}, squares{};
        for (int j = 0; j < SIDE; j++) {
            const Row difference = reader.row(j) - load(first.at(patch.y + j, patch.x));
            sum += difference, squares += difference * difference;
        }
        const float mean = total(sum);
        return total(squares) - mean * mean * SHARE;
    }

    void best_of_grid(size_t k, const Numbers& n) {
        const Patch& patch = all[k];
        for (int dy = -n.grid_radius; dy <= n.grid_radius; dy += n.grid_step)
            for (int dx = -n.grid_radius; dx <= n.grid_radius; dx += n.grid_step) {
                const int x = patch.x + dx, y = patch.y + dy;
                if (x < -SIDE / 2 || y < -SIDE / 2) continue;
                if (x > first.width - SIDE / 2 || y > first.height - SIDE / 2) continue;
                const float its_cost = cost(patch, (float)dx, (float)dy);
                if (its_cost < costs[k]) costs[k] = its_cost, u[k] = (float)dx, v[k] = (float)dy;
            }
    }

    void best_of_neighbours(int j, int i, int distance) {
        static const int right[8] = {-1, 1, 0, 0, -1, 1, -1, 1};
        static const int below[8] = {0, 0, -1, 1, -1, -1, 1, 1};
        const size_t k = (size_t)j * columns + i;
        new_u[k] = u[k], new_v[k] = v[k], new_costs[k] = costs[k];
        for (int t = 0; t < 8; t++) {
            const int y = j + below[t] * distance, x = i + right[t] * distance;
            if (x < 0 || y < 0 || x >= columns || y >= rows) continue;
            const size_t other = (size_t)y * columns + x;
            if (u[other] == new_u[k] && v[other] == new_v[k]) continue;  // it costs the same
            const float its_cost = cost(all[k], u[other], v[other]);
            if (its_cost < new_costs[k]) new_costs[k] = its_cost, new_u[k] = u[other], new_v[k] = v[other];
        }
    }

    // Steps of Gauss and Newton until the cost falls no more; a patch that would go further than
    // its side stays.
    void descend(size_t k, int steps) {
        const Patch& patch = all[k];
        float at_u = u[k], at_v = v[k], best_u = at_u, best_v = at_v, best = HUGE_VALF;
        for (int step = 0; step < steps; step++) {
            const Reader reader(second, patch.x + at_u, patch.y + at_v);
            Row sum{}, squares{}, sum_x{}, sum_y{};
            for (int j = 0; j < SIDE; j++) {
                const size_t at = (size_t)(patch.y + j) * first.width + patch.x;
                const Row difference = reader.row(j) - load(first.at(patch.y + j, patch.x));
                sum += difference, squares += difference * difference;
                sum_x += difference * load(across.data() + at);
                sum_y += difference * load(down.data() + at);
            }
            const float mean = total(sum), now = total(squares) - mean * mean * SHARE;
            if (!(now < best)) break;
            best = now, best_u = at_u, best_v = at_v;
            const float x = total(sum_x) - patch.across * mean * SHARE;
            const float y = total(sum_y) - patch.down * mean * SHARE;
            at_u -= patch.xx * x + patch.xy * y, at_v -= patch.xy * x + patch.yy * y;
        }
        const float moved_u = best_u - u[k], moved_v = best_v - v[k];
        if (moved_u * moved_u + moved_v * moved_v <= (float)(SIDE * SIDE))
            u[k] = best_u, v[k] = best_v, costs[k] = best;
    }
};

}  // namespace patches
