/* Operators of the domain "quadrant" for ONNX Runtime, which asks RegisterCustomOps for them.

   What is wrong with a model is an error with a sentence, never a wrong answer: models come from files. */

#include "operators.h"
#include "winograd.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

STATUS refuse(const function *api, const char *name, const char *what, long found, const char *expected) {
    char words[200];
    snprintf(words, sizeof words, "%s: %s %ld; expected %s", name, what, found, expected);
    return create_status(INVALID_ARGUMENT, words);
}

STATUS tensor(const function *api, const struct context *context, size_t number, size_t rank, int64_t *sizes, const void **data) {
    const struct value *value = NULL;
    struct shape *shape = NULL;
    size_t found = 0;
    STATUS status = input(context, number, &value);
    if (!status) status = tensor_shape(value, &shape);
    if (!status) status = dimension_count(shape, &found);
    if (!status && found != rank) status = refuse(api, "quadrant", "dimensions of an input:", found, "another number");
    if (!status) status = dimensions(shape, sizes, rank);
    if (shape) release_shape(shape);
    return status ? status : tensor_data((struct value *)value, (void **)data);
}

const char *on_cpu(const struct operator *self) { return (void)self, NULL; }
int required(const struct operator *self, size_t number) { return (void)self, (void)number, REQUIRED; }
int in_memory(const struct operator *self, size_t number) { return (void)self, (void)number, MEMORY_OF_DEVICE; }
size_t one(const struct operator *self) { return (void)self, 1; }
int first_version(const struct operator *self) { return (void)self, 1; }
int last_version(const struct operator *self) { return (void)self, INT_MAX; }

/* ONNX Runtime calls it by this name for each session that registers the library. */
STATUS RegisterCustomOps(struct options *options, const struct base *runtime) {
    static const struct operator *const all[] = {&WINOGRAD_CONV};
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    static struct domain *domain;  /* sessions refer to it for as long as they live */
    const function *api = runtime->get(RUNTIME_VERSION);
    if (!api) abort();  /* never: the service asks for a later one */
    STATUS status = NULL;
    pthread_mutex_lock(&once);
    if (!domain) {
        struct domain *made = NULL;
        status = create_domain("quadrant", &made);
        for (size_t i = 0; !status && i < sizeof all / sizeof *all; i++) status = add_operator(made, all[i]);
        if (!status) domain = made;
    }
    pthread_mutex_unlock(&once);
    return status ? status : add_domain(options, domain);
}

/* For Python: channels of a block, as ONNX Runtime chooses it on this processor; 0: no operators for it. */
int quadrant_lanes(void) { return winograd_lanes(); }

/* For Python: filters of a group. */
int quadrant_group(int lanes) { return winograd_group(lanes); }
