// Clearline's operations for ONNX Runtime, in the domain "clearline".
//
//     Product(x, codes, scales, zeros?, biases?, gain?, residual?) = residual + prepared(x) W^T
//
// prepared: x, or x gain / sqrt(mean(x^2) + eps), or silu(first half of x) * second half.
//
//     Attend(q, k, v, ring_k, ring_v, position, k_scales?, v_scales?) = softmax(q K^T / sqrt(dim)) V
//
// It writes the new rows of k and v into the ring, behind the min(position, capacity) past ones, and attends from each new row to all
// past ones and the new ones up to it. The ring is changed in place: it is no output.
#include "kernels.h"
#include "ort.h"

#include <stdlib.h>
#include <string.h>

extern const Kernels kernels_plain;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#endif

// The best for this processor, or what CLEARLINE_KERNELS names of it, for tests.
static const Kernels *kernels(void) {
#if defined(__x86_64__)
    const char *wanted = getenv("CLEARLINE_KERNELS");
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && (!wanted || !*wanted)) return &kernels_avx512;
    if (avx2 && (!wanted || strcmp(wanted, "plain"))) return &kernels_avx2;
#endif
    return &kernels_plain;
}

#define TRY(call)                                                                                                                   \
    do {                                                                                                                            \
        OrtStatus *status_ = (call);                                                                                                \
        if (status_) return status_;                                                                                                \
    } while (0)

// The data of an input, NULL where it is left out.
static OrtStatus *tensor(const OrtApi *api, const OrtKernelContext *context, size_t index, void *data) {
    const OrtValue *value = NULL;
    *(void **)data = NULL;
    OrtStatus *status = ort_input(api, context, index, &value);
    return status || !value ? status : ort_data(api, (OrtValue *)value, data);
}

// -- Product ------------------------------------------------------------------------------------------------------------------

typedef struct Product {
    const OrtApi *api;
    const Kernels *kernels;
    Matrix matrix;
    int64_t outer[4], rank; // the shape of x but for its columns
    int64_t rows, gated;
    float eps;
} Product;

typedef struct ProductCall {
    const Kernels *kernels;
    const Matrix *matrix;
    const Vector *vectors;
    const float *residual;
    float *y;
    int64_t rows, panels, parts;
} ProductCall;

// Codes that a thread takes at a time: enough to read ahead in, and few enough that threads end together.
enum { PART_BYTES = 128 * 1024 };

static void product_part(void *data, size_t index) {
    const ProductCall *call = data;
    const Matrix *m = call->matrix;
    int64_t first = call->panels * (int64_t)index / call->parts, last = call->panels * ((int64_t)index + 1) / call->parts;
    if (call->rows == 1) {
        call->kernels->product(m, call->vectors, first, last, call->residual, call->y);
        return;
    }
    for (int64_t p = first; p < last; p++) // a panel is read once and serves every row
        for (int64_t row = 0; row < call->rows; row++) {
            int64_t at = row * m->rows;
            call->kernels->product(m, call->vectors + row, p, p + 1, call->residual ? call->residual + at : NULL, call->y + at);
        }
}

static OrtStatus *ORT_CALL product_compute(void *kernel, OrtKernelContext *context) {
    const Product *op = kernel;
    const OrtApi *api = op->api;
    Matrix m = op->matrix;
    const float *x, *gain, *residual;
    OrtValue *out;
    float *y;
    TRY(tensor(api, context, 0, &x));
    TRY(tensor(api, context, 1, &m.codes));
    TRY(tensor(api, context, 2, &m.scales));
    TRY(tensor(api, context, 3, &m.zeros));
    TRY(tensor(api, context, 4, &m.biases));
    TRY(tensor(api, context, 5, &gain));
    TRY(tensor(api, context, 6, &residual));
    int64_t shape[5];
    memcpy(shape, op->outer, sizeof op->outer);
    shape[op->rank] = m.rows;
    TRY(ort_output(api, context, 0, shape, (size_t)op->rank + 1, &out));
    TRY(ort_data(api, out, (void **)&y));

    const int64_t each = vector_bytes(&m);
    char *memory = malloc((size_t)(op->rows * (each + (int64_t)sizeof(Vector)) + m.columns * (int64_t)sizeof *x));
    if (!memory) return ort_status(api, "no memory for the rounded input of a product");
    float *prepared = (float *)memory;
    Vector *vectors = (Vector *)(prepared + m.columns);
    char *rounded = (char *)(vectors + op->rows);
    for (int64_t row = 0; row < op->rows; row++) {
        const float *values = x + row * m.columns * (op->gated ? 2 : 1);
        if (gain) op->kernels->normalise(values, gain, op->eps, m.columns, prepared);
        if (op->gated) op->kernels->gate(values, m.columns, prepared);
        op->kernels->round_vector(&m, gain || op->gated ? prepared : values, rounded + row * each, vectors + row);
    }
    int64_t panels = (m.rows + PANEL - 1) / PANEL, parts = m.rows * m.columns * m.bits / 8 * op->rows / PART_BYTES;
    parts = parts < 1 ? 1 : parts < panels ? parts : panels;
    ProductCall call = {op->kernels, &m, vectors, residual, y, op->rows, panels, parts};
    OrtStatus *status = NULL;
    if (parts == 1)
        product_part(&call, 0);
    else
        status = ort_parallel_for(api, context, product_part, (size_t)parts, 0, &call);
    free(memory);
    return status;
}

static OrtStatus *ORT_CALL product_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Product op = {.api = api, .kernels = kernels()}, *kept;
    int64_t narrow;
    size_t rank = 4;
    TRY(ort_attribute_ints(api, info, "outer", op.outer, &rank));
    TRY(ort_attribute_int(api, info, "K", &op.matrix.columns));
    TRY(ort_attribute_int(api, info, "N", &op.matrix.rows));
    TRY(ort_attribute_int(api, info, "bits", &op.matrix.bits));
    TRY(ort_attribute_int(api, info, "group", &op.matrix.group));
    TRY(ort_attribute_int(api, info, "narrow", &narrow));
    TRY(ort_attribute_int(api, info, "gated", &op.gated));
    TRY(ort_attribute_float(api, info, "eps", &op.eps));
    op.matrix.narrow = narrow != 0;
    op.rank = (int64_t)rank;
    op.rows = 1;
    for (size_t i = 0; i < rank; i++) op.rows *= op.outer[i];
    if (!(kept = malloc(sizeof op))) return ort_status(api, "no memory for a product");
    *kept = op;
    *kernel = kept;
    return NULL;
}

// -- Attend -------------------------------------------------------------------------------------------------------------------

// Where the rows of q, k or v lie in their input: heads side by side from `start` on, a row every `stride`.
typedef struct Rows {
    int64_t start, stride;
} Rows;

typedef struct Attend {
    const OrtApi *api;
    const Kernels *kernels;
    Rows q, k, v;
    int64_t rows, heads, kv_heads, dim, capacity;
} Attend;

typedef struct AttendCall {
    const Attend *op;
    const float *q, *k, *v;
    char *ring_k, *ring_v;
    float *k_scales, *v_scales, *weights, *y;
    int64_t slots, past, room;
} AttendCall;

// One head of the ring, and every query head that reads it.
static void attend_part(void *data, size_t index) {
    const AttendCall *call = data;
    const Attend *op = call->op;
    const int64_t h = (int64_t)index, queries = op->heads / op->kv_heads, size = call->slots * op->dim;
    Head head = {call->ring_k + h * size * (call->k_scales ? 1 : 4), call->ring_v + h * size * (call->k_scales ? 1 : 4), NULL, NULL};
    if (call->k_scales) {
        head.k_scales = call->k_scales + h * size / SCALED;
        head.v_scales = call->v_scales + h * size / SCALED;
    }
    float *weights = call->weights + h * call->room;
    for (int64_t row = 0; row < op->rows; row++) {
        op->kernels->append(&head, op->dim, call->past + row, call->k + row * op->k.stride + h * op->dim,
                            call->v + row * op->v.stride + h * op->dim);
        for (int64_t i = h * queries; i < (h + 1) * queries; i++)
            op->kernels->attend(&head, op->dim, call->past + row + 1, call->q + row * op->q.stride + i * op->dim, weights,
                                call->y + (row * op->heads + i) * op->dim);
    }
}

// Keys and values that are worth a second thread.
enum { ATTEND_BYTES = 64 * 1024 };

static OrtStatus *ORT_CALL attend_compute(void *kernel, OrtKernelContext *context) {
    const Attend *op = kernel;
    const OrtApi *api = op->api;
    AttendCall call = {.op = op};
    const OrtValue *ring;
    OrtValue *out;
    const int64_t *position;
    TRY(tensor(api, context, 0, &call.q));
    TRY(tensor(api, context, 1, &call.k));
    TRY(tensor(api, context, 2, &call.v));
    TRY(tensor(api, context, 3, &call.ring_k));
    TRY(tensor(api, context, 4, &call.ring_v));
    TRY(tensor(api, context, 5, &position));
    TRY(tensor(api, context, 6, &call.k_scales));
    TRY(tensor(api, context, 7, &call.v_scales));
    call.q += op->q.start;
    call.k += op->k.start;
    call.v += op->v.start;
    TRY(ort_input(api, context, 3, &ring));
    int64_t ring_shape[4];
    TRY(ort_shape(api, ring, ring_shape, 4));
    call.slots = ring_shape[2];
    call.past = *position < op->capacity ? *position : op->capacity;
    if (*position < 0 || call.past + op->rows > call.slots) return ort_status(api, "the ring has no room for the rows of this step");
    int64_t shape[4] = {1, op->rows, op->heads, op->dim};
    TRY(ort_output(api, context, 0, shape, 4, &out));
    TRY(ort_data(api, out, (void **)&call.y));
    call.room = (call.past + op->rows + 15) / 16 * 16;
    if (!(call.weights = malloc((size_t)(call.room * op->kv_heads) * sizeof(float)))) return ort_status(api, "no memory for attention");
    OrtStatus *status = NULL;
    if (call.room * op->kv_heads * op->dim * 2 * (call.k_scales ? 1 : 4) < ATTEND_BYTES)
        for (int64_t h = 0; h < op->kv_heads; h++) attend_part(&call, (size_t)h);
    else
        status = ort_parallel_for(api, context, attend_part, (size_t)op->kv_heads, 0, &call);
    free(call.weights);
    return status;
}

static OrtStatus *ORT_CALL attend_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Attend op = {.api = api, .kernels = kernels()}, *kept;
    size_t six = 6;
    int64_t at[6];
    TRY(ort_attribute_ints(api, info, "at", at, &six));
    op.q = (Rows){at[0], at[1]};
    op.k = (Rows){at[2], at[3]};
    op.v = (Rows){at[4], at[5]};
    TRY(ort_attribute_int(api, info, "rows", &op.rows));
    TRY(ort_attribute_int(api, info, "heads", &op.heads));
    TRY(ort_attribute_int(api, info, "kv_heads", &op.kv_heads));
    TRY(ort_attribute_int(api, info, "dim", &op.dim));
    TRY(ort_attribute_int(api, info, "capacity", &op.capacity));
    if (!(kept = malloc(sizeof op))) return ort_status(api, "no memory for attention");
    *kept = op;
    *kernel = kept;
    return NULL;
}

// -- registration -------------------------------------------------------------------------------------------------------------

static const int PRODUCT_INPUTS[] = {ORT_FLOAT, ORT_UINT8, ORT_ANY, ORT_UINT8, ORT_ANY, ORT_FLOAT, ORT_FLOAT};
static const int ATTEND_INPUTS[] = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_ANY, ORT_ANY, ORT_INT64, ORT_FLOAT, ORT_FLOAT};
static const OrtCustomOp PRODUCT, ATTEND;

static const char *ORT_CALL name(const OrtCustomOp *op) { return op == &PRODUCT ? "Product" : "Attend"; }
static const char *ORT_CALL provider(const OrtCustomOp *op) { return (void)op, (const char *)NULL; }
static size_t ORT_CALL input_count(const OrtCustomOp *op) { return op == &PRODUCT ? 7 : 8; }
static int ORT_CALL input_type(const OrtCustomOp *op, size_t i) { return op == &PRODUCT ? PRODUCT_INPUTS[i] : ATTEND_INPUTS[i]; }
static int ORT_CALL input_kind(const OrtCustomOp *op, size_t i) { return i < (op == &PRODUCT ? 3 : 6) ? ORT_REQUIRED : ORT_OPTIONAL; }
static int ORT_CALL memory_kind(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static size_t ORT_CALL output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int ORT_CALL output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int ORT_CALL output_kind(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int ORT_CALL version(const OrtCustomOp *op) { return (void)op, 1; }

#define OPERATION(CREATE, COMPUTE)                                                                                                  \
    {.version = ORT_VERSION, .name = name, .provider = provider, .input_type = input_type, .input_count = input_count,             \
     .output_type = output_type, .output_count = output_count, .destroy = free, .input_kind = input_kind,                          \
     .output_kind = output_kind, .input_memory = memory_kind, .create2 = CREATE, .compute2 = COMPUTE,                              \
     .first_version = version, .last_version = version}

static const OrtCustomOp PRODUCT = OPERATION(product_create, product_compute);
static const OrtCustomOp ATTEND = OPERATION(attend_create, attend_compute);

// What ONNX Runtime calls when the library is registered with a session's options.
ORT_EXPORT OrtStatus *ORT_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->get_api(ORT_VERSION);
    OrtCustomOpDomain *domain;
    TRY(ort_create_domain(api, "clearline", &domain));
    TRY(ort_domain_add(api, domain, &PRODUCT));
    TRY(ort_domain_add(api, domain, &ATTEND));
    return ort_add_domain(api, options, domain);
}

// The instruction set that is used: "avx512", "avx2" or "plain", for which products are not written.
ORT_EXPORT const char *clearline_kernels(void) { return kernels()->name; }
