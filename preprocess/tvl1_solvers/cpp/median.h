// Median filters over the flow.
#pragma once

#include "field.h"

namespace tvl1 {

inline void order(Vec& a, Vec& b) {
    Vec low = smaller(a, b);
    b = larger(a, b), a = low;
}

inline Vec median3(Vec a, Vec b, Vec c) {
    order(a, b);
    return larger(a, smaller(b, c));
}

// 3x3: columns are sorted once a row; the median is the median of the largest of the low ones,
// the median of the middle ones and the smallest of the high ones.
void median_row_3(const Image& image, int y, Vec* out, int groups, std::vector<float>& sorted) {
    const int length = (groups + 2) * LANES;
    sorted.resize(3 * (size_t)length);
    float *low = sorted.data(), *middle = low + length, *high = middle + length;
    for (int g = 0; g < groups + 1; g++) {
        const int x = g * LANES - 1;
        Vec a = load(image.row(y - 1) + x), b = load(image.row(y) + x), c = load(image.row(y + 1) + x);
        order(a, b), order(b, c), order(a, b);
        store(low + x + 1, a), store(middle + x + 1, b), store(high + x + 1, c);
    }
    for (int g = 0; g < groups; g++, low += LANES, middle += LANES, high += LANES)
        out[g] = median3(larger(larger(load(low), load(low + 1)), load(low + 2)),
                         median3(load(middle), load(middle + 1), load(middle + 2)),
                         smaller(smaller(load(high), load(high + 1)), load(high + 2)));
}

// 5x5: neither the smallest nor the largest of 14 of 25 values is the median; drop both, take
// one more value in, and so on down to three.
void median_row_5(const Image& image, int y, Vec* out, int groups) {
    for (int g = 0; g < groups; g++) {
        Vec window[25];
        for (int j = 0; j < 5; j++)
            for (int i = 0; i < 5; i++) window[j * 5 + i] = load(image.row(y + j - 2) + g * LANES + i - 2);
        for (int size = 14, next = 14; size >= 3; size--) {
            for (int i = 1; i < size; i++) order(window[0], window[i]);
            for (int i = 1; i < size - 1; i++) order(window[i], window[size - 1]);
            if (next < 25) window[0] = window[next++];
        }
        out[g] = window[1];
    }
}

void median(Field& field, int side, Image& scratch) {
    std::vector<Vec> line(field.groups);
    std::vector<float> sorted;
    for (int variable = U; variable <= V; variable++) {
        scratch.shape(field.height, field.width);
        copy_out(field, variable, scratch);
        replicate_border(scratch);
        for (int y = 0; y < field.height; y++) {
            if (side == 3) median_row_3(scratch, y, line.data(), field.groups, sorted);
            else median_row_5(scratch, y, line.data(), field.groups);
            for (int g = 0; g < field.groups; g++)
                store(field.group(y, g) + variable * LANES, line[g] * field.inside(g));
        }
    }
}

}  // namespace tvl1
