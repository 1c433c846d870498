// Arithmetic on as many lanes as a register of the processor holds: 16 with AVX-512, else 8.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
// How far ahead of its use a stream is asked for; the processor by itself stops at the end of a page. Past the second and third
// cache: a step reads more than they hold, and would push out of them all that is used again.
enum { AHEAD = 6144 };
#define ASK(at) __builtin_prefetch(at, 0, 0)

#if defined(__AVX512VNNI__)
#define LANES 16
#else
#define LANES 8
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef int16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int16_t Words __attribute__((vector_size(4 * LANES)));
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
INLINE Ints from_int16(const void *at) { return (Ints)_mm512_cvtepi16_epi32(_mm256_loadu_si256(at)); }
INLINE Ints from_uint16(const void *at) { return (Ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256(at)); }
INLINE Ints from_uint8(const void *at) { return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(at)); }
INLINE Signed to_int8(Ints x) { return (Signed)_mm512_cvtepi32_epi8((__m512i)x); }
INLINE Halves to_int16(Ints x) { return (Halves)_mm512_cvtepi32_epi16((__m512i)x); }
INLINE Words words_of(const void *at) { return (Words)_mm512_cvtepi8_epi16(_mm256_loadu_si256(at)); }
INLINE Ints pairs(Words a, Words b) { return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
INLINE Ints add_pairs(Ints sum, Words a, Words b) { return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b); }
INLINE Words pairs_low(Words a, Words b) { return (Words)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b); }
INLINE Words pairs_high(Words a, Words b) { return (Words)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
INLINE Floats larger(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE Floats smaller(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm256_cvtps_epi32((__m256)x); }
INLINE Ints from_int16(const void *at) { return (Ints)_mm256_cvtepi16_epi32(_mm_loadu_si128(at)); }
INLINE Ints from_uint16(const void *at) { return (Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(at)); }
INLINE Ints from_uint8(const void *at) { return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(at)); }
INLINE Signed to_int8(Ints x) { return __builtin_convertvector(x, Signed); }
INLINE Halves to_int16(Ints x) { return __builtin_convertvector(x, Halves); }
INLINE Words words_of(const void *at) { return (Words)_mm256_cvtepi8_epi16(_mm_loadu_si128(at)); }
INLINE Ints pairs(Words a, Words b) { return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
INLINE Ints add_pairs(Ints sum, Words a, Words b) { return sum + pairs(a, b); }
INLINE Words pairs_low(Words a, Words b) { return (Words)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b); }
INLINE Words pairs_high(Words a, Words b) { return (Words)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b); }
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
INLINE Ints from_int16(const void *at) { return __builtin_convertvector(load(Halves, at), Ints); }
INLINE Ints from_uint16(const void *at) { return __builtin_convertvector(load(Shorts, at), Ints); }
INLINE Ints from_uint8(const void *at) { return __builtin_convertvector(load(Bytes, at), Ints); }
INLINE Signed to_int8(Ints x) { return __builtin_convertvector(x, Signed); }
INLINE Halves to_int16(Ints x) { return __builtin_convertvector(x, Halves); }
INLINE Words words_of(const void *at) {
    Words y;
    for (int i = 0; i < 2 * LANES; i++)
        y[i] = ((const int8_t *)at)[i];
    return y;
}
// a[2i] b[2i] + a[2i + 1] b[2i + 1]
INLINE Ints pairs(Words a, Words b) {
    Ints y;
    for (int i = 0; i < LANES; i++)
        y[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return y;
}
INLINE Ints add_pairs(Ints sum, Words a, Words b) { return sum + pairs(a, b); }
// Of every eight words of a and b the first four, or the last, side by side.
INLINE Words pairs_low(Words a, Words b) {
    Words y;
    for (int i = 0; i < LANES; i++) {
        y[2 * i] = a[i / 4 * 8 + i % 4];
        y[2 * i + 1] = b[i / 4 * 8 + i % 4];
    }
    return y;
}
INLINE Words pairs_high(Words a, Words b) {
    Words y;
    for (int i = 0; i < LANES; i++) {
        y[2 * i] = a[i / 4 * 8 + 4 + i % 4];
        y[2 * i + 1] = b[i / 4 * 8 + 4 + i % 4];
    }
    return y;
}
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

// The sum of each of LANES vectors, in a vector: first inside quarters (or halves) of a register, which is cheaper, then across.
INLINE Floats sums_of(Floats x[LANES]) {
    Floats fours[LANES / 4];
    for (int i = 0; i < LANES; i += 2) {
#if LANES == 16
        x[i] = SHUFFLE(Ints, x[i], x[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
               SHUFFLE(Ints, x[i], x[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
#else
        x[i] = SHUFFLE(Ints, x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(Ints, x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
#endif
    }
    for (int i = 0; i < LANES; i += 4) {
#if LANES == 16
        fours[i / 4] = SHUFFLE(Ints, x[i], x[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                       SHUFFLE(Ints, x[i], x[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
#else
        fours[i / 4] =
            SHUFFLE(Ints, x[i], x[i + 2], 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(Ints, x[i], x[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
#endif
    }
#if LANES == 16
    for (int i = 0; i < 4; i += 2)
        fours[i] = SHUFFLE(Ints, fours[i], fours[i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                   SHUFFLE(Ints, fours[i], fours[i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    return SHUFFLE(Ints, fours[0], fours[2], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(Ints, fours[0], fours[2], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#else
    return SHUFFLE(Ints, fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           SHUFFLE(Ints, fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
#endif
}

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
