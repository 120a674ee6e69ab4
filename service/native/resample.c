/* Resize as Pillow does, bit for bit, but only what is cut out, several channels at once, into packed RGB.

   Pillow makes the whole resized picture, a channel at a time. Here a row is worked on as soon as it is there, so that it is still
   in the nearest cache. Same order (across, then down; or down first), same fixed point, same rounding.

   Source of the method: Pillow, src/libImaging/Resample.c (antialiased, separable convolution with 22 bits of fraction).
   Built by service/native/build; used by resample.py, and row by row by jpeg.c. */

#include "resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef PRECISION
#define PRECISION 22   /* bits of fraction of a weight */
#endif
#define HALF (1 << (PRECISION - 1))
#define LANES 16       /* bytes that are made at once, going down */

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x) {  /* Keys, 1981, with a = -0.5 */
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

static const struct { double (*of)(double), support; } FILTERS[] = {{triangle, 1.0}, {cubic, 2.0}, {lanczos, 3.0}};

static int prepare(struct axis *axis, int size, float from, float to, int full, int start, int end, int filter) {
    const double scale = (double)(to - from) / full, widened = scale < 1.0 ? 1.0 : scale;
    const double support = FILTERS[filter].support * widened, inverse = 1.0 / widened;
    axis->length = end - start;
    axis->taps = (int)ceil(support) * 2 + 2;
    axis->paired = 1, axis->start = size, axis->end = 0;
    axis->first = calloc(axis->length, sizeof *axis->first);
    axis->count = calloc(axis->length, sizeof *axis->count);
    axis->weight = calloc((size_t)axis->length * axis->taps, sizeof *axis->weight);
    double *exact = malloc(axis->taps * sizeof *exact);
    if (!axis->first || !axis->count || !axis->weight || !exact) {
        free(exact);
        return NO_MEMORY;
    }
    for (int i = 0; i < axis->length; i++) {
        const double centre = from + (start + i + 0.5) * scale;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (last > size) last = size;
        int count = last - first;
        double sum = 0.0;
        for (int t = 0; t < count; t++) sum += exact[t] = FILTERS[filter].of((t + first - centre + 0.5) * inverse);
        int32_t *weight = axis->weight + (size_t)i * axis->taps;
        for (int t = 0; t < count; t++) {
            const double share = sum != 0.0 ? exact[t] / sum : exact[t];
            weight[t] = (int32_t)((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION));
        }
        if (count % 2) {  /* a weight of 0 makes a pair, where there is another pixel */
            if (first + count < size) {
                count++;
            } else if (first > 0) {
                memmove(weight + 1, weight, count * sizeof *weight);
                weight[0] = 0;
                first--, count++;
            } else {
                axis->paired = 0;
            }
        }
        axis->first[i] = first, axis->count[i] = count;
        if (first < axis->start) axis->start = first;
        if (first + count > axis->end) axis->end = first + count;
    }
    free(exact);
    return OK;
}

static void release(struct axis *axis) {
    free(axis->first), free(axis->count), free(axis->weight);
}

static uint8_t clipped(int32_t sum) {
    sum >>= PRECISION;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

static void across(const uint8_t *row, const struct axis *axis, uint8_t *out) {
    for (int i = 0; i < axis->length; i++, out += CHANNELS) {
        const uint8_t *pixel = row + CHANNELS * (size_t)axis->first[i];
        const int32_t *weight = axis->weight + (size_t)i * axis->taps;
        int32_t red = HALF, green = HALF, blue = HALF;
        for (int t = 0; t < axis->count[i]; t++, pixel += CHANNELS) {
            red += pixel[0] * weight[t], green += pixel[1] * weight[t], blue += pixel[2] * weight[t];
        }
        out[0] = clipped(red), out[1] = clipped(green), out[2] = clipped(blue);
    }
}

static void down(const uint8_t *const *rows, const int32_t *weight, int count, int bytes, uint8_t *out) {
    for (int i = 0; i < bytes; i++) {
        int32_t sum = HALF;
        for (int t = 0; t < count; t++) sum += rows[t][i] * weight[t];
        out[i] = clipped(sum);
    }
}

/* The fourth byte falls away. */
static void pack(const uint8_t *pixel, int count, uint8_t *out) {
    for (int p = 0; p < count; p++, pixel += CHANNELS, out += 3) memcpy(out, pixel, 3);
}

#if defined(__x86_64__) && !defined(PORTABLE)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

/* Two pixels of four channels at once; only where `paired`, for nothing may be read behind the last pixel. */
AVX2 static void across_avx2(const uint8_t *row, const struct axis *axis, uint8_t *out) {
    const __m256i each = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const int32_t *weight = axis->weight;
    for (int i = 0; i < axis->length; i++, weight += axis->taps, out += CHANNELS) {
        const uint8_t *pixel = row + CHANNELS * (size_t)axis->first[i];
        __m256i both = _mm256_setzero_si256();
        for (int t = 0; t < axis->count[i]; t += 2) {
            const __m256i pair = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(weight + t)));
            const __m256i weights = _mm256_permutevar8x32_epi32(pair, each);
            const __m256i pixels = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pixel + CHANNELS * t)));
            both = _mm256_add_epi32(both, _mm256_mullo_epi32(pixels, weights));
        }
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(HALF)), PRECISION);
        sum = _mm_packs_epi32(sum, sum);
        const int32_t made = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
        memcpy(out, &made, CHANNELS);
    }
}

AVX2 static __m256i widened(const uint8_t *bytes) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes)); }

/* Rows and `out` have room for a multiple of LANES bytes. */
AVX2 static void down_avx2(const uint8_t *const *rows, const int32_t *weight, int count, int bytes, uint8_t *out) {
    for (int i = 0; i < bytes; i += LANES) {
        __m256i low = _mm256_set1_epi32(HALF), high = low;
        for (int t = 0; t < count; t++) {
            const __m256i weights = _mm256_set1_epi32(weight[t]);
            low = _mm256_add_epi32(low, _mm256_mullo_epi32(weights, widened(rows[t] + i)));
            high = _mm256_add_epi32(high, _mm256_mullo_epi32(weights, widened(rows[t] + i + LANES / 2)));
        }
        low = _mm256_srai_epi32(low, PRECISION), high = _mm256_srai_epi32(high, PRECISION);
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);  /* packs within halves */
        const __m128i made = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(out + i), made);
    }
}

AVX2 static void pack_avx2(const uint8_t *pixel, int count, uint8_t *out) {
    const __m128i three = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (; count >= 8; count -= 4, pixel += 16, out += 12) {  /* 16 bytes are written: the 4 behind belong to the next */
        const __m128i four = _mm_loadu_si128((const __m128i *)pixel);
        _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(four, three));
    }
    pack(pixel, count, out);
}

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
static int has_avx2(void) { return 0; }
#define across_avx2 across
#define down_avx2 down
#define pack_avx2 pack
#endif

PUBLIC int quadrant_vectors(void) { return has_avx2(); }

int resize_begin(struct resize *resize, int width, int height, const float *box, int full_width, int full_height,
                 const int *window, int filter, uint8_t *out) {
    const int wide = window[2] - window[0], tall = window[3] - window[1];
    if (filter < 0 || filter > 2 || window[0] < 0 || window[1] < 0 || wide < 1 || tall < 1 || window[2] > full_width ||
        window[3] > full_height || !(box[0] >= 0 && box[1] >= 0 && box[0] < box[2] && box[1] < box[3] && box[2] <= width &&
                                     box[3] <= height))
        return NO_SENSE;
    memset(resize, 0, sizeof *resize);
    resize->out = out;
    resize->down_first = height > full_height && height - full_height > 2 * (width - full_width);
    int missing = prepare(&resize->x, width, box[0], box[2], full_width, window[0], window[2], filter) ||
                  prepare(&resize->y, height, box[1], box[3], full_height, window[1], window[3], filter);
    if (!missing) {
        resize->line = CHANNELS * (size_t)(resize->down_first ? resize->x.end : wide) + 2 * LANES;
        resize->ring = calloc(resize->y.taps + 1, resize->line);
        resize->narrow = calloc(wide + LANES, CHANNELS);
        resize->rows = calloc(resize->y.taps, sizeof *resize->rows);
        missing = !resize->ring || !resize->narrow || !resize->rows;
    }
    if (missing) {
        resize_end(resize);
        return NO_MEMORY;
    }
    return OK;
}

void resize_from(struct resize *resize, int column) {
    for (int i = 0; i < resize->x.length; i++) resize->x.first[i] -= column;
    resize->x.start -= column, resize->x.end -= column;
}

void resize_row(struct resize *resize, int y, const uint8_t *pixels) {
    const struct axis *rows = &resize->y, *columns = &resize->x;
    const int vectors = has_avx2(), down_first = resize->down_first;
    void (*const narrow)(const uint8_t *, const struct axis *, uint8_t *) = vectors && columns->paired ? across_avx2 : across;
    const size_t from = down_first ? CHANNELS * (size_t)columns->start : 0;  /* in each row of the ring */
    const size_t bytes = CHANNELS * (size_t)(down_first ? columns->end - columns->start : columns->length);
    uint8_t *held = resize->ring + resize->line * (y % rows->taps), *made = resize->ring + resize->line * rows->taps;
    if (down_first) {
        memcpy(held + from, pixels + from, bytes);
    } else {
        narrow(pixels, columns, held);
    }
    for (; resize->done < rows->length; resize->done++) {
        const int first = rows->first[resize->done], count = rows->count[resize->done];
        if (first + count > y + 1) break;
        for (int t = 0; t < count; t++) resize->rows[t] = resize->ring + resize->line * ((first + t) % rows->taps) + from;
        (vectors ? down_avx2 : down)(resize->rows, rows->weight + (size_t)resize->done * rows->taps, count, bytes, made + from);
        if (down_first) narrow(made, columns, resize->narrow);
        (vectors ? pack_avx2 : pack)(down_first ? resize->narrow : made, columns->length, resize->out);
        resize->out += 3 * (size_t)columns->length;
    }
}

void resize_end(struct resize *resize) {
    release(&resize->x), release(&resize->y), free(resize->ring), free(resize->narrow), free(resize->rows);
}

/* pixels: (height, width, 4), one behind the other; the rest as in resize_begin. */
PUBLIC int quadrant_resample(const uint8_t *pixels, int width, int height, const float *box, int full_width, int full_height,
                             const int *window, int filter, uint8_t *out) {
    struct resize resize;
    const int begun = resize_begin(&resize, width, height, box, full_width, full_height, window, filter, out);
    if (begun) return begun;
    for (int y = resize.y.start; y < resize.y.end; y++) resize_row(&resize, y, pixels + CHANNELS * (size_t)width * y);
    resize_end(&resize);
    return OK;
}
