// Arithmetic on sixteen lanes, whatever the registers of the processor hold.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
enum { LANES = 16 };
// How far ahead of its use a stream is asked for; the processor by itself stops at the end of a page.
enum { AHEAD = 6144 };

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef int16_t Halves __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef int8_t Signed __attribute__((vector_size(16)));

#define load(type, at) (*(struct { type value; } __attribute__((packed, aligned(1), may_alias)) *)(at)).value

// x combined with itself in halves, quarters, eighths: every lane then has what all of them give together.
#define FOLD(x, combine)                                                                                 \
    x = combine(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)); \
    x = combine(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)); \
    x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)); \
    x = combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#define PLUS(a, b) ((a) + (b))

// What compilers make of the plain form is one lane after the other. Where b is not a number, neither is the result.
#if defined(__AVX512F__)
INLINE Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats smaller(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }
INLINE Ints from_int8(const int8_t *at) { return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)); }
INLINE Floats from_int16(const void *at) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(at))); }
#elif defined(__AVX2__)
#define HALVES(type, value, of)            \
    type halves[2] = {value(0), value(1)}; \
    return load(of, halves)
#define HALF(x, i) ((__m256 *)&(x))[i]
#define LARGER(i) _mm256_max_ps(HALF(a, i), HALF(b, i))
#define SMALLER(i) _mm256_min_ps(HALF(a, i), HALF(b, i))
#define NEAREST(i) _mm256_cvtps_epi32(HALF(x, i))
#define FROM_INT8(i) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(at + 8 * i)))
#define FROM_INT16(i) _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)at + i)))
INLINE Floats larger(Floats a, Floats b) { HALVES(__m256, LARGER, Floats); }
INLINE Floats smaller(Floats a, Floats b) { HALVES(__m256, SMALLER, Floats); }
INLINE Ints nearest(Floats x) { HALVES(__m256i, NEAREST, Ints); }
INLINE Ints from_int8(const int8_t *at) { HALVES(__m256i, FROM_INT8, Ints); }
INLINE Floats from_int16(const void *at) { HALVES(__m256, FROM_INT16, Floats); }
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
INLINE Ints from_int8(const int8_t *at) { return __builtin_convertvector(load(Signed, at), Ints); }
INLINE Floats from_int16(const void *at) { return __builtin_convertvector(load(Halves, at), Floats); }
#endif

INLINE Floats all(float x) { return (Floats){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE Floats between(Floats x, float least, float most) { return smaller(all(most), larger(all(least), x)); }
INLINE float sum_of(Floats x) {
    FOLD(x, PLUS);
    return x[0];
}
INLINE float largest_of(Floats x) {
    FOLD(x, larger);
    return x[0];
}
INLINE int32_t sum_of_ints(Ints x) {
    FOLD(x, PLUS);
    return x[0];
}
INLINE Floats size_of(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

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
