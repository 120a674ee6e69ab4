/* quadrant.LookUp and quadrant.LookUpPlanes: what is before a network's first layer, in one pass over the pixels.

   Whatever makes one number of each byte (cast, mean, scale, quantisation) is a table of 256 numbers a channel, to the same bits.
   Inputs: pixels (pictures, height, width, 3) uint8; table (3, 256).
   Output: LookUp: (pictures, height, width, 3) uint8; LookUpPlanes: (pictures, 3, height, width) float32. */

#include "operators.h"

#define NAME "LookUp"
#define NAME_PLANES "LookUpPlanes"
#define CHANNELS 3
#define BYTES 256

struct work {
    const uint8_t *pixels;
    const void *table;
    void *out;
    size_t pixels_each;   /* of a picture */
};

static void look_up(void *given, size_t picture) {
    const struct work *work = given;
    const size_t count = work->pixels_each, first = picture * count * CHANNELS;
    const uint8_t *restrict table = work->table, *restrict in = work->pixels + first;
    uint8_t *restrict out = (uint8_t *)work->out + first;
    for (size_t i = 0; i < count * CHANNELS; i += CHANNELS)
        for (int c = 0; c < CHANNELS; c++) out[i + c] = table[c * BYTES + in[i + c]];
}

static void look_up_planes(void *given, size_t picture) {
    const struct work *work = given;
    const size_t count = work->pixels_each, first = picture * count * CHANNELS;
    const float *restrict table = work->table;
    const uint8_t *restrict in = work->pixels + first;
    float *restrict out = (float *)work->out + first;
    for (size_t i = 0; i < count; i++)
        for (int c = 0; c < CHANNELS; c++) out[c * count + i] = table[c * BYTES + in[CHANNELS * i + c]];
}

static STATUS run(const function *api, struct context *context, int planes) {
    int64_t x[4], table[2];
    struct work work;
    struct value *y = NULL;
    STATUS status = tensor(api, context, 0, 4, x, (const void **)&work.pixels);
    if (!status) status = tensor(api, context, 1, 2, table, &work.table);
    if (status) return status;
    const char *const name = planes ? NAME_PLANES : NAME;
    if (x[3] != CHANNELS) return refuse(api, name, "channels of the pixels:", x[3], "3");
    if (table[0] != CHANNELS) return refuse(api, name, "rows of the table:", table[0], "3");
    if (table[1] != BYTES) return refuse(api, name, "columns of the table:", table[1], "256");
    const int64_t sizes[] = {x[0], planes ? x[3] : x[1], planes ? x[1] : x[2], planes ? x[2] : x[3]};
    if ((status = output(context, 0, sizes, 4, &y)) || (status = tensor_data(y, &work.out))) return status;
    work.pixels_each = x[1] * x[2];
    return parallel_for(context, planes ? look_up_planes : look_up, x[0], 0, &work);
}

/* The table of functions is all that a kernel knows. */
static STATUS create(const struct operator *self, const function *api, const struct info *info, void **made) {
    return (void)self, (void)info, *made = (void *)api, NULL;
}

static STATUS compute(void *kernel, struct context *context) { return run(kernel, context, 0); }
static STATUS compute_planes(void *kernel, struct context *context) { return run(kernel, context, 1); }
static void destroy(void *kernel) { (void)kernel; }
static const char *name(const struct operator *self) { return (void)self, NAME; }
static const char *name_planes(const struct operator *self) { return (void)self, NAME_PLANES; }
static int bytes(const struct operator *self, size_t number) { return (void)self, (void)number, TENSOR_OF_BYTES; }
static int floats(const struct operator *self, size_t number) { return (void)self, (void)number, TENSOR_OF_FLOAT; }
static int table_of_floats(const struct operator *self, size_t number) {
    return (void)self, number == 0 ? TENSOR_OF_BYTES : TENSOR_OF_FLOAT;
}
static size_t inputs(const struct operator *self) { return (void)self, 2; }

const struct operator LOOK_UP = {COMMON, .name = name, .input_type = bytes, .inputs = inputs, .output_type = bytes,
                                 .create = create, .compute = compute, .destroy = destroy};
const struct operator LOOK_UP_PLANES = {COMMON, .name = name_planes, .input_type = table_of_floats, .inputs = inputs,
                                        .output_type = floats, .create = create, .compute = compute_planes, .destroy = destroy};
