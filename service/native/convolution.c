/* quadrant.WinogradConv: a convolution of 3 × 3 with stride 1 by winograd.c, in the place of com.microsoft.nchwc.Conv.

   Inputs: X (pictures, channels, height, width), blocked; U (filters / group, 16, channels, group), transformed weights; B (filters).
   Output: Y (pictures, filters, height, width), blocked. Attributes: lanes, pads (top, left, bottom, right: 0 or 1 each), relu.
   All is float32. */

#include "operators.h"
#include "winograd.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>

#define NAME "WinogradConv"
#define TILES 48       /* at once: more take memory, fewer read the weights more often */
#define FEW 4          /* parts: with fewer, processors share the filters too */
#define ALIGNED 16     /* floats: each part begins in a line of the cache */

struct kernel {
    const function *api;
    int lanes, top, left, bottom, right, relu;
};

struct work {
    struct layer layer;
    const function *api;
    const float *in, *u, *bias;
    float *out;
    float *v;          /* of all tiles, where processors share the filters */
    int tiles, parts, groups;
    size_t values, sums;   /* floats of a part */
    atomic_int failed;
};

static int first_tile(const struct work *work, int part) { return part * work->tiles; }

static int tiles_of(const struct work *work, int part) {
    const int left = work->layer.pictures * work->layer.down * work->layer.across - first_tile(work, part);
    return left < work->tiles ? left : work->tiles;
}

/* A part of the tiles, all filters. Memory is not ONNX Runtime's: its arena throws where there is none, and other threads use `work`. */
static void part(void *given, size_t number) {
    struct work *work = given;
    float *v = malloc((work->values + work->sums) * sizeof *v);
    if (!v) {
        work->failed = 1;
        return;
    }
    const int first = first_tile(work, number), tiles = tiles_of(work, number);
    winograd_input(&work->layer, work->in, first, tiles, v);
    for (int group = 0; group < work->groups; group++)
        winograd_filter(&work->layer, v, first, tiles, group, work->u, work->bias, v + work->values, work->out);
    free(v);
}

/* A part of the tiles, which are transformed already, and one group of filters. */
static void part_of_filters(void *given, size_t number) {
    struct work *work = given;
    float *m = malloc(work->sums * sizeof *m);
    if (!m) {
        work->failed = 1;
        return;
    }
    const int group = number / work->parts, which = number % work->parts;
    winograd_filter(&work->layer, work->v + which * work->values, first_tile(work, which), tiles_of(work, which), group, work->u,
                    work->bias, m, work->out);
    free(m);
}

static STATUS run(struct work *work, const struct context *context) {
    const function *api = work->api;
    STATUS status;
    if (work->parts >= FEW) {
        status = parallel_for(context, part, work->parts, 0, work);
    } else {
        work->v = malloc(work->parts * work->values * sizeof *work->v);
        if (!work->v) return create_status(FAIL, NAME ": no memory");
        for (int number = 0; number < work->parts; number++)
            winograd_input(&work->layer, work->in, first_tile(work, number), tiles_of(work, number), work->v + number * work->values);
        status = parallel_for(context, part_of_filters, (size_t)work->parts * work->groups, 0, work);
        free(work->v);
    }
    return !status && work->failed ? create_status(FAIL, NAME ": no memory") : status;
}

static STATUS compute(void *given, struct context *context) {
    const struct kernel *kernel = given;
    const function *api = kernel->api;
    struct work work = {.api = api};
    struct layer *layer = &work.layer;
    const int group = winograd_group(kernel->lanes);
    int64_t x[4], u[4], b[1];
    STATUS status = tensor(api, context, 0, 4, x, (const void **)&work.in);
    if (!status) status = tensor(api, context, 1, 4, u, (const void **)&work.u);
    if (!status) status = tensor(api, context, 2, 1, b, (const void **)&work.bias);
    if (status) return status;
    for (int i = 0; i < 4; i++)
        if (x[i] < 1 || x[i] > INT_MAX / 64) return refuse(api, NAME, "a side of X:", x[i], "1 or more, and no more than memory holds");
    if (x[1] % kernel->lanes) return refuse(api, NAME, "channels of X:", x[1], "a multiple of lanes");
    if (u[1] != PLACES) return refuse(api, NAME, "places of U:", u[1], "16");
    if (u[2] != x[1]) return refuse(api, NAME, "channels of U:", u[2], "those of X");
    if (u[3] != group) return refuse(api, NAME, "filters in a group of U:", u[3], "as many as its lanes need");
    if (u[0] < 1 || u[0] > INT_MAX / 64 / group || b[0] != u[0] * group) return refuse(api, NAME, "filters of B:", b[0], "those of U");
    const int64_t height = x[2] + kernel->top + kernel->bottom - 2, width = x[3] + kernel->left + kernel->right - 2;
    if (height < 1 || width < 1) return refuse(api, NAME, "a picture of height", x[2], "one that holds the 3 x 3 pixels of a filter");
    const int64_t down = (height + 1) / 2, across = (width + 1) / 2;
    if (down * across > INT_MAX / x[0]) return refuse(api, NAME, "pictures:", x[0], "fewer, or smaller ones");
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
    return run(&work, context);
}

static STATUS create(const struct operator *self, const function *api, const struct info *info, void **made) {
    (void)self;
    int64_t lanes = 0, relu = 0, pads[4] = {0};
    size_t count = 4;
    STATUS status = attribute(info, "lanes", &lanes);
    if (!status) status = attribute(info, "relu", &relu);
    if (!status) status = attributes(info, "pads", pads, &count);
    if (status) return status;
    if (lanes < 1 || lanes > 16 || !winograd_group(lanes))
        return refuse(api, NAME, "lanes:", lanes, "what this processor has: it was made on another");
    if (relu != 0 && relu != 1) return refuse(api, NAME, "relu:", relu, "0 or 1");
    if (count != 4) return refuse(api, NAME, "pads:", count, "4");
    for (int i = 0; i < 4; i++)
        if (pads[i] != 0 && pads[i] != 1) return refuse(api, NAME, "a pad of", pads[i], "0 or 1");
    struct kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return create_status(FAIL, NAME ": no memory");
    *kernel = (struct kernel){api, lanes, pads[0], pads[1], pads[2], pads[3], relu};
    *made = kernel;
    return NULL;
}

static const char *name(const struct operator *self) { return (void)self, NAME; }
static int type(const struct operator *self, size_t number) { return (void)self, (void)number, TENSOR_OF_FLOAT; }
static size_t inputs(const struct operator *self) { return (void)self, 3; }

const struct operator WINOGRAD_CONV = {COMMON, .name = name, .input_type = type, .inputs = inputs, .output_type = type,
                                       .create = create, .compute = compute, .destroy = free};
