// What the solver is told; mirrored field by field in native.py. Doubles, as Python has them:
// what is derived from them is rounded to float once, at the end, as PyTorch does it.
#pragma once

#include <cstdint>

namespace tvl1 {

struct Numbers {
    int32_t num_levels, warps_fine, warps, iterations_fine, iterations, rounds, median;
    int32_t primal_dual, central, presmooth_radius, pyramid_radius;
    double attachment, tightness, primal_step, dual_step, dual_kept, cubic, stop;
};

}  // namespace tvl1
