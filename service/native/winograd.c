/* Winograd's minimal filtering, F(2 × 2, 3 × 3): 16 multiplications for 2 × 2 pixels of a result, where a plain convolution has 36.

   A tile of 4 × 4 pixels d becomes v = Bᵀ d B, the weights g of 3 × 3 became u = G g Gᵀ when the model was packed; for each of the
   16 places the sum over channels of v · u is a matrix product, m; a tile of the result is Aᵀ m A. Bᵀ and Aᵀ hold 0, 1 and -1 only,
   so that little is lost: about as many bits as a plain convolution in another order.

   A tile's sums are made in the same order whatever tiles are beside it: a picture's answer doesn't depend on its company.

   Source: Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2016), 4.1; Winograd, 1980. The blocked layout is that of
   ONNX Runtime's com.microsoft.nchwc operators (mlas, snchwc.cpp). */

#include "winograd.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define NEAR 128       /* channels whose weights for a group lie in the nearest cache */
#define EDGE 4         /* of a tile */

#define LANES 16
#define VECTORS 4      /* of filters in a group */
#define ROWS 6         /* tiles whose sums fit into registers: ROWS × VECTORS of them, VECTORS weights, one value */
#define TARGET __attribute__((target("avx512f")))
#define NAMED(name) name##_avx512
#define VECTOR __m512
#define V(operation) _mm512_##operation##_ps
#include "winograd_tiles.h"
#undef LANES
#undef VECTORS
#undef TARGET
#undef NAMED
#undef VECTOR
#undef V

#define LANES 8
#define VECTORS 2
#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(name) name##_avx2
#define VECTOR __m256
#define V(operation) _mm256_##operation##_ps
#include "winograd_tiles.h"

static int has_avx512(void) { return __builtin_cpu_supports("avx512f"); }

static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

int winograd_lanes(void) { return !has_avx2() ? 0 : has_avx512() ? 16 : 8; }

int winograd_group(int lanes) { return lanes == 16 && has_avx512() ? group_avx512() : lanes == 8 && has_avx2() ? group_avx2() : 0; }

void winograd_input(const struct layer *layer, const float *in, int first, int tiles, float *v) {
    (layer->lanes == 16 ? input_avx512 : input_avx2)(layer, in, first, tiles, v);
}

void winograd_filter(const struct layer *layer, const float *v, int first, int tiles, int group, const float *u, const float *bias,
                     float *m, float *out) {
    (layer->lanes == 16 ? filter_avx512 : filter_avx2)(layer, v, first, tiles, group, u, bias, m, out);
}
#else
int winograd_lanes(void) { return 0; }

int winograd_group(int lanes) { return 0 * lanes; }

void winograd_input(const struct layer *layer, const float *in, int first, int tiles, float *v) {
    (void)layer, (void)in, (void)first, (void)tiles, (void)v;
}

void winograd_filter(const struct layer *layer, const float *v, int first, int tiles, int group, const float *u, const float *bias,
                     float *m, float *out) {
    (void)layer, (void)v, (void)first, (void)tiles, (void)group, (void)u, (void)bias, (void)m, (void)out;
}
#endif
