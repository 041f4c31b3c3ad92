// The inner iterations: most of the time is spent here. The floor of a primal-dual iteration, per
// pixel: 21 multiplications, 24 additions, 2 inverse roots, 10 numbers read and 6 written.
// benchmarks/tvl1.py prints what that takes on this machine beside what it does take.
#pragma once

#include <algorithm>

#include "field.h"

namespace tvl1 {

struct Steps { float primal, dual, pull; };

constexpr int BAR = 2 * LANES;  // over-relaxed flow of a group

// One primal-dual iteration (Chambolle, Pock 2011, algorithm 1) in one row: the flow of `row`, then
// the dual of the row above it, whose lower neighbour is now there. The first row of an image has
// no row above; after the last one comes a call without `row`. `bars` holds the over-relaxed flow
// of the row above and takes that of `row`, group by group, u and v in turn.
//
// The dual step of a group runs beside the flow step of the next: each is a chain of some twenty
// dependent operations, and two independent chains keep the arithmetic busy.
template <bool HAS_ROW, bool HAS_ABOVE>
inline void primal_dual_row(const Field& field, float* row, float* above, float* bars,
                            const Steps& steps) {
    const float primal = steps.primal, pull = steps.pull;
    const Vec dual = all(steps.dual), one = all(1.0f);
    const int last = field.groups - 1;
    Vec left_u{}, left_v{}, bar_u{}, bar_v{}, below_u{}, below_v{}, pyu_above{}, pyv_above{};

    auto flow_step = [&](Vec& new_below_u, Vec& new_below_v, Vec pyu, Vec pyv) {
        Vec pxu = load(row + PXU * LANES), pxv = load(row + PXV * LANES);
        Vec old_u = load(row + U * LANES), old_v = load(row + V * LANES);
        Vec u = old_u + primal * ((pxu - from_left(left_u, pxu)) + (load(row + PYU * LANES) - pyu));
        Vec v = old_v + primal * ((pxv - from_left(left_v, pxv)) + (load(row + PYV * LANES) - pyv));
        left_u = pxu, left_v = pxv;
        Vec ex = load(row + EX * LANES), ey = load(row + EY * LANES);
        Vec bound = load(row + BOUND * LANES);
        Vec amount = load(row + RES * LANES) + ex * u + ey * v;
        amount = pull * smaller(larger(amount, -bound), bound);
        u -= ex * amount, v -= ey * amount;
        new_below_u = 2.0f * u - old_u, new_below_v = 2.0f * v - old_v;
        store(row + U * LANES, u), store(row + V * LANES, v);
        row += GROUP;
    };
    auto dual_step = [&](Vec dual_x) {
        Vec next_u = load(bars + BAR), next_v = load(bars + BAR + LANES);
        if (!HAS_ROW) below_u = bar_u, below_v = bar_v;  // no difference across the lower border
        Vec pxu = load(above + PXU * LANES) + dual_x * (from_right(bar_u, next_u) - bar_u);
        Vec pxv = load(above + PXV * LANES) + dual_x * (from_right(bar_v, next_v) - bar_v);
        Vec pyu = pyu_above + dual * (below_u - bar_u), pyv = pyv_above + dual * (below_v - bar_v);
        Vec shrink_u = 1.0f / square_root(larger(pxu * pxu + pyu * pyu, one));
        Vec shrink_v = 1.0f / square_root(larger(pxv * pxv + pyv * pyv, one));
        store(above + PXU * LANES, pxu * shrink_u), store(above + PYU * LANES, pyu * shrink_u);
        store(above + PXV * LANES, pxv * shrink_v), store(above + PYV * LANES, pyv * shrink_v);
        bar_u = next_u, bar_v = next_v;
        above += GROUP;
    };

    if (HAS_ABOVE) {
        bar_u = load(bars), bar_v = load(bars + LANES);
        pyu_above = load(above + PYU * LANES), pyv_above = load(above + PYV * LANES);
    }
    if (HAS_ROW) flow_step(below_u, below_v, pyu_above, pyv_above);
    for (int g = 0; g < last; g++) {
        Vec new_below_u{}, new_below_v{}, pyu{}, pyv{};
        if (HAS_ABOVE) pyu = load(above + GROUP + PYU * LANES), pyv = load(above + GROUP + PYV * LANES);
        if (HAS_ROW) flow_step(new_below_u, new_below_v, pyu, pyv);
        if (HAS_ABOVE) dual_step(dual);
        if (HAS_ROW) store(bars, below_u), store(bars + LANES, below_v);
        bars += BAR;
        below_u = new_below_u, below_v = new_below_v, pyu_above = pyu, pyv_above = pyv;
    }
    if (HAS_ABOVE) dual_step(dual * field.inside(last, 1));  // nor across the right border
    if (HAS_ROW) store(bars, below_u), store(bars + LANES, below_v);
}

// Several iterations in one sweep over the image: each follows one row behind its predecessor, in
// place, and reads every value exactly as old as in a sweep of its own. The rows in flight stay in
// the second-level cache. Strips of columns narrow enough for the first were slower: what they
// save in traffic they lose at their edges.
void primal_dual(Field& field, int iterations, const Steps& steps) {
    constexpr size_t CACHE = 768 << 10;  // bytes, of 1 MiB on most server cores
    const size_t row_bytes = sizeof(float) * GROUP * field.groups;
    const int deepest = std::clamp((int)(CACHE / row_bytes) - 2, 2, 10);
    const size_t stride = (size_t)(field.groups + 1) * BAR;
    field.bars.reserve(deepest * stride);
    std::fill_n(field.bars.data, deepest * stride, 0.0f);  // what lies right of the image is read
    for (int done = 0; done < iterations; done += deepest) {
        const int depth = std::min(deepest, iterations - done);
        for (int sweep = 0; sweep < field.height + depth; sweep++) {
            for (int k = 0; k < depth; k++) {
                const int y = sweep - k;
                if (y < 0 || y > field.height) continue;
                float* row = y < field.height ? field.group(y, 0) : nullptr;
                float* above = y > 0 ? field.group(y - 1, 0) : nullptr;
                float* bars = field.bars.data + k * stride;
                if (!above) primal_dual_row<true, false>(field, row, above, bars, steps);
                else if (!row) primal_dual_row<false, true>(field, row, above, bars, steps);
                else primal_dual_row<true, true>(field, row, above, bars, steps);
            }
        }
    }
}

// One iteration of the original scheme (Zach et al., eq. 8 to 11; Chambolle's semi-implicit dual
// step). Returns the sum of squared changes of the flow.
double relaxed(Field& field, const Steps& steps) {
    const float primal = steps.primal;
    const Vec dual = all(steps.dual);
    DVec change{};  // doubles: the order of their sum must not decide when to stop
    for (int y = 0; y <= field.height; y++) {
        Vec left_u{}, left_v{};
        for (int g = 0; g < field.groups && y < field.height; g++) {
            float* row = field.group(y, g);
            float* above = y > 0 ? field.group(y - 1, g) : nullptr;
            Vec old_u = load(row + U * LANES), old_v = load(row + V * LANES);
            Vec pxu = load(row + PXU * LANES), pxv = load(row + PXV * LANES);
            Vec pyu = above ? load(above + PYU * LANES) : Vec{};
            Vec pyv = above ? load(above + PYV * LANES) : Vec{};
            Vec ex = load(row + EX * LANES), ey = load(row + EY * LANES);
            Vec bound = load(row + BOUND * LANES);
            Vec amount = load(row + RES * LANES) + ex * old_u + ey * old_v;
            amount = smaller(larger(amount, -bound), bound);
            Vec u = old_u - ex * amount
                  + primal * ((pxu - from_left(left_u, pxu)) + (load(row + PYU * LANES) - pyu));
            Vec v = old_v - ey * amount
                  + primal * ((pxv - from_left(left_v, pxv)) + (load(row + PYV * LANES) - pyv));
            left_u = pxu, left_v = pxv;
            change += __builtin_convertvector((u - old_u) * (u - old_u), DVec);
            change += __builtin_convertvector((v - old_v) * (v - old_v), DVec);
            store(row + U * LANES, u), store(row + V * LANES, v);
        }
        for (int g = 0; g < field.groups && y > 0; g++) {
            float* row = field.group(y - 1, g);
            float* below = y < field.height ? field.group(y, g) : row;
            Vec u = load(row + U * LANES), v = load(row + V * LANES);
            Vec mask = field.inside(g, 1);
            Vec ux = (from_right(u, load(row + GROUP + U * LANES)) - u) * mask;
            Vec vx = (from_right(v, load(row + GROUP + V * LANES)) - v) * mask;
            Vec uy = load(below + U * LANES) - u, vy = load(below + V * LANES) - v;
            Vec shrink_u = 1.0f / (1.0f + dual * square_root(ux * ux + uy * uy));
            Vec shrink_v = 1.0f / (1.0f + dual * square_root(vx * vx + vy * vy));
            store(row + PXU * LANES, (load(row + PXU * LANES) + dual * ux) * shrink_u);
            store(row + PYU * LANES, (load(row + PYU * LANES) + dual * uy) * shrink_u);
            store(row + PXV * LANES, (load(row + PXV * LANES) + dual * vx) * shrink_v);
            store(row + PYV * LANES, (load(row + PYV * LANES) + dual * vy) * shrink_v);
        }
    }
    double total = 0;
    for (int i = 0; i < LANES; i++) total += change[i];
    return total;
}

}  // namespace tvl1
