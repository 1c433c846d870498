// Products of matrices in panels with vectors: rounded to 16 bits where the codes have 4 or 8, as they are where they have 16
// or 32.
#pragma once
#include "kernels.h"
#include "lanes.h"

// A group's largest magnitude in 16 bits: its high byte must fit into int8.
enum { LARGEST = 127 * 256 };

// Sixteen values as `group_sums` wants them. Where 4-bit codes lie two in a byte, low halves are the even columns and high halves
// the odd ones: of every eight values the even four come first. AVX-512 VNNI has products of bytes: 256 high + low, four of each in
// turn.
INLINE void keep(int8_t *at, Ints values, int64_t bits) {
    if (bits == 4)
        values = __builtin_shufflevector(values, values, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
#if defined(__AVX512VNNI__)
    Ints high = (values + 128) >> 8;
    Signed a = (Signed)_mm512_cvtepi32_epi8((__m512i)high), b = (Signed)_mm512_cvtepi32_epi8((__m512i)(values - 256 * high));
    load(Signed, at) = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    load(Signed, at + 16) = __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
#else
    load(Halves, at) = __builtin_convertvector(values, Halves);
#endif
}

static void round_vector(const Matrix *m, const float *x, void *memory, Vector *v) {
    v->values = (int8_t *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    v->step = (float *)(v->values + 2 * m->columns);
    v->sum = (int32_t *)(v->step + m->columns / m->group);
    for (int64_t g = 0; g < m->columns / m->group; g++) {
        const float *xs = x + g * m->group;
        Floats top = {0}, broken = {0};
        for (int64_t k = 0; k < m->group; k += LANES) {
            top = larger(top, size_of(load(Floats, xs + k)));
            broken += load(Floats, xs + k) * 0.0f;
        }
        float largest = largest_of(top);
        // What is not finite makes all of the group NaN, so that it shows.
        v->step[g] = largest / LARGEST + sum_of(broken);
        float inverse = largest > 0 ? LARGEST / largest : 0;
        Ints sums = {0};
        for (int64_t k = 0; k < m->group; k += LANES) {
            Ints values = nearest(between(load(Floats, xs + k) * inverse, -LARGEST, LARGEST));
            keep(v->values + 2 * (g * m->group + k), values, m->bits);
            sums += values;
        }
        v->sum[g] = sum_of_ints(sums);
    }
}

#if defined(__AVX512VNNI__)
INLINE __m512i broadcast(const int8_t *four) {
    int32_t word;
    memcpy(&word, four, 4);
    return _mm512_set1_epi32(word);
}
#endif

// sum_k code[row, k] value[k] over one group, for each row of the panel.
INLINE Ints group_sums(const uint8_t *codes, const int8_t *values, int64_t group, int bits) {
#if defined(__AVX512VNNI__)
    const __m512i half = _mm512_set1_epi8(15);
    __m512i high0 = _mm512_setzero_si512(), high1 = high0, low0 = high0, low1 = high0;
    for (int64_t k = 0; k < group; k += 8, values += 16) {
        __m512i first = _mm512_loadu_si512(codes), second;
        __builtin_prefetch(codes + AHEAD);
        codes += 64;
        if (bits == 4) {
            second = _mm512_and_si512(_mm512_srli_epi16(first, 4), half);
            first = _mm512_and_si512(first, half);
        } else {
            second = _mm512_loadu_si512(codes);
            __builtin_prefetch(codes + AHEAD);
            codes += 64;
        }
        high0 = _mm512_dpbusd_epi32(high0, first, broadcast(values));
        low0 = _mm512_dpbusd_epi32(low0, first, broadcast(values + 4));
        high1 = _mm512_dpbusd_epi32(high1, second, broadcast(values + 8));
        low1 = _mm512_dpbusd_epi32(low1, second, broadcast(values + 12));
    }
    return (Ints)_mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(high0, high1), 8), _mm512_add_epi32(low0, low1));
#elif defined(__AVX2__)
    const __m128i half = _mm_set1_epi8(15);
    __m256i sums[4], rows[2]; // of four rows each, two sums a row
    for (int i = 0; i < 4; i++)
        sums[i] = _mm256_setzero_si256();
    for (int64_t k = 0; k < group; k += 8, values += 16) {
        int64_t words[2];
        memcpy(words, values, 16);
        __m256i even = _mm256_set1_epi64x(words[0]), odd = _mm256_set1_epi64x(words[1]);
        __builtin_prefetch(codes + AHEAD);
        if (bits == 8)
            __builtin_prefetch(codes + AHEAD + 64);
        for (int i = 0; i < 4; i++) {
            __m128i first = _mm_loadu_si128((const __m128i *)codes + i), second;
            if (bits == 4) {
                second = _mm_and_si128(_mm_srli_epi16(first, 4), half);
                first = _mm_and_si128(first, half);
            } else {
                second = _mm_loadu_si128((const __m128i *)codes + 4 + i);
            }
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_cvtepu8_epi16(first), even));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_cvtepu8_epi16(second), odd));
        }
        codes += 16 * bits;
    }
    for (int i = 0; i < 2; i++) // rows 0 1 4 5 2 3 6 7, put in order
        rows[i] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[2 * i], sums[2 * i + 1]), 0xd8);
    Ints all;
    memcpy(&all, rows, sizeof all);
    return all;
#else
    const int16_t *at = (const int16_t *)values;
    Ints all = {0};
    for (int64_t k = 0; k < group; k += 8, at += 8, codes += 16 * bits)
        for (int row = 0; row < PANEL; row++)
            for (int j = 0; j < 4; j++) {
                int32_t byte = codes[4 * row + j];
                all[row] += at[j] * (bits == 4 ? byte & 15 : byte) + at[4 + j] * (bits == 4 ? byte >> 4 : codes[64 + 4 * row + j]);
            }
    return all;
#endif
}

INLINE Ints load_zeros(const uint8_t *zeros, int bits) {
    if (bits == 8)
        return __builtin_convertvector(load(Bytes, zeros), Ints);
#if defined(__AVX512VNNI__)
    // Each of eight bytes once for its even row and once, shifted, for the odd one.
    __m512i pairs = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)zeros)), half = _mm512_set1_epi64(15);
    return (Ints)_mm512_or_si512(_mm512_and_si512(pairs, half), _mm512_slli_epi64(_mm512_srli_epi64(pairs, 4), 32));
#else
    Ints all;
    for (int row = 0; row < PANEL; row++)
        all[row] = row & 1 ? zeros[row / 2] >> 4 : zeros[row / 2] & 15;
    return all;
#endif
}

INLINE Floats load_scales(const void *at, int narrow) {
    if (!narrow)
        return load(Floats, at);
    return (Floats)(__builtin_convertvector(load(Shorts, at), Ints) << 16);
}

INLINE void finish(Floats total, const Matrix *m, const After *after, int64_t panel, int64_t vector, float *y) {
    const int64_t at = panel * PANEL, count = m->rows - at < PANEL ? m->rows - at : PANEL;
    y += vector * m->rows + at;
    const float *residual = after->residual ? after->residual + vector * m->rows + at : NULL;
    if (count == PANEL) {
        if (after->bias)
            total += load(Floats, after->bias + at);
        if (after->factor)
            total *= load(Floats, after->factor + at);
        load(Floats, y) = residual ? total + load(Floats, residual) : total;
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float value = total[i] + (after->bias ? after->bias[at + i] : 0);
        if (after->factor)
            value *= after->factor[at + i];
        y[i] = residual ? value + residual[i] : value;
    }
}

INLINE void panel(const Matrix *m, const Vector *x, int64_t p, int64_t vector, const After *after, float *y, int bits, int narrow,
                  int zeros, int biases) {
    const int64_t groups = m->columns / m->group, code_bytes = m->group * bits / 8 * PANEL, scale_bytes = PANEL * (narrow ? 2 : 4);
    const uint8_t *codes = m->codes + p * groups * code_bytes, *points = m->zeros + p * groups * PANEL * bits / 8;
    const char *scales = (const char *)m->scales + p * groups * scale_bytes,
               *offsets = (const char *)m->biases + p * groups * scale_bytes;
    Floats total = {0};
    for (int64_t g = 0; g < groups; g++) {
        __builtin_prefetch(scales + g * scale_bytes + 1024);
        Ints sums = group_sums(codes + g * code_bytes, x->values + g * m->group * 2, m->group, bits);
        if (zeros)
            sums -= load_zeros(points + g * PANEL * bits / 8, bits) * x->sum[g];
        else if (!biases)
            sums -= x->sum[g] * (bits == 4 ? 8 : 128);
        total += __builtin_convertvector(sums, Floats) * (load_scales(scales + g * scale_bytes, narrow) * x->step[g]);
        if (biases)
            total += load_scales(offsets + g * scale_bytes, narrow) * (x->step[g] * (float)x->sum[g]);
    }
    finish(total, m, after, p, vector, y);
}

INLINE void begin(const Matrix *m, int64_t first) {
    const uint8_t *codes = m->codes + first * PANEL * m->columns * m->bits / 8;
    for (int64_t at = 0; at < AHEAD; at += 64)
        __builtin_prefetch(codes + at);
}

// Each kind of matrix as code of its own. A panel is read once and serves every vector.
#define KIND(BITS, NARROW, ZEROS, BIASES)                                                         \
    if (m->bits == BITS && m->narrow == NARROW && !m->zeros == !ZEROS && !m->biases == !BIASES) { \
        for (int64_t p = first; p < last; p++)                                                    \
            for (int64_t i = 0; i < count; i++)                                                   \
                panel(m, x + i, p, i, after, y, BITS, NARROW, ZEROS, BIASES);                     \
        return;                                                                                   \
    }
#define KINDS(BITS, NARROW) KIND(BITS, NARROW, 0, 0) KIND(BITS, NARROW, 1, 0) KIND(BITS, NARROW, 0, 1)

static void product(const Matrix *m, const Vector *x, int64_t count, int64_t first, int64_t last, const After *after, float *y) {
    begin(m, first);
    KINDS(4, 0)
    KINDS(4, 1)
    KINDS(8, 0)
    KINDS(8, 1)
}

// `count` vectors at once, two sums each: odd and even columns.
INLINE void float_panel(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t p, int64_t vector, const After *after,
                        float *y, int bits) {
    const int64_t columns = m->columns, group = bits == 16 ? m->group : columns;
    const uint8_t *codes = m->codes + p * columns * PANEL * bits / 8;
    const char *scales = (const char *)m->scales + p * (columns / group) * PANEL * 4;
    Floats total[4] = {{0}};
    for (int64_t k = 0; k < columns; k += group, scales += PANEL * 4) {
        Floats sums[4] = {{0}}, others[4] = {{0}};
        for (int64_t e = k; e < k + group; e += 2) {
            Floats even, odd;
            __builtin_prefetch(codes + AHEAD);
            if (bits == 16) {
                even = from_int16(codes);
                odd = from_int16(codes + 32);
                codes += 64;
            } else {
                even = load(Floats, codes);
                odd = load(Floats, codes + 64);
                __builtin_prefetch(codes + AHEAD + 64);
                codes += 128;
            }
            for (int64_t i = 0; i < count; i++) {
                sums[i] += even * x[i * step + e];
                others[i] += odd * x[i * step + e + 1];
            }
        }
        for (int64_t i = 0; i < count; i++)
            total[i] = bits == 16 ? total[i] + (sums[i] + others[i]) * load(Floats, scales) : sums[i] + others[i];
    }
    for (int64_t i = 0; i < count; i++)
        finish(total[i], m, after, p, vector + i, y);
}

INLINE void float_panels(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t first, int64_t last,
                         const After *after, float *y, int bits) {
    for (int64_t p = first; p < last; p++) {
        int64_t i = 0;
        for (; i + 4 <= count; i += 4)
            float_panel(m, x + i * step, step, 4, p, i, after, y, bits);
        for (; i + 2 <= count; i += 2)
            float_panel(m, x + i * step, step, 2, p, i, after, y, bits);
        if (i < count)
            float_panel(m, x + i * step, step, 1, p, i, after, y, bits);
    }
}

static void float_product(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t first, int64_t last,
                          const After *after, float *y) {
    begin(m, first);
    if (m->bits == 16)
        float_panels(m, x, step, count, first, last, after, y, 16);
    else
        float_panels(m, x, step, count, first, last, after, y, 32);
}
