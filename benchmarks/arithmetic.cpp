// Arithmetic of one core: sixteen independent chains of the widest vectors it has. Compiled as the
// solver is: without contraction of a * b + c, with exact roots and divisions.
#include <cmath>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
constexpr int CHAINS = 16;

template <class Step>
long run(long rounds, float* out, Step step) {
    Vec chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = (i + 1.0f) - Vec{};
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
    return run(rounds, out, [](Vec x) {
        for (int i = 0; i < LANES; i++) x[i] = std::sqrt(x[i]);
        return 1.0f / x;
    });
}
