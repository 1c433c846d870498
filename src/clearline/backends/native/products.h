// Products of matrices in panels with vectors: rounded to 16 bits where the codes have 4 or 8, as they are where they have 16
// or 32.
#pragma once
#include "kernels.h"
#include "lanes.h"

// A group's largest magnitude in 16 bits: its high byte must fit into int8.
enum { LARGEST = 127 * 256 };

// LANES values as `group_sums` wants them. Where 4-bit codes lie two in a byte, low halves are the even columns and high halves the
// odd ones: of every eight values the even four come first. AVX-512 VNNI has products of bytes: 256 high + low, four of each in
// turn.
INLINE void keep(int8_t *at, Ints values, int64_t bits) {
#if LANES == 16
    if (bits == 4)
        values = SHUFFLE(Ints, values, values, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    Ints high = (values + 128) >> 8;
    Signed a = to_int8(high), b = to_int8(values - 256 * high);
    load(Signed, at) = SHUFFLE(Signed, a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    load(Signed, at + 16) = SHUFFLE(Signed, a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
#else
    if (bits == 4)
        values = SHUFFLE(Ints, values, values, 0, 2, 4, 6, 1, 3, 5, 7);
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

enum { PARTS = PANEL / LANES }; // registers that hold a number for every row of a panel

// sum_k code[row, k] value[k] over one group, for each row of the panel.
INLINE void group_sums(const uint8_t *codes, const int8_t *values, int64_t group, int bits, Ints sums[PARTS]) {
#if LANES == 16
    const __m512i half = _mm512_set1_epi8(15);
    __m512i high0 = _mm512_setzero_si512(), high1 = high0, low0 = high0, low1 = high0;
    for (int64_t k = 0; k < group; k += 8, values += 16) {
        __m512i first = _mm512_loadu_si512(codes), second;
        ASK(codes + AHEAD);
        codes += 64;
        if (bits == 4) {
            second = _mm512_and_si512(_mm512_srli_epi16(first, 4), half);
            first = _mm512_and_si512(first, half);
        } else {
            second = _mm512_loadu_si512(codes);
            ASK(codes + AHEAD);
            codes += 64;
        }
        high0 = _mm512_dpbusd_epi32(high0, first, broadcast(values));
        low0 = _mm512_dpbusd_epi32(low0, first, broadcast(values + 4));
        high1 = _mm512_dpbusd_epi32(high1, second, broadcast(values + 8));
        low1 = _mm512_dpbusd_epi32(low1, second, broadcast(values + 12));
    }
    sums[0] = (Ints)_mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(high0, high1), 8), _mm512_add_epi32(low0, low1));
#elif defined(__AVX2__)
    const __m128i half = _mm_set1_epi8(15);
    __m256i quarters[4]; // of four rows each, two sums a row
    for (int i = 0; i < 4; i++)
        quarters[i] = _mm256_setzero_si256();
    for (int64_t k = 0; k < group; k += 8, values += 16) {
        int64_t words[2];
        memcpy(words, values, 16);
        __m256i even = _mm256_set1_epi64x(words[0]), odd = _mm256_set1_epi64x(words[1]);
        ASK(codes + AHEAD);
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
            quarters[i] = _mm256_add_epi32(quarters[i], _mm256_madd_epi16(_mm256_cvtepu8_epi16(first), even));
            quarters[i] = _mm256_add_epi32(quarters[i], _mm256_madd_epi16(_mm256_cvtepu8_epi16(second), odd));
        }
        codes += 16 * bits;
    }
    for (int i = 0; i < 2; i++) // rows 0 1 4 5 2 3 6 7, put in order
        sums[i] = (Ints)_mm256_permute4x64_epi64(_mm256_hadd_epi32(quarters[2 * i], quarters[2 * i + 1]), 0xd8);
#else
    const int16_t *at = (const int16_t *)values;
    memset(sums, 0, PARTS * sizeof *sums);
    for (int64_t k = 0; k < group; k += 8, at += 8, codes += 16 * bits)
        for (int row = 0; row < PANEL; row++)
            for (int j = 0; j < 4; j++) {
                int32_t byte = codes[4 * row + j], second = bits == 4 ? byte >> 4 : codes[64 + 4 * row + j];
                sums[row / LANES][row % LANES] += at[j] * (bits == 4 ? byte & 15 : byte) + at[4 + j] * second;
            }
#endif
}

// Part `part` of the zeros of a panel's rows.
INLINE Ints load_zeros(const uint8_t *zeros, int part, int bits) {
    if (bits == 8)
        return from_uint8(zeros + part * LANES);
#if LANES == 16
    // Each of eight bytes once for its even row and once, shifted, for the odd one.
    __m512i pairs = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)zeros)), half = _mm512_set1_epi64(15);
    return (Ints)_mm512_or_si512(_mm512_and_si512(pairs, half), _mm512_slli_epi64(_mm512_srli_epi64(pairs, 4), 32));
#elif defined(__AVX2__)
    int32_t four;
    memcpy(&four, zeros + part * LANES / 2, 4);
    __m256i pairs = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four)), half = _mm256_set1_epi64x(15);
    return (Ints)_mm256_or_si256(_mm256_and_si256(pairs, half), _mm256_slli_epi64(_mm256_srli_epi64(pairs, 4), 32));
#else
    Ints some;
    for (int row = 0; row < LANES; row++)
        some[row] = zeros[(part * LANES + row) / 2] >> (row & 1 ? 4 : 0) & 15;
    return some;
#endif
}

INLINE Floats load_scales(const void *at, int part, int narrow) {
    if (!narrow)
        return load(Floats, (const float *)at + part * LANES);
    return (Floats)(from_uint16((const uint16_t *)at + part * LANES) << 16);
}

// y = (total + bias) factor + residual for the rows of one panel.
INLINE void finish(const Floats total[PARTS], const Matrix *m, const After *after, int64_t panel, int64_t vector, float *y) {
    const int64_t at = panel * PANEL, count = m->rows - at < PANEL ? m->rows - at : PANEL;
    y += vector * m->rows + at;
    const float *residual = after->residual ? after->residual + vector * m->rows + at : NULL;
    if (count == PANEL) {
        for (int part = 0; part < PARTS; part++) {
            const int64_t lane = part * LANES;
            Floats value = total[part];
            if (after->bias)
                value += load(Floats, after->bias + at + lane);
            if (after->factor)
                value *= load(Floats, after->factor + at + lane);
            load(Floats, y + lane) = residual ? value + load(Floats, residual + lane) : value;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float value = total[i / LANES][i % LANES] + (after->bias ? after->bias[at + i] : 0);
        if (after->factor)
            value *= after->factor[at + i];
        y[i] = residual ? value + residual[i] : value;
    }
}

INLINE void panel(const Matrix *m, const Vector *x, int64_t p, int64_t vector, const After *after, float *y, int bits, int narrow,
                  int zeros, int biases, int64_t group) {
    const int64_t groups = m->columns / group, code_bytes = group * bits / 8 * PANEL, scale_bytes = PANEL * (narrow ? 2 : 4);
    const uint8_t *codes = m->codes + p * groups * code_bytes, *points = m->zeros + p * groups * PANEL * bits / 8;
    const char *scales = (const char *)m->scales + p * groups * scale_bytes;
    const char *offsets = (const char *)m->biases + p * groups * scale_bytes;
    Floats total[PARTS] = {{0}};
    for (int64_t g = 0; g < groups; g++) {
        Ints sums[PARTS];
        __builtin_prefetch(scales + g * scale_bytes + 1024);
        group_sums(codes + g * code_bytes, x->values + g * group * 2, group, bits, sums);
        for (int part = 0; part < PARTS; part++) {
            if (zeros)
                sums[part] -= load_zeros(points + g * PANEL * bits / 8, part, bits) * x->sum[g];
            else if (!biases)
                sums[part] -= x->sum[g] * (bits == 4 ? 8 : 128);
            Floats scale = load_scales(scales + g * scale_bytes, part, narrow);
            total[part] += __builtin_convertvector(sums[part], Floats) * (scale * x->step[g]);
            if (biases)
                total[part] += load_scales(offsets + g * scale_bytes, part, narrow) * (x->step[g] * (float)x->sum[g]);
        }
    }
    finish(total, m, after, p, vector, y);
}

INLINE void begin(const Matrix *m, int64_t first) {
    const uint8_t *codes = m->codes + first * PANEL * m->columns * m->bits / 8;
    for (int64_t at = 0; at < AHEAD; at += 64)
        ASK(codes + at);
}

// Each kind of matrix as code of its own, and the usual group too. A panel is read once and serves every vector.
#define EACH_PANEL(BITS, NARROW, ZEROS, BIASES, GROUP) \
    for (int64_t p = first; p < last; p++)             \
        for (int64_t i = 0; i < count; i++)            \
            panel(m, x + i, p, i, after, y, BITS, NARROW, ZEROS, BIASES, GROUP);
#define KIND(BITS, NARROW, ZEROS, BIASES)                                                         \
    if (m->bits == BITS && m->narrow == NARROW && !m->zeros == !ZEROS && !m->biases == !BIASES) { \
        if (m->group == 32) {                                                                     \
            EACH_PANEL(BITS, NARROW, ZEROS, BIASES, 32)                                           \
        } else {                                                                                  \
            EACH_PANEL(BITS, NARROW, ZEROS, BIASES, m->group)                                     \
        }                                                                                         \
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

// Vectors and panels at once, as many as leave room for their sums in registers: fewer loads for every product.
enum { VECTORS = LANES == 16 ? 4 : 2, PANELS = LANES == 16 ? 2 : 1 };

INLINE void float_panel(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t p, int64_t panels, int64_t vector,
                        const After *after, float *y, int bits, int64_t group) {
    const int64_t columns = m->columns, panel_bytes = columns * PANEL * bits / 8;
    const uint8_t *codes = m->codes + p * panel_bytes;
    const float *scales = (const float *)m->scales + p * (columns / group) * PANEL;
    Floats total[PANELS][VECTORS][PARTS] = {{{{0}}}};
    for (int64_t k = 0; k < columns; k += group, scales += PANEL) {
        Floats sums[PANELS][VECTORS][PARTS] = {{{{0}}}}, others[PANELS][VECTORS][PARTS] = {{{{0}}}}; // of even and of odd columns
        for (int64_t e = k; e < k + group; e += 2, codes += PANEL * bits / 4) {
            for (int64_t q = 0; q < panels; q++) {
                ASK(codes + q * panel_bytes + AHEAD);
                if (bits == 32)
                    ASK(codes + q * panel_bytes + AHEAD + 64);
                for (int part = 0; part < PARTS; part++) {
                    const uint8_t *even = codes + q * panel_bytes + part * LANES * bits / 8, *odd = even + PANEL * bits / 8;
                    Floats a = bits == 16 ? __builtin_convertvector(from_int16(even), Floats) : load(Floats, even);
                    Floats b = bits == 16 ? __builtin_convertvector(from_int16(odd), Floats) : load(Floats, odd);
                    for (int64_t i = 0; i < count; i++) {
                        sums[q][i][part] += a * x[i * step + e];
                        others[q][i][part] += b * x[i * step + e + 1];
                    }
                }
            }
        }
        for (int64_t q = 0; q < panels; q++)
            for (int64_t i = 0; i < count; i++)
                for (int part = 0; part < PARTS; part++) {
                    Floats sum = sums[q][i][part] + others[q][i][part];
                    const float *scale = scales + q * (columns / group) * PANEL + part * LANES;
                    total[q][i][part] = bits == 16 ? total[q][i][part] + sum * load(Floats, scale) : sum;
                }
    }
    for (int64_t q = 0; q < panels; q++)
        for (int64_t i = 0; i < count; i++)
            finish(total[q][i], m, after, p + q, vector + i, y);
}

INLINE void float_panels(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t first, int64_t last,
                         const After *after, float *y, int bits, int64_t group) {
    for (int64_t p = first; p < last;) {
        const int64_t panels = count >= VECTORS && last - p >= PANELS ? PANELS : 1;
        int64_t i = 0;
        for (; i + VECTORS <= count; i += VECTORS)
            if (panels == PANELS)
                float_panel(m, x + i * step, step, VECTORS, p, PANELS, i, after, y, bits, group);
            else
                float_panel(m, x + i * step, step, VECTORS, p, 1, i, after, y, bits, group);
        for (int64_t q = p; q < p + panels; q++) {
            int64_t r = i;
            if (VECTORS > 2 && r + 2 <= count) {
                float_panel(m, x + r * step, step, 2, q, 1, r, after, y, bits, group);
                r += 2;
            }
            if (r < count)
                float_panel(m, x + r * step, step, 1, q, 1, r, after, y, bits, group);
        }
        p += panels;
    }
}

static void float_product(const Matrix *m, const float *x, int64_t step, int64_t count, int64_t first, int64_t last,
                          const After *after, float *y) {
    begin(m, first);
    if (m->bits == 16 && m->group == 32)
        float_panels(m, x, step, count, first, last, after, y, 16, 32);
    else if (m->bits == 16)
        float_panels(m, x, step, count, first, last, after, y, 16, m->group);
    else
        float_panels(m, x, step, count, first, last, after, y, 32, m->columns);
}
