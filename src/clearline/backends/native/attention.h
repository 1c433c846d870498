// One query over a head's cached rows, in float or in int8 with scales.
#pragma once
#include "kernels.h"
#include "lanes.h"

static void turn(const float *x, const float *cos, const float *sin, int64_t dim, int interleaved, float *y) {
    const int64_t half = dim / 2, next = interleaved ? 1 : half, step = interleaved ? 2 : 1;
    for (int64_t i = 0; i < half; i++) {
        const float re = x[i * step], im = x[i * step + next];
        y[i * step] = re * cos[i] - im * sin[i];
        y[i * step + next] = re * sin[i] + im * cos[i];
    }
}

// int8 codes of a new row, every SCALED channels by their own largest magnitude.
static void append_row(void *array, float *scales, int64_t slots, int64_t dim, int64_t slot, const float *x) {
    if (!scales) {
        memcpy((float *)array + slot * dim, x, (size_t)dim * sizeof *x);
        return;
    }
    int8_t *codes = (int8_t *)array + slot * dim;
    for (int64_t g = 0; g < dim / SCALED; g++, x += SCALED, codes += SCALED) {
        Floats sizes = {0}, zeros = {0};
        for (int i = 0; i < SCALED; i += LANES) {
            sizes = larger(sizes, size_of(load(Floats, x + i)));
            zeros += load(Floats, x + i) * 0.0f;
        }
        float largest = largest_of(sizes), broken = sum_of(zeros);
        scales[g * slots + slot] = largest / 127 + broken;
        float inverse = largest > 0 ? 127 / largest : 0;
        for (int i = 0; i < SCALED; i += LANES) {
            load(Signed, codes + i) = to_int8(nearest(between(load(Floats, x + i) * inverse, -127, 127)));
        }
    }
}

static void append(const Head *head, int64_t dim, int64_t slot, const float *k, const float *v) {
    append_row(head->k, head->k_scales, head->slots, dim, slot, k);
    append_row(head->v, head->v_scales, head->slots, dim, slot, v);
}

// Ask for the line at `offset` of an array of `size` bytes, or of what is read after it.
INLINE void ask(const void *array, int64_t offset, int64_t size, const void *then) {
    ASK((const char *)(offset < size ? array : then) + (offset < size ? offset : offset - size));
}

// weights = e^(weights - the largest), up to the next multiple of LANES; their sum.
INLINE float soften(float *weights, int64_t count) {
    for (int64_t i = count; i % LANES; i++)
        weights[i] = -INFINITY;
    Floats top = all(-INFINITY), sums = {0};
    for (int64_t i = 0; i < count; i += LANES)
        top = larger(top, load(Floats, weights + i));
    const float largest = largest_of(top);
    for (int64_t i = 0; i < count; i += LANES) {
        Floats part = exponential(load(Floats, weights + i) - largest);
        load(Floats, weights + i) = part;
        sums += part;
    }
    return sum_of(sums);
}

INLINE void attend_floats(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y) {
    const float root = 1 / sqrtf((float)dim);
    const int64_t size = count * dim * 4;
    for (int64_t i = 0; i < count; i++) {
        const float *row = (const float *)head->k + i * dim;
        Floats lanes = {0};
        for (int64_t d = 0; d < dim; d += LANES) {
            if (d % 16 == 0)
                ask(head->k, (i * dim + d) * 4 + AHEAD, size, head->v);
            lanes += load(Floats, row + d) * load(Floats, q + d);
        }
        weights[i] = sum_of(lanes) * root;
    }
    const float part = 1 / soften(weights, count), *next = (const float *)head->k + head->slots * dim;
    Floats total[MOST_DIM / LANES] = {{0}};
    for (int64_t i = 0; i < count; i++) {
        const float *row = (const float *)head->v + i * dim;
        for (int64_t d = 0; d < dim; d += LANES) {
            if (d % 16 == 0)
                ask(head->v, (i * dim + d) * 4 + AHEAD, size, next);
            total[d / LANES] += load(Floats, row + d) * weights[i];
        }
    }
    for (int64_t d = 0; d < dim; d += LANES)
        load(Floats, y + d) = total[d / LANES] * part;
}

// `size` values as whole numbers of 16 bits, LANES at a time; what one of them is worth.
INLINE float round_words(const float *x, int64_t size, int16_t *words) {
    Floats top = {0}, broken = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        top = larger(top, size_of(load(Floats, x + i)));
        broken += load(Floats, x + i) * 0.0f;
    }
    const float largest = largest_of(top), inverse = largest > 0 ? 32767 / largest : 0;
    for (int64_t i = 0; i < size; i += LANES)
        load(Halves, words + i) = to_int16(nearest(between(load(Floats, x + i) * inverse, -32767, 32767)));
    return largest / 32767 + sum_of(broken);
}

enum { BLOCK = 32, SCALES_AHEAD = 128 }; // rows of values that are rounded together; rows whose scales are asked for

// total += `rows` rows of values, each as often as its weight says. Of every eight channels the first four are in the low half of
// total's 2 LANES, the others in the high one.
INLINE void add_values(const Head *head, int64_t dim, int64_t count, int64_t first, int64_t rows, const float *weights,
                       float *total) {
    const int64_t groups = dim / SCALED, width = 2 * LANES;
    const int8_t *codes = (const int8_t *)head->v + first * dim, *next = (const int8_t *)head->k + head->slots * dim;
    float counts[MOST_DIM / SCALED][BLOCK];
    int16_t rounded[MOST_DIM / SCALED][BLOCK];
    int64_t ahead = first * dim + AHEAD;
    for (int64_t g = 0; g < groups; g++) {
        const float *scales = head->v_scales + g * head->slots + first;
        for (int64_t r = 0; r < BLOCK; r += 16)
            ASK(scales + SCALES_AHEAD + r);
        for (int64_t r = 0; r < rows; r++)
            counts[g][r] = weights[first + r] * scales[r];
        for (int64_t r = rows; r < BLOCK; r++)
            counts[g][r] = 0;
    }
    const float step = round_words(counts[0], BLOCK * groups, rounded[0]);
    for (int64_t d = 0; d < dim; d += width) {
        const int16_t *often = rounded[d / SCALED];
        Ints low = {0}, high = {0};
        for (int64_t r = 0; r < rows; r += 2, ahead += 2 * width) {
            ask(head->v, ahead, count * dim, next);
            const int8_t *even = codes + r * dim + d, *odd = r + 1 < rows ? even + dim : even;
            const Words two = (Words)(load(int32_t, often + r) - (Ints){0}), a = words_of(even), b = words_of(odd);
            low = add_pairs(low, pairs_low(a, b), two);
            high = add_pairs(high, pairs_high(a, b), two);
        }
        load(Floats, total + d) += __builtin_convertvector(low, Floats) * step;
        load(Floats, total + d + LANES) += __builtin_convertvector(high, Floats) * step;
    }
}

// Over int8 codes: queries, and what a row of values counts for, are rounded to 16 bits, so that their products are exact.
INLINE void attend_codes(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y) {
    const int64_t groups = dim / SCALED, width = 2 * LANES;
    int16_t words[MOST_DIM];
    const float worth = round_words(q, dim, words) / sqrtf((float)dim);
    for (int64_t first = 0; first < count; first += LANES) {
        Floats rows[LANES];
        for (int64_t g = 0; g < groups; g++)
            ask(head->k_scales + g * head->slots, (first + SCALES_AHEAD) * 4, count * 4, head->v_scales + g * head->slots);
        for (int64_t r = 0; r < LANES; r++) {
            const int64_t i = first + r < count ? first + r : count - 1;
            const int8_t *row = (const int8_t *)head->k + i * dim;
            for (int64_t d = 0; d < dim; d += 64)
                ask(head->k, i * dim + d + AHEAD, count * dim, head->v);
            for (int64_t g = 0; g < groups; g++) {
                const int64_t d = g * SCALED;
                Ints sums = pairs(words_of(row + d), load(Words, words + d));
                if (width < SCALED)
                    sums = add_pairs(sums, words_of(row + d + width), load(Words, words + d + width));
                const Floats part = __builtin_convertvector(sums, Floats) * head->k_scales[g * head->slots + i];
                rows[r] = g ? rows[r] + part : part;
            }
        }
        load(Floats, weights + first) = sums_of(rows) * worth;
    }
    const float part = 1 / soften(weights, count);
    float total[MOST_DIM] = {0};
    int64_t first = 0;
    for (; first + BLOCK <= count; first += BLOCK)
        add_values(head, dim, count, first, BLOCK, weights, total);
    if (first < count)
        add_values(head, dim, count, first, count - first, weights, total);
    for (int64_t d = 0; d < dim; d++)
        y[d] = total[d / width * width + d % 8 / 4 * LANES + d % width / 8 * 4 + d % 4] * part;
}

// The usual head dimensions as code of their own, whose sums stay in registers.
#define DIM(DIM_)                                            \
    if (dim == DIM_) {                                       \
        if (head->k_scales)                                  \
            attend_codes(head, DIM_, count, q, weights, y);  \
        else                                                 \
            attend_floats(head, DIM_, count, q, weights, y); \
        return;                                              \
    }

static void attend(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y) {
    DIM(64)
    DIM(128)
    DIM(dim)
}
