// TV-L1 optical flow of one pair on one core, pair after pair. tvl1.py describes the algorithm,
// eager.py is the same arithmetic in the same order, written plainly, and gives the same bits:
// compile without contraction of a * b + c. Here it is arranged for caches and vector units. Plain
// C++17, compiled on first use by native.py and called through ctypes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "iterate.h"
#include "median.h"
#include "numbers.h"
#include "patches.h"
#include "warp.h"

namespace tvl1 {

void central_differences(Second& second) {
    const Image& image = second.value;
    second.dx.shape(image.height, image.width), second.dy.shape(image.height, image.width);
    for (int y = 0; y < image.height; y++) {
        const float *above = image.row(y - 1), *row = image.row(y), *below = image.row(y + 1);
        float *dx = second.dx.row(y), *dy = second.dy.row(y);
        for (int x = 0; x < image.width; x++)
            dx[x] = 0.5f * (row[x + 1] - row[x - 1]), dy[x] = 0.5f * (below[x] - above[x]);
    }
    replicate_border(second.dx), replicate_border(second.dy);
}

void solve_level(const Image& first, Second& second, Field& field, const Numbers& n, bool finest,
                 Image& scratch) {
    const int warps = finest ? n.warps_fine : n.warps;
    const int iterations = finest ? n.iterations_fine : n.iterations;
    const double reach = n.primal_dual ? n.tightness + n.primal_step : n.tightness;
    const Steps steps{(float)n.primal_step, (float)n.dual_step, (float)(n.primal_step / reach)};
    const double enough = n.stop * n.stop * field.height * field.width;
    if (n.central) central_differences(second);
    for (int warping = 0; warping < warps; warping++) {
        warp(first, second, field, n, reach);
        double change = HUGE_VAL;
        for (int round = 0; round < n.rounds && change > enough; round++) {
            if (n.median) median(field, n.median, scratch);
            if (n.primal_dual) { primal_dual(field, iterations, steps); continue; }
            for (int i = 0; i < iterations && change > enough; i++) change = relaxed(field, steps);
        }
    }
}

struct Workspace {
    std::vector<Image> first;
    std::vector<Second> second;
    Field fields[2];
    Image scratch, other;
};

void load_image(const float* pixels, Image& image, int height, int width) {
    image.shape(height, width);
    for (int y = 0; y < height; y++)
        std::memcpy(image.row(y), pixels + (size_t)y * width, sizeof(float) * width);
}

void build_pyramid(Image& level, Image& next, const int32_t* size, const float* taps, int radius,
                   Image& scratch) {
    next.shape(size[0], size[1]);
    if (radius == 0) { resize(level, next); return; }
    scratch = level;
    blur(scratch, taps, radius);
    resize(scratch, next);
}

// The flow to start from, brought to the size of the coarsest level one level at a time.
void load_initial(const float* initial, const int32_t* sizes, int num_levels, Field& coarsest,
                  Image& image, Image& smaller_image) {
    for (int variable = U; variable <= V; variable++) {
        load_image(initial + (size_t)variable * sizes[0] * sizes[1], image, sizes[0], sizes[1]);
        for (int i = 1; i < num_levels; i++) {
            const int from = sizes[2 * i - 1 - variable], to = sizes[2 * i + 1 - variable];
            smaller_image.shape(sizes[2 * i], sizes[2 * i + 1]);
            resize(image, smaller_image);
            const float scale = (float)((double)to / from);
            for (int y = 0; y < smaller_image.height; y++)
                for (int x = 0; x < smaller_image.width; x++) smaller_image.row(y)[x] *= scale;
            std::swap(image, smaller_image);
        }
        for (int y = 0; y < image.height; y++)
            for (int g = 0; g < coarsest.groups; g++)
                store(coarsest.group(y, g) + variable * LANES,
                      load(image.row(y) + g * LANES) * coarsest.inside(g));
    }
}

void solve_pair(const float* first, const float* second, const float* initial, float* flow,
                const int32_t* sizes, const float* presmooth, const float* pyramid,
                const Numbers& n, Workspace& space) {
    const int height = sizes[0], width = sizes[1];
    load_image(first, space.first[0], height, width);
    load_image(second, space.second[0].value, height, width);
    if (n.presmooth_radius) {
        blur(space.first[0], presmooth, n.presmooth_radius);
        blur(space.second[0].value, presmooth, n.presmooth_radius);
    }
    for (int i = 1; i < n.num_levels; i++) {
        build_pyramid(space.first[i - 1], space.first[i], sizes + 2 * i, pyramid, n.pyramid_radius,
                      space.scratch);
        build_pyramid(space.second[i - 1].value, space.second[i].value, sizes + 2 * i, pyramid,
                      n.pyramid_radius, space.scratch);
    }
    for (int i = n.num_levels - 1; i >= 0; i--) {
        Field& field = space.fields[i % 2];
        field.shape(sizes[2 * i], sizes[2 * i + 1]);
        if (i == n.num_levels - 1 && initial)
            load_initial(initial, sizes, n.num_levels, field, space.scratch, space.other);
        if (i < n.num_levels - 1) upsample(space.fields[(i + 1) % 2], field, (float)n.dual_kept, space.scratch);
        replicate_border(space.second[i].value);
        solve_level(space.first[i], space.second[i], field, n, i == 0, space.scratch);
    }
    for (int variable = U; variable <= V; variable++) {
        space.scratch.shape(height, width);
        copy_out(space.fields[0], variable, space.scratch);
        for (int y = 0; y < height; y++)
            std::memcpy(flow + ((size_t)variable * height + y) * width, space.scratch.row(y),
                        sizeof(float) * width);
    }
}

}  // namespace tvl1

// Flow of `batch` pairs; frames (batch, height, width), flows (batch, 2, height, width), sizes
// (num_levels, 2) as height, width from fine to coarse. Returns 0, or 1 when memory runs out.
extern "C" int tvl1_flow(const float* first, const float* second, const float* initial, float* flow,
                         int64_t batch, const int32_t* sizes, const float* presmooth,
                         const float* pyramid, const tvl1::Numbers* numbers) {
    using namespace tvl1;
    try {
        Workspace space;
        space.first.resize(numbers->num_levels);
        space.second.resize(numbers->num_levels);
        const size_t area = (size_t)sizes[0] * sizes[1];
        for (int64_t i = 0; i < batch; i++)
            solve_pair(first + i * area, second + i * area, initial ? initial + 2 * i * area : nullptr,
                       flow + 2 * i * area, sizes, presmooth, pyramid, *numbers, space);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Flow of the patch search at one level, for `batch` pairs; frames (batch, height, width), start
// and flow (batch, 2, height, width). Returns 0, or 1 when memory runs out.
extern "C" int patch_flow(const float* first, const float* second, const float* start, float* flow,
                          int64_t batch, int32_t height, int32_t width,
                          const patches::Numbers* numbers) {
    try {
        const size_t area = (size_t)height * width;
        for (int64_t i = 0; i < batch; i++) {
            patches::Level level(first + i * area, second + i * area, height, width);
            level.search(start + 2 * i * area, *numbers);
            level.densify(flow + 2 * i * area);
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// `count` images, from sizes[0] x sizes[1] px (height, width) to sizes[2] x sizes[3]. Returns 0, or
// 1 when memory runs out.
extern "C" int resize_images(const float* images, float* resized, int64_t count,
                             const int32_t* sizes) {
    using namespace tvl1;
    try {
        Image from, to;
        for (int64_t i = 0; i < count; i++) {
            load_image(images + i * sizes[0] * sizes[1], from, sizes[0], sizes[1]);
            to.shape(sizes[2], sizes[3]);
            resize(from, to);
            for (int y = 0; y < to.height; y++)
                std::memcpy(resized + (i * to.height + y) * to.width, to.row(y),
                            sizeof(float) * to.width);
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
