// The state of the solver at one pyramid level.
#pragma once

#include "image.h"

namespace tvl1 {

// A group is LANES neighbouring pixels of a row. Its variables lie side by side, so that an
// iteration walks along one stream of memory: flow, its dual, and the linearised data term, which
// is unit gradient direction, residual over gradient length, and the largest step along it.
enum { U, V, PXU, PYU, PXV, PYV, EX, EY, RES, BOUND, NUM_VARIABLES };
constexpr int GROUP = NUM_VARIABLES * LANES;

struct Field {
    int width = 0, height = 0, groups = 0;
    Buffer state;
    Buffer bars;  // scratch of the iterations
    void shape(int h, int w) {
        width = w, height = h, groups = (w + LANES - 1) / LANES;
        const size_t count = ((size_t)h * groups + 1) * GROUP;
        state.reserve(count);
        std::memset(state.data, 0, count * sizeof(float));
    }
    float* group(int y, int g) const { return state.data + ((size_t)y * groups + g) * GROUP; }
    // Lanes of the group that lie inside the image: 1, else 0.
    Vec inside(int g, int shrink = 0) const {
        Vec x = lane_numbers() + (float)(g * LANES);
        return x < (float)(width - shrink) ? all(1.0f) : Vec{};
    }
};

void copy_out(const Field& field, int variable, Image& image) {
    for (int y = 0; y < field.height; y++)
        for (int g = 0; g < field.groups; g++)
            store(image.row(y) + g * LANES, load(field.group(y, g) + variable * LANES));
}

// Flow (scaled to the new size) and what is kept of its dual, from a coarser field.
void upsample(const Field& from, Field& to, float dual_kept, Image& scratch) {
    Axis columns(from.width, to.width), rows(from.height, to.height);
    std::vector<float> line(from.width + 4 * LANES);
    const int last_variable = dual_kept > 0 ? PYV : V;
    for (int variable = U; variable <= last_variable; variable++) {
        scratch.shape(from.height, from.width);
        copy_out(from, variable, scratch);
        float scale = variable == U ? (float)((double)to.width / from.width)
                    : variable == V ? (float)((double)to.height / from.height) : dual_kept;
        bool along_x = variable == PXU || variable == PXV, along_y = variable == PYU || variable == PYV;
        for (int y = 0; y < to.height - (along_y ? 1 : 0); y++) {
            int above = rows.index[y];
            resize_rows(scratch.row(above), scratch.row(above + 1), rows.share[y], line.data(),
                        from.width);
            for (int g = 0; g < to.groups; g++) {
                Vec value = resize_columns(line.data(), columns, g * LANES) * scale;
                store(to.group(y, g) + variable * LANES, value * to.inside(g, along_x ? 1 : 0));
            }
        }
    }
}

}  // namespace tvl1
