// What these operations use of ONNX Runtime's C interface, written down from its documentation: a table of functions whose
// order never changes (a released entry keeps its place), and the record that describes an operation.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#define ORT_EXPORT __declspec(dllexport)
#else
#define ORT_CALL
#define ORT_EXPORT __attribute__((visibility("default")))
#endif

#define ORT_VERSION 17 // the first interface with parallel_for

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtApi OrtApi; // void *[]

typedef struct OrtApiBase {
    const OrtApi *(ORT_CALL *get_api)(uint32_t version);
    const char *(ORT_CALL *get_version)(void);
} OrtApiBase;

enum { ORT_ANY = 0, ORT_FLOAT = 1 }; // types of elements
enum { ORT_VARIADIC = 2 };           // as many inputs, or outputs, as a node has

struct OrtCustomOp {
    uint32_t version;
    void *(ORT_CALL *create)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info);
    const char *(ORT_CALL *name)(const OrtCustomOp *op);
    const char *(ORT_CALL *provider)(const OrtCustomOp *op);
    int(ORT_CALL *input_type)(const OrtCustomOp *op, size_t index);
    size_t(ORT_CALL *input_count)(const OrtCustomOp *op);
    int(ORT_CALL *output_type)(const OrtCustomOp *op, size_t index);
    size_t(ORT_CALL *output_count)(const OrtCustomOp *op);
    void(ORT_CALL *compute)(void *kernel, OrtKernelContext *context);
    void(ORT_CALL *destroy)(void *kernel);
    int(ORT_CALL *input_kind)(const OrtCustomOp *op, size_t index);
    int(ORT_CALL *output_kind)(const OrtCustomOp *op, size_t index);
    int(ORT_CALL *input_memory)(const OrtCustomOp *op, size_t index);
    int(ORT_CALL *variadic_input_least)(const OrtCustomOp *op);
    int(ORT_CALL *variadic_input_same)(const OrtCustomOp *op);
    int(ORT_CALL *variadic_output_least)(const OrtCustomOp *op);
    int(ORT_CALL *variadic_output_same)(const OrtCustomOp *op);
    OrtStatus *(ORT_CALL *create2)(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel);
    OrtStatus *(ORT_CALL *compute2)(void *kernel, OrtKernelContext *context);
    OrtStatus *(ORT_CALL *infer_shape)(const OrtCustomOp *op, void *context);
    int(ORT_CALL *first_version)(const OrtCustomOp *op);
    int(ORT_CALL *last_version)(const OrtCustomOp *op);
};

// Entry `index` of the table, as the function it is.
#define ORT_ENTRY(api, index, ...) ((OrtStatus * (ORT_CALL *)(__VA_ARGS__))((void *const *)(api))[index])

static inline OrtStatus *ort_status(const OrtApi *api, const char *message) {
    return ORT_ENTRY(api, 0, int, const char *)(1, message);
}
static inline OrtStatus *ort_create_domain(const OrtApi *api, const char *name, OrtCustomOpDomain **domain) {
    return ORT_ENTRY(api, 26, const char *, OrtCustomOpDomain **)(name, domain);
}
static inline OrtStatus *ort_domain_add(const OrtApi *api, OrtCustomOpDomain *domain, const OrtCustomOp *op) {
    return ORT_ENTRY(api, 27, OrtCustomOpDomain *, const OrtCustomOp *)(domain, op);
}
static inline OrtStatus *ort_add_domain(const OrtApi *api, OrtSessionOptions *options, OrtCustomOpDomain *domain) {
    return ORT_ENTRY(api, 28, OrtSessionOptions *, OrtCustomOpDomain *)(options, domain);
}
static inline OrtStatus *ort_data(const OrtApi *api, OrtValue *value, void **data) {
    return ORT_ENTRY(api, 51, OrtValue *, void **)(value, data);
}
static inline OrtStatus *ort_attribute_int(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *out) {
    return ORT_ENTRY(api, 86, const OrtKernelInfo *, const char *, int64_t *)(info, name, out);
}
static inline OrtStatus *ort_input(const OrtApi *api, const OrtKernelContext *context, size_t index, const OrtValue **value) {
    return ORT_ENTRY(api, 90, const OrtKernelContext *, size_t, const OrtValue **)(context, index, value);
}
static inline OrtStatus *ort_output(const OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *shape, size_t rank,
                                    OrtValue **value) {
    return ORT_ENTRY(api, 91, OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)(context, index, shape, rank, value);
}
// At most *size of them; *size becomes their number, which is all that happens where out is NULL.
static inline OrtStatus *ort_attribute_ints(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *out,
                                            size_t *size) {
    return ORT_ENTRY(api, 163, const OrtKernelInfo *, const char *, int64_t *, size_t *)(info, name, out, size);
}
// Calls work(data, 0) ... work(data, count - 1), spread over the session's threads.
static inline OrtStatus *ort_parallel_for(const OrtApi *api, const OrtKernelContext *context, void (*work)(void *, size_t),
                                          size_t count, size_t batches, void *data) {
    return ORT_ENTRY(api, 274, const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)(context, work, count,
                                                                                                           batches, data);
}
