// The arithmetic of Clearline's own operations, compiled once for every instruction set (`kernels.c`).
#pragma once
#include <stdint.h>

enum {
    PANEL = 16,    // rows of a matrix that are computed together
    SCALED = 32,   // channels of a cached row with one scale
    MOST_DIM = 512 // the largest head dimension
};

// A quantised matrix [rows, columns] in panels of PANEL rows that lie together.
//     value[n, k] = (code[n, k] - zero[n, g]) scale[n, g]    or    code[n, k] scale[n, g] + bias[n, g]        g = k / group
// Codes: for every panel and every 4 bytes of a row, those 4 bytes of each row in turn. Scales, zeros and biases: [panel, group,
// row]. With 32 bits the codes are floats, [panel, column, row], and there is nothing else; with 16 they are int16 with a scale for
// each group.
typedef struct Matrix {
    int64_t rows, columns, bits, group;
    int narrow; // scales and biases are bfloat16, else float
    const uint8_t *codes;
    const void *scales;
    const uint8_t *zeros; // with 4 bits two a byte, the even row low; NULL: 2^(bits-1)
    const void *biases;   // instead of zeros
} Matrix;

// A vector in 16 bits, every group by its own largest magnitude: x[k] = step[k / group] value[k].
typedef struct Vector {
    int8_t *values; // each kernel's own order
    float *step;
    int32_t *sum; // of a group's values
} Vector;

// One head's keys and values, [slots, dim]; with scales [dim / SCALED, slots] they are int8, else float.
typedef struct Head {
    void *k, *v;
    float *k_scales, *v_scales;
    int64_t slots;
} Head;

// What is done with a product before it is written: y = (W x + bias) factor + residual, each where it is not NULL.
typedef struct After {
    const float *bias, *factor, *residual;
} After;

typedef struct Kernels {
    const char *name; // of the instruction set
    // y = x gain / sqrt(mean(x^2) + eps)
    void (*rms_norm)(const float *x, const float *gain, float eps, int64_t size, float *y);
    // y = (x - mean) gain / sqrt(variance + eps) + shift
    void (*layer_norm)(const float *x, const float *gain, const float *shift, float eps, int64_t size, float *y);
    // y = silu(x[:size]) x[size:], size a multiple of 16
    void (*gate)(const float *x, int64_t size, float *y);
    // y = x where x > 0, else e^x - 1
    void (*elu)(const float *x, int64_t size, float *y);
    // Round x into `memory`, which has vector_bytes(matrix).
    void (*round_vector)(const Matrix *matrix, const float *x, void *memory, Vector *vector);
    // The rows of panels first .. last - 1 of a product with 4- or 8-bit codes, for `count` vectors and as many y. Sums of a group
    // are exact integers, and a row's result depends on nothing but the row.
    void (*product)(const Matrix *matrix, const Vector *x, int64_t count, int64_t first, int64_t last, const After *after,
                    float *y);
    // The same for 16 and 32 bits and vectors as they are, each `step` after the one before it.
    void (*float_product)(const Matrix *matrix, const float *x, int64_t step, int64_t count, int64_t first, int64_t last,
                          const After *after, float *y);
    // y = x with pair i turned by the angle of cos[i] and sin[i]; pairs are (2i, 2i + 1) where interleaved, else (i, dim / 2 + i)
    void (*turn)(const float *x, const float *cos, const float *sin, int64_t dim, int interleaved, float *y);
    // Write one new row of keys and values at `slot`.
    void (*append)(const Head *head, int64_t dim, int64_t slot, const float *k, const float *v);
    // y = softmax(q K^T / sqrt(dim)) V over the first `count` slots. `weights` is room for `count` floats and 15 more.
    void (*attend)(const Head *head, int64_t dim, int64_t count, const float *q, float *weights, float *y);
} Kernels;

static inline int64_t vector_bytes(const Matrix *matrix) {
    return 2 * matrix->columns + 8 * (matrix->columns / matrix->group) + 64;
}
