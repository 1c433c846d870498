// Arithmetic on as many lanes as a register of the processor holds: 16 with AVX-512, else 8.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
// How far ahead of its use a stream is asked for; the processor by itself stops at the end of a page.
enum { AHEAD = 6144 };

#if defined(__AVX512VNNI__)
#define LANES 16
#else
#define LANES 8
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef int16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));
typedef int8_t Signed __attribute__((vector_size(LANES)));

// A value of this type from, or to, any address.
#define load(type, at) (*(struct { type value; } __attribute__((packed, aligned(1), may_alias)) *)(at)).value

// Lanes of a and b by number, b's after a's; `numbers` is the type of as many whole numbers of their size.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(numbers, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(numbers, a, b, ...) __builtin_shuffle(a, b, (numbers){__VA_ARGS__})
#endif

// What compilers make of the plain form is one lane after the other. Where b is not a number, neither is the result.
#if defined(__AVX512VNNI__)
INLINE Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats smaller(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }
INLINE Ints from_int8(const void *at) { return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128(at)); }
INLINE Ints from_int16(const void *at) { return (Ints)_mm512_cvtepi16_epi32(_mm256_loadu_si256(at)); }
INLINE Ints from_uint16(const void *at) { return (Ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256(at)); }
INLINE Ints from_uint8(const void *at) { return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(at)); }
INLINE Signed to_int8(Ints x) { return (Signed)_mm512_cvtepi32_epi8((__m512i)x); }
#elif defined(__AVX2__)
INLINE Floats larger(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE Floats smaller(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm256_cvtps_epi32((__m256)x); }
INLINE Ints from_int8(const void *at) { return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64(at)); }
INLINE Ints from_int16(const void *at) { return (Ints)_mm256_cvtepi16_epi32(_mm_loadu_si128(at)); }
INLINE Ints from_uint16(const void *at) { return (Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(at)); }
INLINE Ints from_uint8(const void *at) { return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(at)); }
INLINE Signed to_int8(Ints x) { return __builtin_convertvector(x, Signed); }
#else
INLINE Floats larger(Floats a, Floats b) {
    for (int i = 0; i < LANES; i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
INLINE Floats smaller(Floats a, Floats b) {
    for (int i = 0; i < LANES; i++)
        a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}
INLINE Ints nearest(Floats x) {
    Ints y;
    for (int i = 0; i < LANES; i++)
        y[i] = (int32_t)__builtin_rintf(x[i]);
    return y;
}
INLINE Ints from_int8(const void *at) { return __builtin_convertvector(load(Signed, at), Ints); }
INLINE Ints from_int16(const void *at) { return __builtin_convertvector(load(Halves, at), Ints); }
INLINE Ints from_uint16(const void *at) { return __builtin_convertvector(load(Shorts, at), Ints); }
INLINE Ints from_uint8(const void *at) { return __builtin_convertvector(load(Bytes, at), Ints); }
INLINE Signed to_int8(Ints x) { return __builtin_convertvector(x, Signed); }
#endif

INLINE Floats all(float x) { return x - (Floats){0}; }
INLINE Floats between(Floats x, float least, float most) { return smaller(all(most), larger(all(least), x)); }
INLINE Floats size_of(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

// x combined with itself in halves, quarters, eighths: every lane then has what all of them give together.
#if LANES == 16
#define FOLD(x, combine)                                                                       \
    x = combine(x, SHUFFLE(Ints, x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)); \
    x = combine(x, SHUFFLE(Ints, x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)); \
    x = combine(x, SHUFFLE(Ints, x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)); \
    x = combine(x, SHUFFLE(Ints, x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#else
#define FOLD(x, combine)                                         \
    x = combine(x, SHUFFLE(Ints, x, x, 4, 5, 6, 7, 0, 1, 2, 3)); \
    x = combine(x, SHUFFLE(Ints, x, x, 2, 3, 0, 1, 6, 7, 4, 5)); \
    x = combine(x, SHUFFLE(Ints, x, x, 1, 0, 3, 2, 5, 4, 7, 6))
#endif
#define PLUS(a, b) ((a) + (b))

INLINE float sum_of(Floats x) {
    FOLD(x, PLUS);
    return x[0];
}
INLINE int32_t sum_of_ints(Ints x) {
    FOLD(x, PLUS);
    return x[0];
}
INLINE float largest_of(Floats x) {
    FOLD(x, larger);
    return x[0];
}

// e^x to about 1e-7 of it: 2^n times a polynomial on what is left.
INLINE Floats exponential(Floats x) {
    x = between(x, -87.0f, 88.0f);
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; // to the nearest whole number
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats s = 1.9875691500e-4f * r + 1.3981999507e-3f;
    s = s * r + 8.3334519073e-3f;
    s = s * r + 4.1665795894e-2f;
    s = s * r + 1.6666665459e-1f;
    s = s * r + 5.0000001201e-1f;
    s = s * r * r + r + 1.0f;
    return s * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}
