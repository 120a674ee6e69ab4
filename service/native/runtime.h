/* As much of ONNX Runtime's C interface as an operator needs. Its tables only ever grow at the end, so that a function's place in
   them stays; no headers come with the Python package.

   Source: onnxruntime_c_api.h, OrtApi and OrtCustomOp; version 17 is ONNX Runtime 1.17, the first with ParallelFor. */

#include <stddef.h>
#include <stdint.h>

#define RUNTIME_VERSION 17

struct status;         /* NULL: all is well */
struct options;        /* of a session */
struct domain;         /* of operators */
struct info;           /* of a node */
struct context;        /* of a run */
struct value;          /* a tensor */
struct shape;

enum { FAIL = 1, INVALID_ARGUMENT = 2 };                     /* OrtErrorCode */
enum { TENSOR_OF_FLOAT = 1, TENSOR_OF_BYTES = 2 };           /* ONNXTensorElementDataType */
enum { REQUIRED = 0 };                                       /* OrtCustomOpInputOutputCharacteristic */
enum { MEMORY_OF_DEVICE = 0 };                               /* OrtMemType */

typedef void (*function)(void);

struct base {          /* OrtApiBase */
    const function *(*get)(uint32_t);
};

#define STATUS struct status *
#define AT(place, result, ...) ((result (*)(__VA_ARGS__))api[place])
#define create_status AT(0, STATUS, int, const char *)
#define create_domain AT(26, STATUS, const char *, struct domain **)
#define add_operator AT(27, STATUS, struct domain *, const void *)
#define add_domain AT(28, STATUS, struct options *, struct domain *)
#define tensor_data AT(51, STATUS, struct value *, void **)
#define dimension_count AT(61, STATUS, const struct shape *, size_t *)
#define dimensions AT(62, STATUS, const struct shape *, int64_t *, size_t)
#define tensor_shape AT(65, STATUS, const struct value *, struct shape **)
#define attribute AT(86, STATUS, const struct info *, const char *, int64_t *)
#define input AT(90, STATUS, const struct context *, size_t, const struct value **)
#define output AT(91, STATUS, struct context *, size_t, const int64_t *, size_t, struct value **)
#define release_shape AT(99, void, struct shape *)
#define attributes AT(163, STATUS, const struct info *, const char *, int64_t *, size_t *)
#define parallel_for AT(274, STATUS, const struct context *, void (*)(void *, size_t), size_t, size_t, void *)

struct operator {      /* OrtCustomOp; what is NULL isn't asked, or the second form is */
    uint32_t version;
    void *(*create_first)(const struct operator *, const function *, const struct info *);
    const char *(*name)(const struct operator *);
    const char *(*provider)(const struct operator *);
    int (*input_type)(const struct operator *, size_t);
    size_t (*inputs)(const struct operator *);
    int (*output_type)(const struct operator *, size_t);
    size_t (*outputs)(const struct operator *);
    void (*compute_first)(void *, struct context *);
    void (*destroy)(void *);
    int (*input_kind)(const struct operator *, size_t);
    int (*output_kind)(const struct operator *, size_t);
    int (*input_memory)(const struct operator *, size_t);
    int (*least_inputs)(const struct operator *);
    int (*alike_inputs)(const struct operator *);
    int (*least_outputs)(const struct operator *);
    int (*alike_outputs)(const struct operator *);
    STATUS (*create)(const struct operator *, const function *, const struct info *, void **);
    STATUS (*compute)(void *, struct context *);
    STATUS (*infer_shape)(const struct operator *, void *);
    int (*first_version)(const struct operator *);
    int (*last_version)(const struct operator *);
};
