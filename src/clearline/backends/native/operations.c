// Clearline's operations for ONNX Runtime, in the domain "clearline".
//
//     Product(x, codes, scales?, zeros?, biases?, gain?, shift?, bias?, factor?, residual?) = (prepared(x) W^T + bias) factor +
//     residual
//
// prepared: x; or with a gain x gain / sqrt(mean(x^2) + eps), with a shift too (x - mean) gain / sqrt(variance + eps) + shift; or
// where `gated` silu(first half of x) * second half.
//
//     Embed(id, table, residual?) = table[id] + residual, of id -1 zeros + residual
//
//     Elu(x) = x where x > 0, else e^x - 1
//
//     Attend(q, k, v, ring_k, ring_v, position, k_scales?, v_scales?, cos?, sin?) = softmax(turned(q) K^T / sqrt(dim)) V
//
// It writes the new rows of turned(k) and v into the ring, behind the min(position, capacity) past ones, and attends from each new
// row to all past ones and the new ones up to it. The ring is changed in place: it is no output. turned: pair i of row t by the
// angle of cos[t, i] and sin[t, i]; without them nothing is turned.
#include "kernels.h"
#include "ort.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

extern const Kernels kernels_plain;
#if defined(__x86_64__)
#include "processor.h"
extern const Kernels kernels_avx2, kernels_avx512;
#endif

// The best for this processor, or what CLEARLINE_KERNELS names of it, for tests.
static const Kernels *kernels(void) {
#if defined(__x86_64__)
    const char *wanted = getenv("CLEARLINE_KERNELS");
    if (processor_has_avx512_vnni() && (!wanted || !*wanted || !strcmp(wanted, "avx512")))
        return &kernels_avx512;
    if (processor_has_avx2() && (!wanted || strcmp(wanted, "plain")))
        return &kernels_avx2;
#endif
    return &kernels_plain;
}

#define TRY(call)                    \
    do {                             \
        OrtStatus *status_ = (call); \
        if (status_)                 \
            return status_;          \
    } while (0)

// The data of an input, NULL where it is left out.
static OrtStatus *tensor(const OrtApi *api, const OrtKernelContext *context, size_t index, void *data) {
    const OrtValue *value = NULL;
    *(void **)data = NULL;
    OrtStatus *status = ort_input(api, context, index, &value);
    return status || !value ? status : ort_data(api, (OrtValue *)value, data);
}

// A copy of an operation for as long as its node lives.
static OrtStatus *keep(const OrtApi *api, const void *op, size_t size, void **kernel) {
    if (!(*kernel = malloc(size)))
        return ort_status(api, "no memory for an operation");
    memcpy(*kernel, op, size);
    return NULL;
}

typedef void (*Part)(void *data, size_t first, size_t last);

#if !TEAM
typedef struct Parts {
    Part part;
    void *data;
    size_t count, parts;
} Parts;

static void one_of(void *data, size_t index) {
    const Parts *all = data;
    all->part(all->data, all->count * index / all->parts, all->count * (index + 1) / all->parts);
}
#endif

// part(data, first, last) for units that make up 0 .. count - 1, on at most so many threads, each at least `grain` at a time.
static OrtStatus *shared(const OrtApi *api, const OrtKernelContext *context, Part part, int64_t count, int64_t grain,
                         int64_t threads, void *data) {
    if (threads < 2 || count < 2) {
        part(data, 0, (size_t)count);
        return NULL;
    }
#if TEAM
    (void)api, (void)context;
    team_run(part, (size_t)count, (size_t)grain, (size_t)threads, data);
    return NULL;
#else
    (void)grain;
    Parts all = {part, data, (size_t)count, (size_t)(threads < count ? threads : count)};
    return ort_parallel_for(api, context, one_of, all.parts, 0, &all);
#endif
}

// -- Product ------------------------------------------------------------------------------------------------------------------

typedef struct Product {
    const OrtApi *api;
    const Kernels *kernels;
    Matrix matrix;
    int64_t outer[4], rank; // the shape of y but for its last dimension
    int64_t rows, step;     // from one vector in x to the next: less than the columns where a convolution's windows overlap
    int64_t gated, threads;
    float eps;
} Product;

typedef struct ProductCall {
    const Kernels *kernels;
    const Matrix *matrix;
    const Vector *vectors; // rounded, for codes of 4 and 8 bits
    const float *x;
    const After *after;
    float *y;
    int64_t step, rows, panels;
    int by_rows; // units are ROWS_AT_ONCE rows, not panels
} ProductCall;

// Codes, or multiplications, that are worth a thread; codes that one does before it looks whether another has taken some; rows from
// which on units are rows and not panels.
enum { THREAD_BYTES = 128 * 1024, THREAD_WORK = 1 << 19, GRAIN_BYTES = 48 * 1024, MANY_ROWS = 64, ROWS_AT_ONCE = 4 };

static void product_part(void *data, size_t begin, size_t end_) {
    const ProductCall *call = data;
    const int64_t first = (int64_t)begin, last = (int64_t)end_;
    if (call->vectors) {
        call->kernels->product(call->matrix, call->vectors, call->rows, first, last, call->after, call->y);
    } else if (call->by_rows) {
        const int64_t row = ROWS_AT_ONCE * first, most = ROWS_AT_ONCE * last, end = most < call->rows ? most : call->rows;
        const int64_t at = row * call->matrix->rows;
        After after = *call->after;
        if (after.residual)
            after.residual += at;
        call->kernels->float_product(call->matrix, call->x + row * call->step, call->step, end - row, 0, call->panels, &after,
                                     call->y + at);
    } else {
        call->kernels->float_product(call->matrix, call->x, call->step, call->rows, first, last, call->after, call->y);
    }
}

static OrtStatus *ORT_CALL product_compute(void *kernel, OrtKernelContext *context) {
    const Product *op = kernel;
    const OrtApi *api = op->api;
    const Kernels *run = op->kernels;
    Matrix m = op->matrix;
    After after;
    const float *x, *gain, *shift;
    OrtValue *out;
    float *y;
    void *inputs[] = {&x, &m.codes, &m.scales, &m.zeros, &m.biases, &gain, &shift, &after.bias, &after.factor, &after.residual};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        TRY(tensor(api, context, i, inputs[i]));
    int64_t shape[5];
    memcpy(shape, op->outer, sizeof op->outer);
    shape[op->rank] = m.rows;
    TRY(ort_output(api, context, 0, shape, (size_t)op->rank + 1, &out));
    TRY(ort_data(api, out, (void **)&y));

    const int prepared = gain || op->gated, rounded = m.bits <= 8;
    const int64_t float_bytes = prepared ? op->rows * m.columns * (int64_t)sizeof *x : 0;
    const int64_t each = rounded ? vector_bytes(&m) : 0, vectors_bytes = rounded ? op->rows * (int64_t)sizeof(Vector) : 0;
    char *memory = malloc((size_t)(float_bytes + vectors_bytes + op->rows * each + 1));
    if (!memory)
        return ort_status(api, "no memory for the input of a product");
    float *values = (float *)memory;
    Vector *vectors = rounded ? (Vector *)(memory + float_bytes) : NULL;
    for (int64_t row = 0; row < op->rows; row++) {
        const float *from = x + row * op->step;
        float *to = values + row * m.columns;
        if (gain && shift)
            run->layer_norm(from, gain, shift, op->eps, m.columns, to);
        if (gain && !shift)
            run->rms_norm(from, gain, op->eps, m.columns, to);
        if (op->gated)
            run->gate(from, m.columns, to);
        if (rounded)
            run->round_vector(&m, prepared ? to : from, (char *)(vectors + op->rows) + row * each, vectors + row);
    }
    const int64_t panels = (m.rows + PANEL - 1) / PANEL, bytes = m.rows * m.columns * m.bits / 8;
    const int64_t by_bytes = bytes / THREAD_BYTES, by_work = m.rows * m.columns * op->rows / THREAD_WORK;
    const int by_rows = !rounded && op->rows >= MANY_ROWS;
    int64_t threads = by_bytes > by_work ? by_bytes : by_work;
    threads = threads < op->threads ? threads : op->threads;
    const int64_t count = by_rows ? (op->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE : panels;
    const int64_t grain = by_rows ? MANY_ROWS / ROWS_AT_ONCE : GRAIN_BYTES * panels / (bytes + 1);
    ProductCall call = {run,      &m,     vectors, prepared ? values : x, &after, y, prepared ? m.columns : op->step,
                        op->rows, panels, by_rows};
#if TEAM
    if (op->threads > 1)
        reading(m.codes, (size_t)bytes, (size_t)(threads < 1 ? 1 : threads));
#endif
    OrtStatus *status = shared(api, context, product_part, count, grain, threads, &call);
    free(memory);
    return status;
}

static OrtStatus *ORT_CALL product_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Product op = {.api = api, .kernels = kernels()};
    int64_t narrow;
    size_t rank = 4;
    TRY(ort_attribute_ints(api, info, "outer", op.outer, &rank));
    TRY(ort_attribute_int(api, info, "K", &op.matrix.columns));
    TRY(ort_attribute_int(api, info, "N", &op.matrix.rows));
    TRY(ort_attribute_int(api, info, "bits", &op.matrix.bits));
    TRY(ort_attribute_int(api, info, "group", &op.matrix.group));
    TRY(ort_attribute_int(api, info, "narrow", &narrow));
    TRY(ort_attribute_int(api, info, "gated", &op.gated));
    TRY(ort_attribute_int(api, info, "threads", &op.threads));
    TRY(ort_attribute_int(api, info, "step", &op.step));
    TRY(ort_attribute_float(api, info, "eps", &op.eps));
    op.matrix.narrow = narrow != 0;
    op.rank = (int64_t)rank;
    op.rows = 1;
    for (size_t i = 0; i < rank; i++)
        op.rows *= op.outer[i];
    return keep(api, &op, sizeof op, kernel);
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
    int64_t rows, heads, kv_heads, dim, capacity, interleaved, threads;
} Attend;

typedef struct AttendCall {
    const Attend *op;
    const float *q, *k, *v, *cos, *sin;
    char *ring_k, *ring_v;
    float *k_scales, *v_scales, *weights, *y;
    int64_t slots, past, room;
} AttendCall;

// Row `row` of a head, turned into `room` where there are angles.
static const float *turned(const AttendCall *call, const float *x, int64_t row, float *room) {
    const Attend *op = call->op;
    if (!call->cos)
        return x;
    op->kernels->turn(x, call->cos + row * op->dim / 2, call->sin + row * op->dim / 2, op->dim, op->interleaved != 0, room);
    return room;
}

// One head of the ring, and every query head that reads it.
static void attend_head(const AttendCall *call, int64_t h) {
    const Attend *op = call->op;
    const int64_t queries = op->heads / op->kv_heads, size = call->slots * op->dim;
    const int64_t at = h * size * (call->k_scales ? 1 : 4);
    Head head = {.k = call->ring_k + at, .v = call->ring_v + at, .slots = call->slots};
    if (call->k_scales) {
        head.k_scales = call->k_scales + h * size / SCALED;
        head.v_scales = call->v_scales + h * size / SCALED;
    }
    float *weights = call->weights + h * call->room, room[MOST_DIM];
    for (int64_t row = 0; row < op->rows; row++) {
        const float *k = turned(call, call->k + row * op->k.stride + h * op->dim, row, room);
        op->kernels->append(&head, op->dim, call->past + row, k, call->v + row * op->v.stride + h * op->dim);
        for (int64_t i = h * queries; i < (h + 1) * queries; i++) {
            const float *q = turned(call, call->q + row * op->q.stride + i * op->dim, row, room);
            op->kernels->attend(&head, op->dim, call->past + row + 1, q, weights, call->y + (row * op->heads + i) * op->dim);
        }
    }
}

static void attend_part(void *data, size_t first, size_t last) {
    for (size_t h = first; h < last; h++)
        attend_head(data, (int64_t)h);
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
    TRY(tensor(api, context, 8, &call.cos));
    TRY(tensor(api, context, 9, &call.sin));
    call.q += op->q.start;
    call.k += op->k.start;
    call.v += op->v.start;
    TRY(ort_input(api, context, 3, &ring));
    int64_t ring_shape[4];
    TRY(ort_shape(api, ring, ring_shape, 4));
    call.slots = ring_shape[2];
    call.past = *position < op->capacity ? *position : op->capacity;
    if (*position < 0 || call.past + op->rows > call.slots)
        return ort_status(api, "the ring has no room for the rows of this step");
    int64_t shape[4] = {1, op->rows, op->heads, op->dim};
    TRY(ort_output(api, context, 0, shape, 4, &out));
    TRY(ort_data(api, out, (void **)&call.y));
    call.room = (call.past + op->rows + 15) / 16 * 16;
    if (!(call.weights = malloc((size_t)(call.room * op->kv_heads) * sizeof(float))))
        return ort_status(api, "no memory for attention");
    const int64_t bytes = call.room * op->kv_heads * op->dim * 2 * (call.k_scales ? 1 : 4);
    OrtStatus *status = shared(api, context, attend_part, op->kv_heads, 1, bytes < ATTEND_BYTES ? 1 : op->threads, &call);
    free(call.weights);
    return status;
}

static OrtStatus *ORT_CALL attend_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Attend op = {.api = api, .kernels = kernels()};
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
    TRY(ort_attribute_int(api, info, "interleaved", &op.interleaved));
    TRY(ort_attribute_int(api, info, "threads", &op.threads));
    return keep(api, &op, sizeof op, kernel);
}

// -- Embed --------------------------------------------------------------------------------------------------------------------

typedef struct Embed {
    const OrtApi *api;
    int64_t shape[5], rank, at, rows, count; // of y; where the ids begin; of the table; of ids
} Embed;

static OrtStatus *ORT_CALL embed_compute(void *kernel, OrtKernelContext *context) {
    const Embed *op = kernel;
    const int64_t dim = op->shape[op->rank - 1], *ids;
    const float *table, *residual;
    float *y;
    OrtValue *out;
#if TEAM
    team_wake(); // a step often begins with embeddings: by the first product its helpers are awake
#endif
    TRY(tensor(op->api, context, 0, &ids));
    TRY(tensor(op->api, context, 1, &table));
    TRY(tensor(op->api, context, 2, &residual));
    TRY(ort_output(op->api, context, 0, op->shape, (size_t)op->rank, &out));
    TRY(ort_data(op->api, out, (void **)&y));
    ids += op->at;
    for (int64_t i = 0; i < op->count; i++, y += dim) {
        if (ids[i] < -1 || ids[i] >= op->rows)
            return ort_status(op->api, "an id is neither -1 nor a row of its embedding table");
        if (ids[i] >= 0)
            memcpy(y, table + ids[i] * dim, (size_t)dim * sizeof *y);
        else
            memset(y, 0, (size_t)dim * sizeof *y);
        for (int64_t d = 0; residual && d < dim; d++)
            y[d] += residual[i * dim + d];
    }
    return NULL;
}

static OrtStatus *ORT_CALL embed_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Embed op = {.api = api, .count = 1};
    size_t rank = 5;
    TRY(ort_attribute_ints(api, info, "size", op.shape, &rank));
    TRY(ort_attribute_int(api, info, "at", &op.at));
    TRY(ort_attribute_int(api, info, "rows", &op.rows));
    op.rank = (int64_t)rank;
    for (size_t i = 0; i + 1 < rank; i++)
        op.count *= op.shape[i];
    return keep(api, &op, sizeof op, kernel);
}

// -- Elu ----------------------------------------------------------------------------------------------------------------------

typedef struct Elu {
    const OrtApi *api;
    const Kernels *kernels;
    int64_t shape[4], rank, size, threads;
} Elu;

typedef struct EluCall {
    const Elu *op;
    const float *x;
    float *y;
} EluCall;

enum { ELU_PART = 16 * 1024 };

static void elu_part(void *data, size_t first, size_t last) {
    const EluCall *call = data;
    const int64_t at = (int64_t)first * ELU_PART, end = (int64_t)last * ELU_PART, size = call->op->size;
    call->op->kernels->elu(call->x + at, (end < size ? end : size) - at, call->y + at);
}

static OrtStatus *ORT_CALL elu_compute(void *kernel, OrtKernelContext *context) {
    const Elu *op = kernel;
    EluCall call = {.op = op};
    OrtValue *out;
    TRY(tensor(op->api, context, 0, &call.x));
    TRY(ort_output(op->api, context, 0, op->shape, (size_t)op->rank, &out));
    TRY(ort_data(op->api, out, (void **)&call.y));
    return shared(op->api, context, elu_part, (op->size + ELU_PART - 1) / ELU_PART, 1, op->threads, &call);
}

static OrtStatus *ORT_CALL elu_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Elu op = {.api = api, .kernels = kernels(), .size = 1};
    size_t rank = 4;
    TRY(ort_attribute_ints(api, info, "size", op.shape, &rank));
    TRY(ort_attribute_int(api, info, "threads", &op.threads));
    op.rank = (int64_t)rank;
    for (size_t i = 0; i < rank; i++)
        op.size *= op.shape[i];
    return keep(api, &op, sizeof op, kernel);
}

// -- registration -------------------------------------------------------------------------------------------------------------

typedef struct Operation {
    OrtCustomOp op; // first, so that what ONNX Runtime hands back is the whole
    const char *name;
    size_t inputs, required;
    int types[10];
} Operation;

#define OF(op) ((const Operation *)(op))

static const char *ORT_CALL name(const OrtCustomOp *op) { return OF(op)->name; }
static const char *ORT_CALL provider(const OrtCustomOp *op) { return (void)op, (const char *)NULL; }
static size_t ORT_CALL input_count(const OrtCustomOp *op) { return OF(op)->inputs; }
static int ORT_CALL input_type(const OrtCustomOp *op, size_t i) { return OF(op)->types[i]; }
static int ORT_CALL input_kind(const OrtCustomOp *op, size_t i) { return i < OF(op)->required ? ORT_REQUIRED : ORT_OPTIONAL; }
static int ORT_CALL memory_kind(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static size_t ORT_CALL output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int ORT_CALL output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int ORT_CALL output_kind(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int ORT_CALL version(const OrtCustomOp *op) { return (void)op, 1; }

#define CALLBACKS(CREATE, COMPUTE) \
    {.version = ORT_VERSION,       \
     .name = name,                 \
     .provider = provider,         \
     .input_type = input_type,     \
     .input_count = input_count,   \
     .output_type = output_type,   \
     .output_count = output_count, \
     .destroy = free,              \
     .input_kind = input_kind,     \
     .output_kind = output_kind,   \
     .input_memory = memory_kind,  \
     .create2 = CREATE,            \
     .compute2 = COMPUTE,          \
     .first_version = version,     \
     .last_version = version}

static const Operation OPERATIONS[] = {
    {CALLBACKS(product_create, product_compute),
     "Product",
     10,
     2,
     {ORT_FLOAT, ORT_ANY, ORT_ANY, ORT_UINT8, ORT_ANY, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT}},
    {CALLBACKS(attend_create, attend_compute),
     "Attend",
     10,
     6,
     {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_ANY, ORT_ANY, ORT_INT64, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT}},
    {CALLBACKS(embed_create, embed_compute), "Embed", 3, 2, {ORT_INT64, ORT_FLOAT, ORT_FLOAT}},
    {CALLBACKS(elu_create, elu_compute), "Elu", 1, 1, {ORT_FLOAT}},
};

// What ONNX Runtime calls when the library is registered with a session's options.
ORT_EXPORT OrtStatus *ORT_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->get_api(ORT_VERSION);
    OrtCustomOpDomain *domain;
    TRY(ort_create_domain(api, "clearline", &domain));
    for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++)
        TRY(ort_domain_add(api, domain, &OPERATIONS[i].op));
    return ort_add_domain(api, options, domain);
}

// The instruction set that is used: "avx512", "avx2" or "plain", for which products are not written.
ORT_EXPORT const char *clearline_kernels(void) { return kernels()->name; }
