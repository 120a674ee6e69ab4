/* A picture's rows in, a window of the resized picture out; see resample.c. */

#include <stddef.h>
#include <stdint.h>

#define PUBLIC __attribute__((visibility("default")))  /* called by Python; all else is hidden */
#define CHANNELS 4     /* as Pillow keeps RGB: a fourth byte that means nothing */

enum { OK, NO_MEMORY, NO_SENSE, ASK_PILLOW, LATE, TOO_MANY_SCANS };

struct axis {          /* one direction of the resize, for the pixels of the window alone */
    int length, taps;  /* pixels; room for weights, of each */
    int paired;        /* each pixel has an even number of weights */
    int start, end;    /* of what has a weight: from, up to but without */
    int *first, *count;
    int32_t *weight;   /* (length, taps) */
};

struct resize {
    struct axis x, y;
    int down_first;    /* as Pillow 13 does where far more rows than columns are too many (python-pillow/Pillow#9549) */
    size_t line;       /* bytes of a row in the ring */
    uint8_t *ring;     /* rows, narrow already unless down_first: as many as one row of the result is made of, and that one */
    uint8_t *narrow;   /* that one, if down_first */
    const uint8_t **rows;
    int done;          /* rows of the result */
    uint8_t *out;
};

/* box: left, top, right, bottom of width × height pixels that become full_width × full_height, of which the window (left, top,
   right, bottom) is made: out, (bottom - top, right - left, 3). filter: 0 bilinear, 1 bicubic, 2 Lanczos.
   After anything but OK there is nothing to end. */
int resize_begin(struct resize *resize, int width, int height, const float *box, int full_width, int full_height,
                 const int *window, int filter, uint8_t *out);

/* From now on the first pixel of a row is that of this column; x follows. */
void resize_from(struct resize *resize, int column);

/* Row number y: each from y.start on, one after the other, up to y.end. Of its pixels only those from x.start to x.end are read. */
void resize_row(struct resize *resize, int y, const uint8_t *pixels);

void resize_end(struct resize *resize);
