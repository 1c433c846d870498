// Clearline's operations for ONNX Runtime, in the domain "clearline": one node is a chain of them, one after the other.
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

// What every operation of a chain is run with.
typedef struct Run {
    const OrtApi *api;
    const OrtKernelContext *context;
    const Kernels *kernels;
    int64_t threads;
    char *room; // for what an operation needs until it is done: as much as the neediest of the chain says
} Run;

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
static OrtStatus *shared(const Run *run, Part part, int64_t count, int64_t grain, int64_t threads, void *data) {
    if (threads < 2 || count < 2) {
        part(data, 0, (size_t)count);
        return NULL;
    }
#if TEAM
    (void)run;
    team_run(part, (size_t)count, (size_t)grain, (size_t)threads, data);
    return NULL;
#else
    (void)grain;
    Parts all = {part, data, (size_t)count, (size_t)(threads < count ? threads : count)};
    return ort_parallel_for(run->api, run->context, one_of, all.parts, 0, &all);
#endif
}

// Each operation is a record of whole numbers, as `onnx_chain.py` writes them, and two functions: the room it
// needs, and what it does with its operands (NULL where one is left out).

// -- Product ------------------------------------------------------------------------------------------------------------------

typedef struct Product {
    int64_t columns, outputs, bits, group, narrow; // of the matrix
    int64_t rows, step; // vectors in x, from one to the next: less than the columns where a convolution's windows overlap
    int64_t gated, eps; // a float's bits
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

static Matrix product_matrix(const Product *op) {
    return (Matrix){.rows = op->outputs, .columns = op->columns, .bits = op->bits, .group = op->group, .narrow = op->narrow != 0};
}

// Of prepared values, and of rounded vectors.
static int64_t product_room(const void *of) {
    const Product *op = of;
    const Matrix m = product_matrix(op);
    return op->rows * (m.columns * (int64_t)sizeof(float) + (m.bits <= 8 ? vector_bytes(&m) + (int64_t)sizeof(Vector) : 0));
}

static OrtStatus *product_run(const Run *run, const void *of, void *const *operands, float *y) {
    const Product *op = of;
    const Kernels *kernels = run->kernels;
    Matrix m = product_matrix(op);
    m.codes = operands[1];
    m.scales = operands[2];
    m.zeros = operands[3];
    m.biases = operands[4];
    const float *x = operands[0], *gain = operands[5], *shift = operands[6];
    const After after = {operands[7], operands[8], operands[9]};
    float eps;
    memcpy(&eps, &op->eps, sizeof eps);

    const int prepared = gain || op->gated, rounded = m.bits <= 8;
    float *values = (float *)run->room;
    Vector *vectors = rounded ? (Vector *)(values + op->rows * m.columns) : NULL;
    for (int64_t row = 0; row < op->rows; row++) {
        const float *from = x + row * op->step;
        float *to = values + row * m.columns;
        if (gain && shift)
            kernels->layer_norm(from, gain, shift, eps, m.columns, to);
        if (gain && !shift)
            kernels->rms_norm(from, gain, eps, m.columns, to);
        if (op->gated)
            kernels->gate(from, m.columns, to);
        if (rounded)
            kernels->round_vector(&m, prepared ? to : from, (char *)(vectors + op->rows) + row * vector_bytes(&m), vectors + row);
    }
    const int64_t panels = (m.rows + PANEL - 1) / PANEL, bytes = m.rows * m.columns * m.bits / 8;
    const int64_t by_bytes = bytes / THREAD_BYTES, by_work = m.rows * m.columns * op->rows / THREAD_WORK;
    const int by_rows = !rounded && op->rows >= MANY_ROWS;
    int64_t threads = by_bytes > by_work ? by_bytes : by_work;
    threads = threads < run->threads ? threads : run->threads;
    const int64_t count = by_rows ? (op->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE : panels;
    const int64_t grain = by_rows ? MANY_ROWS / ROWS_AT_ONCE : GRAIN_BYTES * panels / (bytes + 1);
    ProductCall call = {kernels,  &m,     vectors, prepared ? values : x, &after, y, prepared ? m.columns : op->step,
                        op->rows, panels, by_rows};
#if TEAM
    if (run->threads > 1)
        reading(m.codes, (size_t)bytes, (size_t)(threads < 1 ? 1 : threads));
#endif
    return shared(run, product_part, count, grain, threads, &call);
}

// -- Attend -------------------------------------------------------------------------------------------------------------------

// Where the rows of q, k or v lie in their operand: heads side by side from `start` on, a row every `stride`.
typedef struct Rows {
    int64_t start, stride;
} Rows;

typedef struct Attend {
    Rows q, k, v;
    int64_t rows, heads, kv_heads, dim, capacity, interleaved;
} Attend;

typedef struct AttendCall {
    const Attend *op;
    const Kernels *kernels;
    const float *q, *k, *v, *cos, *sin;
    char *ring_k, *ring_v;
    float *k_scales, *v_scales, *weights, *y;
    int64_t slots, past;
} AttendCall;

// Floats that the weights of one head take at most.
static int64_t attend_weights(const Attend *op) { return (op->capacity + op->rows + 15) / 16 * 16; }

static int64_t attend_room(const void *of) {
    const Attend *op = of;
    return attend_weights(op) * op->kv_heads * (int64_t)sizeof(float);
}

// Row `row` of a head, turned into `room` where there are angles.
static const float *turned(const AttendCall *call, const float *x, int64_t row, float *room) {
    const Attend *op = call->op;
    if (!call->cos)
        return x;
    call->kernels->turn(x, call->cos + row * op->dim / 2, call->sin + row * op->dim / 2, op->dim, op->interleaved != 0, room);
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
    float *weights = call->weights + h * attend_weights(op), room[MOST_DIM];
    for (int64_t row = 0; row < op->rows; row++) {
        const float *k = turned(call, call->k + row * op->k.stride + h * op->dim, row, room);
        call->kernels->append(&head, op->dim, call->past + row, k, call->v + row * op->v.stride + h * op->dim);
        for (int64_t i = h * queries; i < (h + 1) * queries; i++) {
            const float *q = turned(call, call->q + row * op->q.stride + i * op->dim, row, room);
            call->kernels->attend(&head, op->dim, call->past + row + 1, q, weights, call->y + (row * op->heads + i) * op->dim);
        }
    }
}

static void attend_part(void *data, size_t first, size_t last) {
    for (size_t h = first; h < last; h++)
        attend_head(data, (int64_t)h);
}

// Keys and values that are worth a second thread.
enum { ATTEND_BYTES = 64 * 1024 };

static OrtStatus *attend_run(const Run *run, const void *of, void *const *operands, float *y) {
    const Attend *op = of;
    const int64_t position = *(const int64_t *)operands[5];
    AttendCall call = {op,
                       run->kernels,
                       (const float *)operands[0] + op->q.start,
                       (const float *)operands[1] + op->k.start,
                       (const float *)operands[2] + op->v.start,
                       operands[8],
                       operands[9],
                       operands[3],
                       operands[4],
                       operands[6],
                       operands[7],
                       (float *)run->room,
                       y,
                       op->capacity + op->rows,
                       position < op->capacity ? position : op->capacity};
    if (position < 0)
        return ort_status(run->api, "a position before the first");
    const int64_t bytes = (call.past + op->rows) * op->kv_heads * op->dim * 2 * (call.k_scales ? 1 : 4);
    return shared(run, attend_part, op->kv_heads, 1, bytes < ATTEND_BYTES ? 1 : run->threads, &call);
}

// -- Embed --------------------------------------------------------------------------------------------------------------------

typedef struct Embed {
    int64_t count, dim, at, rows; // ids, values of one, where the ids begin, of the table
} Embed;

static int64_t embed_room(const void *of) { return (void)of, 0; }

static OrtStatus *embed_run(const Run *run, const void *of, void *const *operands, float *y) {
    const Embed *op = of;
    const int64_t dim = op->dim, *ids = (const int64_t *)operands[0] + op->at;
    const float *table = operands[1], *residual = operands[2];
    for (int64_t i = 0; i < op->count; i++, y += dim) {
        if (ids[i] < -1 || ids[i] >= op->rows)
            return ort_status(run->api, "an id is neither -1 nor a row of its embedding table");
        if (ids[i] >= 0)
            memcpy(y, table + ids[i] * dim, (size_t)dim * sizeof *y);
        else
            memset(y, 0, (size_t)dim * sizeof *y);
        for (int64_t d = 0; residual && d < dim; d++)
            y[d] += residual[i * dim + d];
    }
    return NULL;
}

// -- Elu ----------------------------------------------------------------------------------------------------------------------

typedef struct Elu {
    int64_t size;
} Elu;

typedef struct EluCall {
    const Kernels *kernels;
    const float *x;
    float *y;
    int64_t size;
} EluCall;

enum { ELU_PART = 16 * 1024 };

static void elu_part(void *data, size_t first, size_t last) {
    const EluCall *call = data;
    const int64_t at = (int64_t)first * ELU_PART, end = (int64_t)last * ELU_PART;
    call->kernels->elu(call->x + at, (end < call->size ? end : call->size) - at, call->y + at);
}

static int64_t elu_room(const void *of) { return (void)of, 0; }

static OrtStatus *elu_run(const Run *run, const void *of, void *const *operands, float *y) {
    const int64_t size = ((const Elu *)of)->size;
    EluCall call = {run->kernels, operands[0], y, size};
    return shared(run, elu_part, (size + ELU_PART - 1) / ELU_PART, 1, run->threads, &call);
}

// -- Chain --------------------------------------------------------------------------------------------------------------------

enum { OPERANDS = 10, LINE = 64 };

// In the order of `onnx_chain.py`.
static const struct {
    size_t size;
    int64_t (*room)(const void *of);
    OrtStatus *(*run)(const Run *run, const void *of, void *const *operands, float *y);
} OPERATIONS[] = {
    {sizeof(Product), product_room, product_run},
    {sizeof(Attend), attend_room, attend_run},
    {sizeof(Embed), embed_room, embed_run},
    {sizeof(Elu), elu_room, elu_run},
};

// One operation; its record follows. Operands and result are numbers in a table: nothing, the node's inputs, its outputs, and the
// places of what only the chain itself reads.
typedef struct Link {
    int64_t operation, operands[OPERANDS], result;
} Link;

typedef struct Chain {
    const OrtApi *api;
    const Kernels *kernels;
    int64_t threads, inputs, room;
    int64_t *links, *shapes, *places; // shapes: of each output its rank, then its dimensions
    size_t links_size, shapes_size, places_size, outputs;
    int64_t memory; // of the places
#if TEAM
    _Atomic(char *) spare; // of a run that is over, for the next
#endif
} Chain;

static const char *ORT_CALL chain_name(const OrtCustomOp *op) { return (void)op, "Chain"; }

static OrtStatus *chain_steps(const Chain *chain, void **table, const Run *run) {
    for (size_t at = 0; at < chain->links_size;) {
        const Link *link = (const Link *)(chain->links + at);
        const void *record = link + 1;
        void *operands[OPERANDS];
        for (int i = 0; i < OPERANDS; i++)
            operands[i] = table[link->operands[i]];
        TRY(OPERATIONS[link->operation].run(run, record, operands, table[link->result]));
        at += (sizeof *link + OPERATIONS[link->operation].size) / sizeof *chain->links;
    }
    return NULL;
}

static OrtStatus *ORT_CALL chain_compute(void *kernel, OrtKernelContext *context) {
    Chain *chain = kernel;
    const size_t entries = 1 + (size_t)chain->inputs + chain->outputs + chain->places_size;
    char *memory = NULL;
#if TEAM
    if (chain->threads > 1)
        team_wake(); // by the first work that is shared, helpers are awake
    memory = atomic_exchange(&chain->spare, NULL);
#endif
    if (!memory && !(memory = malloc(entries * sizeof(void *) + (size_t)(chain->room + chain->memory) + 2 * LINE)))
        return ort_status(chain->api, "no memory for a step");
    char *room = (char *)(((uintptr_t)memory + entries * sizeof(void *) + LINE - 1) / LINE * LINE);
    char *places = room + (chain->room + LINE - 1) / LINE * LINE;
    void **table = (void **)memory, **next = table;
    *next++ = NULL;
    OrtStatus *status = NULL;
    for (int64_t i = 0; i < chain->inputs && !status; i++) {
        const OrtValue *value;
        status = ort_input(chain->api, context, (size_t)i, &value);
        if (!status)
            status = ort_data(chain->api, (OrtValue *)value, next++);
    }
    const int64_t *shape = chain->shapes;
    for (size_t i = 0; i < chain->outputs && !status; i++, shape += 1 + *shape) {
        OrtValue *value;
        status = ort_output(chain->api, context, i, shape + 1, (size_t)*shape, &value);
        if (!status)
            status = ort_data(chain->api, value, next++);
    }
    if (!status) {
        for (size_t i = 0; i < chain->places_size; i++)
            *next++ = places + chain->places[i];
        const Run run = {chain->api, context, chain->kernels, chain->threads, room};
        status = chain_steps(chain, table, &run);
    }
#if TEAM
    memory = atomic_exchange(&chain->spare, memory);
#endif
    free(memory);
    return status;
}

static void ORT_CALL chain_destroy(void *kernel) {
    Chain *chain = kernel;
    free(chain->links);
    free(chain->shapes);
    free(chain->places);
#if TEAM
    free(atomic_load(&chain->spare));
#endif
    free(chain);
}

// A list of whole numbers, in memory of its own.
static OrtStatus *numbers(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t **out, size_t *size) {
    *size = 0;
    TRY(ort_attribute_ints(api, info, name, NULL, size));
    if (!(*out = malloc((*size + 1) * sizeof **out)))
        return ort_status(api, "no memory for a chain of operations");
    return ort_attribute_ints(api, info, name, *out, size);
}

static OrtStatus *chain_read(Chain *chain, const OrtKernelInfo *info) {
    const OrtApi *api = chain->api;
    TRY(numbers(api, info, "links", &chain->links, &chain->links_size));
    TRY(numbers(api, info, "shapes", &chain->shapes, &chain->shapes_size));
    TRY(numbers(api, info, "places", &chain->places, &chain->places_size));
    TRY(ort_attribute_int(api, info, "memory", &chain->memory));
    TRY(ort_attribute_int(api, info, "inputs", &chain->inputs));
    TRY(ort_attribute_int(api, info, "threads", &chain->threads));
    for (size_t at = 0; at < chain->shapes_size; at += 1 + (size_t)chain->shapes[at])
        chain->outputs++;
    for (size_t at = 0; at < chain->links_size;) {
        const Link *link = (const Link *)(chain->links + at);
        const int64_t room = OPERATIONS[link->operation].room(link + 1);
        chain->room = chain->room > room ? chain->room : room;
        at += (sizeof *link + OPERATIONS[link->operation].size) / sizeof *chain->links;
    }
    return NULL;
}

static OrtStatus *ORT_CALL chain_create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)self;
    Chain *chain = calloc(1, sizeof *chain);
    if (!chain)
        return ort_status(api, "no memory for a chain of operations");
    chain->api = api;
    chain->kernels = kernels();
    OrtStatus *status = chain_read(chain, info);
    if (status)
        chain_destroy(chain);
    else
        *kernel = chain;
    return status;
}

// -- registration -------------------------------------------------------------------------------------------------------------

static const char *ORT_CALL provider(const OrtCustomOp *op) { return (void)op, (const char *)NULL; }
static size_t ORT_CALL one(const OrtCustomOp *op) { return (void)op, 1; }
static int ORT_CALL any(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_ANY; }
static int ORT_CALL floats(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int ORT_CALL many(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_VARIADIC; }
static int ORT_CALL anywhere(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static int ORT_CALL yes(const OrtCustomOp *op) { return (void)op, 1; }
static int ORT_CALL no(const OrtCustomOp *op) { return (void)op, 0; }

static const OrtCustomOp CHAIN = {
    .version = ORT_VERSION,
    .name = chain_name,
    .provider = provider,
    .input_type = any,
    .input_count = one,
    .output_type = floats,
    .output_count = one,
    .destroy = chain_destroy,
    .input_kind = many,
    .output_kind = many,
    .input_memory = anywhere,
    .variadic_input_least = yes,
    .variadic_input_same = no,
    .variadic_output_least = yes,
    .variadic_output_same = yes,
    .create2 = chain_create,
    .compute2 = chain_compute,
    .first_version = yes,
    .last_version = yes,
};

// What ONNX Runtime calls when the library is registered with a session's options.
ORT_EXPORT OrtStatus *ORT_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->get_api(ORT_VERSION);
    OrtCustomOpDomain *domain;
    TRY(ort_create_domain(api, "clearline", &domain));
    TRY(ort_domain_add(api, domain, &CHAIN));
    return ort_add_domain(api, options, domain);
}

// The instruction set that is used: "avx512", "avx2" or "plain", for which products are not written.
ORT_EXPORT const char *clearline_kernels(void) { return kernels()->name; }
