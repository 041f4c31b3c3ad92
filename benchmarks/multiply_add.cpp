// Multiply-adds of one core: sixteen independent chains of the widest vectors it has. Returns
// how many single-precision multiply-adds were done.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));

extern "C" long multiply_adds(long rounds, float* out) {
    constexpr int CHAINS = 16;
    Vec chain[CHAINS];
    for (int i = 0; i < CHAINS; i++) chain[i] = (float)i - Vec{};
    const Vec factor = 0.5f - Vec{}, term = 1.0f - Vec{};
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + term;
    Vec sum{};
    for (int i = 0; i < CHAINS; i++) sum += chain[i];
    *out = sum[0];
    return rounds * CHAINS * LANES;
}
