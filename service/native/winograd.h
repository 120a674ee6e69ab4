/* A 3 × 3 convolution of stride 1 by Winograd's F(2 × 2, 3 × 3), on pictures in ONNX Runtime's blocked layout; see winograd.c. */

#include <stddef.h>

#define PLACES 16      /* of a transformed tile, 4 × 4 */

struct layer {
    int lanes;         /* channels of a block: 16 (AVX-512) or 8 (AVX2 and FMA) */
    int pictures, channels, height, width, top, left;   /* what comes in, and its padding */
    int filters, out_height, out_width, relu;           /* what goes out */
    int down, across;  /* tiles of 2 × 2 that cover a picture of the result */
};

/* Channels of a block in the layout that ONNX Runtime chooses on this processor; 0: the code can't run here. */
int winograd_lanes(void);

/* Filters that are worked on at once, for blocks of so many channels; 0: the processor can't. */
int winograd_group(int lanes);

/* in (pictures, channels / lanes, height, width, lanes) → v (PLACES, channels / lanes, tiles, lanes), from tile number `first` on;
   tiles are counted across, down, then over pictures. */
void winograd_input(const struct layer *layer, const float *in, int first, int tiles, float *v);

/* v and u (filters / group, PLACES, channels, group) → the part of out (pictures, filters / lanes, out_height, out_width, lanes) that
   these tiles and this group of filters make. m has room for (PLACES, tiles, group). bias (filters). */
void winograd_filter(const struct layer *layer, const float *v, int first, int tiles, int group, const float *u, const float *bias,
                     float *m, float *out);
