// Vectors of LANES neighbouring pixels: AVX-512, AVX, SSE or NEON, by what the machine has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace tvl1 {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IVec __attribute__((vector_size(4 * LANES)));
typedef double DVec __attribute__((vector_size(8 * LANES)));

inline Vec load(const float* p) { Vec v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec all(float x) { return x - Vec{}; }
#if defined(__AVX512F__)
inline Vec smaller(Vec a, Vec b) { return (Vec)_mm512_min_ps((__m512)a, (__m512)b); }
inline Vec larger(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
inline Vec smaller(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
inline Vec larger(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
#else
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
#endif
inline Vec magnitude(Vec a) { return larger(a, -a); }

// {last lane of a, b without its last lane} and {a without its first lane, first lane of b}.
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, IVec{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
inline Vec from_left(Vec a, Vec b) {
    return PICK(a, b, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30);
}
inline Vec from_right(Vec a, Vec b) {
    return PICK(a, b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
}
#elif defined(__AVX__)
inline Vec from_left(Vec a, Vec b) { return PICK(a, b, 7, 8, 9, 10, 11, 12, 13, 14); }
inline Vec from_right(Vec a, Vec b) { return PICK(a, b, 1, 2, 3, 4, 5, 6, 7, 8); }
#else
inline Vec from_left(Vec a, Vec b) { return PICK(a, b, 3, 4, 5, 6); }
inline Vec from_right(Vec a, Vec b) { return PICK(a, b, 1, 2, 3, 4); }
#endif

// Rounded as IEEE 754 says, not estimated: then every processor computes the same bits.
inline Vec square_root(Vec x) {
#if defined(__AVX512F__)
    return (Vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (Vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (Vec)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < LANES; i++) x[i] = std::sqrt(x[i]);
    return x;
#endif
}

// Is a comparison true in any lane?
inline bool any(IVec mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < LANES; i++) found |= mask[i];
    return found != 0;
#endif
}

inline Vec lane_numbers() {
    Vec v;
    for (int i = 0; i < LANES; i++) v[i] = (float)i;
    return v;
}

// Floats that begin at a cache line. Growing throws their values away.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(data); }
    void reserve(size_t count) {
        if (count <= capacity) return;
        std::free(data);
        data = (float*)std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
        capacity = data ? count : 0;
        if (!data) throw std::bad_alloc();
    }
    float* data = nullptr;

private:
    size_t capacity = 0;
};

}  // namespace tvl1
