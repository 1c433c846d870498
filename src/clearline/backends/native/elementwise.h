// Norms, gate and ELU; what they compute is said in kernels.h.
#pragma once
#include "lanes.h"

static void rms_norm(const float *x, const float *gain, float eps, int64_t size, float *y) {
    Floats squares = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        squares += load(Floats, x + i) * load(Floats, x + i);
    for (int j = 0; i < size; i++, j++)
        squares[j] += x[i] * x[i];
    float factor = 1 / sqrtf(sum_of(squares) / (float)size + eps);
    for (i = 0; i < size; i++)
        y[i] = x[i] * factor * gain[i];
}

static void layer_norm(const float *x, const float *gain, const float *shift, float eps, int64_t size, float *y) {
    Floats sums = {0}, squares = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        sums += load(Floats, x + i);
    for (int j = 0; i < size; i++, j++)
        sums[j] += x[i];
    float mean = sum_of(sums) / (float)size;
    for (i = 0; i + LANES <= size; i += LANES)
        squares += (load(Floats, x + i) - mean) * (load(Floats, x + i) - mean);
    for (int j = 0; i < size; i++, j++)
        squares[j] += (x[i] - mean) * (x[i] - mean);
    float factor = 1 / sqrtf(sum_of(squares) / (float)size + eps);
    for (i = 0; i < size; i++)
        y[i] = (x[i] - mean) * factor * gain[i] + shift[i];
}

static void gate(const float *x, int64_t size, float *y) {
    for (int64_t i = 0; i < size; i += LANES) {
        Floats a = load(Floats, x + i);
        load(Floats, y + i) = a / (1.0f + exponential(-a)) * load(Floats, x + size + i);
    }
}

static void elu(const float *x, int64_t size, float *y) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        Floats a = load(Floats, x + i);
        // e^x - 1 is never below x: with the smaller of x and 0 in it, the larger of the two is the result.
        load(Floats, y + i) = larger(exponential(smaller(all(0), a)) - 1.0f, a);
    }
    if (i == size)
        return;
    float rest[LANES] = {0};
    memcpy(rest, x + i, (size_t)(size - i) * sizeof *x);
    elu(rest, LANES, rest);
    memcpy(y + i, rest, (size_t)(size - i) * sizeof *x);
}
