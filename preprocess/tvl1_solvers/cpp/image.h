// Pictures with a border, and how they are smoothed and resized.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "simd.h"

namespace tvl1 {

constexpr int PAD = 4;  // border pixels around an image: the cubic kernel reaches 2, its spread 1

struct Image {
    int width = 0, height = 0, stride = 0;
    std::vector<float> memory;
    void shape(int h, int w) {
        width = w, height = h;
        stride = (w + LANES - 1) / LANES * LANES + 2 * LANES + PAD;
        memory.assign((size_t)(h + 2 * PAD) * stride + 2 * LANES, 0.0f);
    }
    float* row(int y) { return memory.data() + (size_t)(y + PAD) * stride + LANES; }
    const float* row(int y) const { return memory.data() + (size_t)(y + PAD) * stride + LANES; }
};

void replicate_border(Image& image) {
    for (int y = 0; y < image.height; y++) {
        float* row = image.row(y);
        for (int i = 1; i <= PAD; i++) row[-i] = row[0];
        for (int i = image.width; i < image.stride - LANES - PAD; i++) row[i] = row[image.width - 1];
    }
    size_t bytes = sizeof(float) * (image.stride - PAD);
    for (int i = 1; i <= PAD; i++) {
        std::memcpy(image.row(-i) - PAD, image.row(0) - PAD, bytes);
        std::memcpy(image.row(image.height - 1 + i) - PAD, image.row(image.height - 1) - PAD, bytes);
    }
}

// Separable symmetric filter, replicated border; taps[i] weighs distance i.
void blur(Image& image, const float* taps, int radius) {
    int width = image.width, height = image.height;
    std::vector<float> vertical(width + 2 * radius + LANES), result((size_t)width * height);
    for (int y = 0; y < height; y++) {
        float* line = vertical.data() + radius;
        const float* centre = image.row(y);
        for (int x = 0; x < width; x++) line[x] = taps[0] * centre[x];
        for (int i = 1; i <= radius; i++) {
            const float* above = image.row(std::max(y - i, 0));
            const float* below = image.row(std::min(y + i, height - 1));
            for (int x = 0; x < width; x++) line[x] += taps[i] * (above[x] + below[x]);
        }
        for (int i = 1; i <= radius; i++) line[-i] = line[0], line[width - 1 + i] = line[width - 1];
        float* out = result.data() + (size_t)y * width;
        for (int x = 0; x < width; x++) out[x] = taps[0] * line[x];
        for (int i = 1; i <= radius; i++)
            for (int x = 0; x < width; x++) out[x] += taps[i] * (line[x - i] + line[x + i]);
    }
    for (int y = 0; y < height; y++)
        std::memcpy(image.row(y), result.data() + (size_t)y * width, sizeof(float) * width);
}

// Where an axis of `to` pixels reads from one of `from` pixels; pixel centres at half integers.
struct Axis {
    std::vector<int32_t> index;
    std::vector<float> share;
    Axis(int from, int to) : index(to + LANES), share(to + LANES) {
        double ratio = (double)from / to;
        for (int i = 0; i < to; i++) {
            double centre = std::max((i + 0.5) * ratio - 0.5, 0.0);
            int first = std::min((int)centre, from - 2);
            index[i] = first, share[i] = (float)std::min(centre - first, 1.0);
        }
        // Lanes beyond the last pixel read where it does.
        std::fill(index.begin() + to, index.end(), index[to - 1]);
    }
};

// Row y of the resized image, before columns are resized, into `line`.
void resize_rows(const float* above, const float* below, float share, float* line, int width) {
    for (int x = 0; x < width; x++) line[x] = above[x] + (below[x] - above[x]) * share;
}

inline Vec resize_columns(const float* line, const Axis& columns, int x) {
    const int32_t* index = columns.index.data() + x;
    const float* from = line + index[0];
#if defined(__AVX512F__)
    if (index[LANES - 1] - index[0] < 2 * LANES) {
        __m512i offset = _mm512_sub_epi32(_mm512_loadu_si512(index), _mm512_set1_epi32(index[0]));
        Vec a = (Vec)_mm512_permutex2var_ps((__m512)load(from), offset, (__m512)load(from + LANES));
        Vec b = (Vec)_mm512_permutex2var_ps((__m512)load(from + 1), offset,
                                            (__m512)load(from + LANES + 1));
        return a + (b - a) * load(columns.share.data() + x);
    }
#endif
    Vec a, b;
    for (int i = 0; i < LANES; i++) a[i] = line[index[i]], b[i] = line[index[i] + 1];
    return a + (b - a) * load(columns.share.data() + x);
}

void resize(const Image& from, Image& to) {
    Axis columns(from.width, to.width), rows(from.height, to.height);
    std::vector<float> line(from.width + 4 * LANES);
    for (int y = 0; y < to.height; y++) {
        int above = rows.index[y];
        resize_rows(from.row(above), from.row(above + 1), rows.share[y], line.data(), from.width);
        for (int x = 0; x < to.width; x += LANES)
            store(to.row(y) + x, resize_columns(line.data(), columns, x));
    }
}

}  // namespace tvl1
