// One query over a head's cached rows, in float or in int8 with scales.
#pragma once
#include "kernels.h"
#include "lanes.h"

// int8 codes of a new row, every SCALED channels by their own largest magnitude.
static void append_row(void *array, float *scales, int64_t dim, int64_t slot, const float *x) {
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
        scales[slot * (dim / SCALED) + g] = largest / 127 + broken;
        float inverse = largest > 0 ? 127 / largest : 0;
        for (int i = 0; i < SCALED; i += LANES) {
            load(Signed, codes + i) = to_int8(nearest(between(load(Floats, x + i) * inverse, -127, 127)));
        }
    }
}

static void append(const Head *head, int64_t dim, int64_t slot, const float *k, const float *v) {
    append_row(head->k, head->k_scales, dim, slot, k);
    append_row(head->v, head->v_scales, dim, slot, v);
}

// Some values of a cached row.
INLINE Floats some_of(const void *row, int64_t at, int whole) {
    if (whole)
        return load(Floats, (const float *)row + at);
    return __builtin_convertvector(from_int8((const int8_t *)row + at), Floats);
}

INLINE void attend_to(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y, int whole) {
    const int64_t row_bytes = dim * (whole ? 4 : 1), groups = dim / SCALED;
    float largest = -INFINITY, root = 1 / sqrtf((float)dim);
    for (int64_t i = 0; i < count; i++) {
        const char *row = (const char *)head->k + i * row_bytes;
        Floats lanes = {0};
        for (int64_t d = 0; d < dim; d += LANES) {
            if (d * (whole ? 4 : 1) % 64 == 0)
                __builtin_prefetch(row + d * (whole ? 4 : 1) + AHEAD);
            Floats part = some_of(row, d, whole) * load(Floats, q + d);
            lanes += whole ? part : part * head->k_scales[i * groups + d / SCALED];
        }
        weights[i] = sum_of(lanes) * root;
        largest = weights[i] > largest ? weights[i] : largest;
    }
    for (int64_t i = count; i % LANES; i++)
        weights[i] = -INFINITY;
    Floats sums = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        Floats part = exponential(load(Floats, weights + i) - largest);
        load(Floats, weights + i) = part;
        sums += part;
    }
    Floats total[MOST_DIM / LANES] = {{0}};
    for (int64_t i = 0; i < count; i++) {
        const char *row = (const char *)head->v + i * row_bytes;
        for (int64_t d = 0; d < dim; d += LANES) {
            if (d * (whole ? 4 : 1) % 64 == 0)
                __builtin_prefetch(row + d * (whole ? 4 : 1) + AHEAD);
            total[d / LANES] +=
                some_of(row, d, whole) * (whole ? weights[i] : weights[i] * head->v_scales[i * groups + d / SCALED]);
        }
    }
    float part = 1 / sum_of(sums);
    for (int64_t d = 0; d < dim; d++)
        y[d] = total[d / LANES][d % LANES] * part;
}

// The usual head dimensions as code of their own, whose sums stay in registers.
#define DIM(DIM_)                                           \
    if (dim == DIM_) {                                      \
        if (head->k_scales)                                 \
            attend_to(head, DIM_, count, q, weights, y, 0); \
        else                                                \
            attend_to(head, DIM_, count, q, weights, y, 1); \
        return;                                             \
    }

static void attend(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y) {
    DIM(64)
    DIM(128)
    DIM(dim)
}
