// Arithmetic of one core: sixteen independent chains of the widest vectors it has. Compiled as the
// solver is: without contraction of a * b + c, with exact roots and divisions.
#include "../preprocess/tvl1_solvers/cpp/simd.h"

using tvl1::LANES, tvl1::Vec;
constexpr int CHAINS = 16;

template <class Step>
long run(long rounds, float* out, Step step) {
    Vec chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = tvl1::all(i + 1.0f);
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++) chain[i] = step(chain[i]);
    Vec sum{};
    for (int i = 0; i < CHAINS; i++) sum += chain[i];
    *out = sum[0];
    return rounds * CHAINS * LANES;
}

// How many single-precision multiplications were done, and as many additions.
extern "C" long multiply_adds(long rounds, float* out) {
    return run(rounds, out, [](Vec x) { return x * 0.5f + 1.0f; });
}

// How many single-precision 1 / sqrt(x) were done.
extern "C" long inverse_roots(long rounds, float* out) {
    return run(rounds, out, [](Vec x) { return 1.0f / tvl1::square_root(x); });
}
