/* How many scans of a JPEG libjpeg begins, as Pillow calls it: warnings are passed over, streams of tables alone are read. For tests. */

#include "libjpeg.h"

#include <setjmp.h>
#include <stdlib.h>

#define MOST_PIXELS 1000000  /* a damaged header may claim gigabytes */

struct errors {
    void (*error_exit)(struct decompress *);
    void (*emit_message)(struct decompress *, int);
    void (*output_message)(struct decompress *);
    char rest[512];
};

struct functions {
    void *(*std_error)(struct errors *);
    void (*create)(struct decompress *, int, size_t);
    void (*memory_source)(struct decompress *, const unsigned char *, unsigned long);
    int (*read_header)(struct decompress *, int);
    int (*start)(struct decompress *);
    void *crop, *skip;
    unsigned (*read)(struct decompress *, uint8_t **, unsigned);
    int (*finish)(struct decompress *);
    void (*destroy)(struct decompress *);
};

struct work {
    struct decompress jpeg;
    struct errors errors;
    struct progress progress;
    jmp_buf failed;
    int scans;
};

static void fail(struct decompress *jpeg) { longjmp(((struct work *)jpeg)->failed, 1); }
static void warn(struct decompress *jpeg, int level) { (void)jpeg, (void)level; }
static void watch(struct decompress *jpeg) { ((struct work *)jpeg)->scans = jpeg->input_scan_number; }
static void hush(struct decompress *jpeg) { (void)jpeg; }

/* scans: begun. Returns whether it was decoded to its end. */
int count_scans(const struct functions *lib, const uint8_t *data, size_t bytes, int *scans) {
    struct work *work = calloc(1, sizeof *work);
    struct decompress *jpeg = &work->jpeg;
    uint8_t *volatile row = NULL;
    volatile int done = 0;
    jpeg->err = lib->std_error(&work->errors);
    work->errors.error_exit = fail, work->errors.emit_message = warn, work->errors.output_message = hush;
    if (!setjmp(work->failed)) {
        lib->create(jpeg, ABI, sizeof *jpeg);
        work->progress.monitor = watch, jpeg->progress = &work->progress;
        lib->memory_source(jpeg, data, bytes);
        while (lib->read_header(jpeg, 0) == 2) continue;
        if ((size_t)jpeg->image_width * jpeg->image_height > MOST_PIXELS) fail(jpeg);
        lib->start(jpeg);
        row = calloc(jpeg->output_width, 16);
        uint8_t *rows[1] = {row};
        while (jpeg->output_scanline < jpeg->output_height) lib->read(jpeg, rows, 1);
        done = lib->finish(jpeg);
    }
    *scans = work->scans;
    lib->destroy(jpeg);
    free(row), free(work);
    return done;
}
