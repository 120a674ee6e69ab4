/* What operators for ONNX Runtime share; see operators.c. */

#include "runtime.h"

extern const struct operator WINOGRAD_CONV;

/* An error with a sentence. */
STATUS refuse(const function *api, const char *name, const char *what, long found, const char *expected);

/* An input's address and its sizes: as many as `rank`. */
STATUS tensor(const function *api, const struct context *context, size_t number, size_t rank, int64_t *sizes, const void **data);

/* Of each operator here. */
const char *on_cpu(const struct operator *);
int required(const struct operator *, size_t);
int in_memory(const struct operator *, size_t);
size_t one(const struct operator *);
int first_version(const struct operator *);
int last_version(const struct operator *);

#define COMMON .version = RUNTIME_VERSION, .provider = on_cpu, .outputs = one, .input_kind = required, .output_kind = required, \
               .input_memory = in_memory, .first_version = first_version, .last_version = last_version
