/* quadrant.WinogradConv, an operator for ONNX Runtime: a convolution of 3 × 3 with stride 1 by winograd.c, in the place of
   com.microsoft.nchwc.Conv.

   Inputs: X (pictures, channels, height, width), blocked; U (filters / group, 16, channels, group), transformed weights; B (filters).
   Output: Y (pictures, filters, height, width), blocked. Attributes: lanes, pads (top, left, bottom, right: 0 or 1 each), relu.

   What is wrong with a model is an error with a sentence, never a wrong answer: it comes from a file. */

#include "runtime.h"
#include "winograd.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define TILES 84       /* at once: more take memory, fewer read the weights more often */
#define FEW 4          /* parts of so many tiles: with fewer, processors share the filters instead */
#define ALIGNED 16     /* floats: each part begins in a line of the cache */

struct kernel {
    const any *api;
    struct memory *memory;
    int lanes, top, left, bottom, right, relu;
};

struct work {
    struct layer layer;
    const any *api;
    struct allocator *allocator;
    const float *in, *u, *bias;
    float *out;
    float *v;          /* of all tiles, where processors share the filters */
    int tiles, parts, groups;
    size_t values, sums;   /* floats of a part */
    atomic_int failed;
};

static STATUS refuse(const any *api, const char *what, long found, const char *expected) {
    char words[160];
    snprintf(words, sizeof words, "WinogradConv: %s %ld; expected %s", what, found, expected);
    return create_status(INVALID_ARGUMENT, words);
}

static int first_tile(const struct work *work, int part) { return part * work->tiles; }

static int tiles_of(const struct work *work, int part) {
    const int left = work->layer.pictures * work->layer.down * work->layer.across - first_tile(work, part);
    return left < work->tiles ? left : work->tiles;
}

/* A part of the tiles, all filters. */
static void part(void *given, size_t number) {
    struct work *work = given;
    float *v = work->allocator->alloc(work->allocator, (work->values + work->sums) * sizeof *v);
    if (!v) {
        work->failed = 1;
        return;
    }
    const int first = first_tile(work, number), tiles = tiles_of(work, number);
    winograd_input(&work->layer, work->in, first, tiles, v);
    for (int group = 0; group < work->groups; group++)
        winograd_filter(&work->layer, v, first, tiles, group, work->u, work->bias, v + work->values, work->out);
    work->allocator->free(work->allocator, v);
}

/* A part of the tiles, which are transformed already, and one group of filters. */
static void part_of_filters(void *given, size_t number) {
    struct work *work = given;
    float *m = work->allocator->alloc(work->allocator, work->sums * sizeof *m);
    if (!m) {
        work->failed = 1;
        return;
    }
    const int group = number / work->parts, which = number % work->parts;
    winograd_filter(&work->layer, work->v + which * work->values, first_tile(work, which), tiles_of(work, which), group, work->u,
                    work->bias, m, work->out);
    work->allocator->free(work->allocator, m);
}

static STATUS run(struct work *work, const struct context *context) {
    const any *api = work->api;
    STATUS status;
    if (work->parts >= FEW) {
        status = parallel_for(context, part, work->parts, 0, work);
    } else {
        work->v = work->allocator->alloc(work->allocator, work->parts * work->values * sizeof *work->v);
        if (!work->v) return create_status(FAIL, "WinogradConv: no memory");
        for (int number = 0; number < work->parts; number++)
            winograd_input(&work->layer, work->in, first_tile(work, number), tiles_of(work, number), work->v + number * work->values);
        status = parallel_for(context, part_of_filters, (size_t)work->parts * work->groups, 0, work);
        work->allocator->free(work->allocator, work->v);
    }
    return !status && work->failed ? create_status(FAIL, "WinogradConv: no memory") : status;
}

/* A tensor's address and its dimensions; as many as expected. */
static STATUS tensor(const any *api, const struct context *context, size_t number, size_t rank, int64_t *sizes, const float **data) {
    const struct value *value = NULL;
    struct shape *shape = NULL;
    size_t found = 0;
    STATUS status = input(context, number, &value);
    if (!status) status = tensor_shape(value, &shape);
    if (!status) status = dimension_count(shape, &found);
    if (!status && found != rank) status = refuse(api, "dimensions of an input:", found, rank == 4 ? "4" : "1");
    if (!status) status = dimensions(shape, sizes, rank);
    if (shape) release_shape(shape);
    return status ? status : tensor_data((struct value *)value, (void **)data);
}

static STATUS compute(void *given, struct context *context) {
    const struct kernel *kernel = given;
    const any *api = kernel->api;
    struct work work = {.api = api};
    struct layer *layer = &work.layer;
    const int group = winograd_group(kernel->lanes);
    int64_t x[4], u[4], b[1];
    STATUS status = tensor(api, context, 0, 4, x, &work.in);
    if (!status) status = tensor(api, context, 1, 4, u, &work.u);
    if (!status) status = tensor(api, context, 2, 1, b, &work.bias);
    if (status) return status;
    for (int i = 0; i < 4; i++)
        if (x[i] < 1 || x[i] > INT_MAX / 64) return refuse(api, "a side of X:", x[i], "1 or more, and no more than memory holds");
    if (x[1] % kernel->lanes) return refuse(api, "channels of X:", x[1], "a multiple of lanes");
    if (u[2] != x[1] || u[1] != PLACES || u[3] != group) return refuse(api, "channels of U:", u[2], "(groups, 16, channels of X, group)");
    if (u[0] < 1 || u[0] > INT_MAX / 64 / group || b[0] != u[0] * group) return refuse(api, "filters of B:", b[0], "those of U");
    const int64_t height = x[2] + kernel->top + kernel->bottom - 2, width = x[3] + kernel->left + kernel->right - 2;
    if (height < 1 || width < 1) return refuse(api, "a picture of height", x[2], "one that holds the 3 x 3 pixels of a filter");
    const int64_t down = (height + 1) / 2, across = (width + 1) / 2;
    if (down * across > INT_MAX / x[0]) return refuse(api, "pictures:", x[0], "fewer, or smaller ones");
    *layer = (struct layer){
        .lanes = kernel->lanes, .pictures = x[0], .channels = x[1], .height = x[2], .width = x[3], .top = kernel->top,
        .left = kernel->left, .filters = b[0], .out_height = height, .out_width = width, .relu = kernel->relu,
        .down = down, .across = across};
    const int all = x[0] * down * across, least = (all + TILES - 1) / TILES;
    const int parts = least > 1 ? least + least % 2 : 1;  /* even: most often there are two threads */
    work.tiles = (all + parts - 1) / parts, work.parts = (all + work.tiles - 1) / work.tiles, work.groups = u[0];
    work.values = (size_t)PLACES * work.tiles * layer->channels;
    work.sums = (size_t)PLACES * work.tiles * group;
    const int64_t sizes[] = {x[0], b[0], height, width};
    struct value *y = NULL;
    if ((status = output(context, 0, sizes, 4, &y)) || (status = tensor_data(y, (void **)&work.out))) return status;
    if ((status = get_allocator(context, kernel->memory, &work.allocator))) return status;
    status = run(&work, context);
    release_allocator(work.allocator);
    return status;
}

static void destroy(void *given) {
    struct kernel *kernel = given;
    const any *api = kernel->api;
    if (kernel->memory) release_memory(kernel->memory);
    free(kernel);
}

static STATUS create(const struct operator *self, const any *api, const struct info *info, void **made) {
    (void)self;
    int64_t lanes = 0, relu = 0, pads[4] = {0};
    size_t count = 4;
    STATUS status = attribute(info, "lanes", &lanes);
    if (!status) status = attribute(info, "relu", &relu);
    if (!status) status = attributes(info, "pads", pads, &count);
    if (status) return status;
    if (lanes < 1 || lanes > 16 || !winograd_group(lanes))
        return refuse(api, "lanes:", lanes, "what this processor has: it was made on another");
    if (relu != 0 && relu != 1) return refuse(api, "relu:", relu, "0 or 1");
    if (count != 4) return refuse(api, "pads:", count, "4");
    for (int i = 0; i < 4; i++)
        if (pads[i] != 0 && pads[i] != 1) return refuse(api, "a pad of", pads[i], "0 or 1");
    struct kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return create_status(FAIL, "WinogradConv: no memory");
    *kernel = (struct kernel){api, NULL, lanes, pads[0], pads[1], pads[2], pads[3], relu};
    if ((status = create_memory(ARENA, MEMORY_OF_DEVICE, &kernel->memory))) {
        destroy(kernel);
        return status;
    }
    *made = kernel;
    return NULL;
}

static const char *name(const struct operator *self) { return (void)self, "WinogradConv"; }
static const char *provider(const struct operator *self) { return (void)self, NULL; }  /* CPU */
static int type(const struct operator *self, size_t number) { return (void)self, (void)number, TENSOR_OF_FLOAT; }
static int kind(const struct operator *self, size_t number) { return (void)self, (void)number, REQUIRED; }
static int memory(const struct operator *self, size_t number) { return (void)self, (void)number, MEMORY_OF_DEVICE; }
static size_t inputs(const struct operator *self) { return (void)self, 3; }
static size_t outputs(const struct operator *self) { return (void)self, 1; }
static int first_version(const struct operator *self) { return (void)self, 1; }
static int last_version(const struct operator *self) { return (void)self, INT_MAX; }

static const struct operator OPERATOR = {
    .version = RUNTIME_VERSION, .name = name, .provider = provider, .input_type = type, .inputs = inputs, .output_type = type,
    .outputs = outputs, .destroy = destroy, .input_kind = kind, .output_kind = kind, .input_memory = memory, .create = create,
    .compute = compute, .first_version = first_version, .last_version = last_version};

/* ONNX Runtime calls it by this name for each session that registers the library. */
STATUS RegisterCustomOps(struct options *options, const struct base *runtime) {
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    static struct domain *domain;  /* sessions refer to it for as long as they live */
    const any *api = runtime->get(RUNTIME_VERSION);
    if (!api) abort();  /* never: the service asks for ONNX Runtime 1.20 and later */
    STATUS status = NULL;
    pthread_mutex_lock(&once);
    if (!domain && !(status = create_domain("quadrant", &domain))) status = add_operator(domain, &OPERATOR);
    pthread_mutex_unlock(&once);
    return status ? status : add_domain(options, domain);
}

/* For Python: channels of a block; 0: this processor can't. */
int quadrant_lanes(void) { return winograd_lanes(); }

/* For Python: filters of a group. */
int quadrant_group(int lanes) { return winograd_group(lanes); }
