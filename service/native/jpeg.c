/* A JPEG's bytes in, a window of the resized picture out: decoded row by row, only where something of it is shown.

   Asks the libjpeg-turbo that Pillow has brought and loaded, through its functions' addresses: the same code decodes, so that the
   bits are the same. Whatever it as much as warns of is left to Pillow, which says what is wrong.

   Source: libjpeg-turbo, libjpeg.txt and its "partial image decompression"; jpeglib.h of ABI version 62. */

#include "libjpeg.h"
#include "resample.h"

#include <setjmp.h>
#include <stdlib.h>
#include <time.h>

/* Those in #ifndef are changed by tests, which expect it to be noticed. */
#ifndef VERSION
#define VERSION 8      /* of what the functions for Python take and give */
#endif
#ifndef MARGIN
#define MARGIN 4       /* pixels at the edge of what is decoded may differ: their neighbours' colour is missing */
#endif
#define GROUP 16       /* rows that are decoded before they are resized */
#define LOOKS 8        /* calls of libjpeg's progress monitor to one look at the clock; a call is a row of blocks, or less */

/* The head of jpeg_error_mgr, with room for the rest. */
struct errors {
    void (*error_exit)(struct decompress *);
    void (*emit_message)(struct decompress *, int);
    void (*output_message)(struct decompress *);
    char rest[512];
};

struct functions {     /* in the order of library.py */
    void *(*std_error)(struct errors *);
    void (*create)(struct decompress *, int, size_t);
    void (*memory_source)(struct decompress *, const unsigned char *, unsigned long);
    int (*read_header)(struct decompress *, int);
    int (*start)(struct decompress *);
    void (*crop)(struct decompress *, unsigned *, unsigned *);
    unsigned (*skip)(struct decompress *, unsigned);
    unsigned (*read)(struct decompress *, uint8_t **, unsigned);
    int (*finish)(struct decompress *);
    void (*destroy)(struct decompress *);
};

struct work {
    struct decompress jpeg;
    struct errors errors;
    struct progress progress;
    jmp_buf failed;
    int most_scans;
    int64_t until;     /* nanoseconds, as now() */
    unsigned calls;    /* of the progress monitor */
    struct resize resize;
    uint8_t *rows;     /* (GROUP, line) */
};

PUBLIC int quadrant_version(void) { return VERSION; }

static void fail(struct decompress *jpeg) { longjmp(((struct work *)jpeg)->failed, ASK_PILLOW); }

static void warn(struct decompress *jpeg, int level) {
    if (level < 0) fail(jpeg);
}

static void hush(struct decompress *jpeg) { (void)jpeg; }

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* libjpeg calls it for each row of blocks of each scan, and for each row of pixels: the only place where a decode can be stopped. */
static void watch(struct decompress *jpeg) {
    struct work *work = (struct work *)jpeg;
    if (jpeg->input_scan_number > work->most_scans) longjmp(work->failed, TOO_MANY_SCANS);
    if (work->calls++ % LOOKS == 0 && now() >= work->until) longjmp(work->failed, LATE);
}

/* From MARGIN pixels before to so many behind what is needed; everything, if whole. */
static void widen(int start, int end, int size, int whole, unsigned *offset, unsigned *length) {
    const int from = !whole && start > MARGIN ? start - MARGIN : 0, to = !whole && size - end > MARGIN ? end + MARGIN : size;
    *offset = from, *length = to - from;
}

static int decode(const struct functions *lib, struct work *work, const uint8_t *data, size_t bytes, int width, int height,
                  int scale, int whole, int64_t *resize_ns) {
    struct decompress *jpeg = &work->jpeg;
    struct resize *resize = &work->resize;
    jpeg->err = lib->std_error(&work->errors);
    work->errors.error_exit = fail, work->errors.emit_message = warn, work->errors.output_message = hush;
    switch (setjmp(work->failed)) {
    case 0: break;
    case LATE: return LATE;
    case TOO_MANY_SCANS: return TOO_MANY_SCANS;
    default: return ASK_PILLOW;
    }
    lib->create(jpeg, ABI, sizeof *jpeg);
    work->progress.monitor = watch, jpeg->progress = &work->progress;
    lib->memory_source(jpeg, data, bytes);
    lib->read_header(jpeg, 1);
    if (jpeg->image_width != (unsigned)width || jpeg->image_height != (unsigned)height || jpeg->num_components != 3 ||
        (jpeg->jpeg_color_space != YCBCR && jpeg->jpeg_color_space != RGB))
        return ASK_PILLOW;
    jpeg->out_color_space = RGBX;
    jpeg->scale_num = 1, jpeg->scale_denom = scale;
    lib->start(jpeg);
    const int decoded_width = (width + scale - 1) / scale, decoded_height = (height + scale - 1) / scale;
    if (jpeg->output_width != (unsigned)decoded_width || jpeg->output_height != (unsigned)decoded_height ||
        jpeg->output_components != CHANNELS)
        return ASK_PILLOW;
    unsigned left, wide, top, tall;
    widen(resize->x.start, resize->x.end, decoded_width, whole, &left, &wide);
    widen(resize->y.start, resize->y.end, decoded_height, whole, &top, &tall);
    if (wide < jpeg->output_width) lib->crop(jpeg, &left, &wide);
    if (left > (unsigned)resize->x.start || left + wide < (unsigned)resize->x.end || jpeg->output_width != wide) return ASK_PILLOW;
    resize_from(resize, left);
    const size_t line = CHANNELS * (size_t)wide;
    uint8_t *rows[GROUP];
    if (!(work->rows = malloc(GROUP * line))) return NO_MEMORY;
    for (int i = 0; i < GROUP; i++) rows[i] = work->rows + i * line;
    if (top) lib->skip(jpeg, top);
    while (jpeg->output_scanline < (unsigned)resize->y.end) {
        const int y = jpeg->output_scanline, left_over = resize->y.end - y, wanted = left_over < GROUP ? left_over : GROUP;
        int found = 0;
        while (found < wanted) {
            const int more = lib->read(jpeg, rows + found, wanted - found);
            if (!more) return ASK_PILLOW;
            found += more;
        }
        const int64_t start = now();
        for (int i = 0; i < found; i++) {
            if (y + i >= resize->y.start) resize_row(resize, y + i, rows[i]);
        }
        *resize_ns += now() - start;
    }
    /* To the end: half a photo is none. To skip the last row would end it without a look. */
    const unsigned left_over = jpeg->output_height - jpeg->output_scanline;
    if (left_over > 1) lib->skip(jpeg, left_over - 1);
    if (left_over && !lib->read(jpeg, rows, 1)) return ASK_PILLOW;
    return lib->finish(jpeg) ? OK : ASK_PILLOW;
}

/* width, height: as its header says. scale: 1, 2, 4 or 8, by which each direction is made smaller while it is decoded. whole: decode
   all of it; of a progressive file libjpeg smooths what scans are missing, over more than a margin. The rest as in resize_begin, for
   the picture so decoded. most_scans: that may be begun. left_ns: until it must be done. resize_ns: nanoseconds of
   it that were the resize. */
PUBLIC int quadrant_jpeg(const struct functions *lib, const uint8_t *data, size_t bytes, int width, int height, int scale,
                         int whole, int most_scans, int64_t left_ns, const float *box, int full_width, int full_height,
                         const int *window, int filter, uint8_t *out, int64_t *resize_ns) {
    if (width < 1 || height < 1 || (scale != 1 && scale != 2 && scale != 4 && scale != 8)) return NO_SENSE;
    struct work *work = calloc(1, sizeof *work);
    if (!work) return NO_MEMORY;
    work->most_scans = most_scans;
    work->until = now() + left_ns;
    *resize_ns = 0;
    int result = resize_begin(&work->resize, (width + scale - 1) / scale, (height + scale - 1) / scale, box, full_width,
                              full_height, window, filter, out);
    if (result == OK) {
        result = decode(lib, work, data, bytes, width, height, scale, whole, resize_ns);
        lib->destroy(&work->jpeg);
        resize_end(&work->resize);
    }
    free(work->rows);
    free(work);
    return result;
}
