/* Included by winograd.c for each width of vectors; the names in capitals are defined there. */

/* Filters that are worked on at once. */
static int NAMED(group)(void) { return VECTORS * LANES; }

/* Where a tile lies; the next is one further across. */
struct NAMED(place) { int x, y, picture; };

static inline struct NAMED(place) NAMED(at)(const struct layer *layer, int tile) {
    return (struct NAMED(place)){tile % layer->across, tile / layer->across % layer->down, tile / layer->across / layer->down};
}

static inline void NAMED(next)(const struct layer *layer, struct NAMED(place) *place) {
    if (++place->x < layer->across) return;
    place->x = 0;
    if (++place->y < layer->down) return;
    place->y = 0, place->picture++;
}

TARGET static void NAMED(input)(const struct layer *layer, const float *in, int first, int tiles, float *v) {
    const int blocks = layer->channels / LANES, height = layer->height, width = layer->width;
    const size_t apart = (size_t)blocks * tiles * LANES;
    for (int block = 0; block < blocks; block++) {
        struct NAMED(place) at = NAMED(at)(layer, first);
        for (int tile = 0; tile < tiles; tile++, v += LANES, NAMED(next)(layer, &at)) {
            const int top = 2 * at.y - layer->top, left = 2 * at.x - layer->left;
            const float *from = in + ((size_t)at.picture * blocks + block) * height * width * LANES;
            VECTOR d[EDGE][EDGE], half[EDGE][EDGE];
            if (top >= 0 && left >= 0 && top + EDGE <= height && left + EDGE <= width) {
                for (int i = 0; i < EDGE; i++)
                    for (int j = 0; j < EDGE; j++) d[i][j] = V(loadu)(from + ((size_t)(top + i) * width + left + j) * LANES);
            } else {
                for (int i = 0; i < EDGE; i++)
                    for (int j = 0; j < EDGE; j++) {
                        const int y = top + i, x = left + j, inside = y >= 0 && y < height && x >= 0 && x < width;
                        d[i][j] = inside ? V(loadu)(from + ((size_t)y * width + x) * LANES) : V(setzero)();
                    }
            }
            for (int j = 0; j < EDGE; j++) {
                half[0][j] = d[0][j] - d[2][j], half[1][j] = d[1][j] + d[2][j];
                half[2][j] = d[2][j] - d[1][j], half[3][j] = d[1][j] - d[3][j];
            }
            for (int i = 0; i < EDGE; i++) {
                V(storeu)(v + (EDGE * i + 0) * apart, half[i][0] - half[i][2]);
                V(storeu)(v + (EDGE * i + 1) * apart, half[i][1] + half[i][2]);
                V(storeu)(v + (EDGE * i + 2) * apart, half[i][2] - half[i][1]);
                V(storeu)(v + (EDGE * i + 3) * apart, half[i][1] - half[i][3]);
            }
        }
    }
}

/* m (rows, VECTORS * LANES) += v times u, of a number of tiles that the compiler knows. */
TARGET static inline __attribute__((always_inline)) void NAMED(sums)(const int rows, const float *v, size_t apart, const float *u,
                                                                   int channels, int begin, float *m) {
    VECTOR sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < VECTORS; n++) sum[r][n] = begin ? V(setzero)() : V(loadu)(m + (r * VECTORS + n) * LANES);
    for (int block = 0; block < channels; block += LANES, v += apart)
        for (int c = 0; c < LANES; c++, u += VECTORS * LANES) {
            VECTOR weights[VECTORS];
            for (int n = 0; n < VECTORS; n++) weights[n] = V(loadu)(u + n * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const VECTOR value = V(set1)(v[r * LANES + c]);
#pragma GCC unroll 8
                for (int n = 0; n < VECTORS; n++) sum[r][n] = V(fmadd)(value, weights[n], sum[r][n]);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < VECTORS; n++) V(storeu)(m + (r * VECTORS + n) * LANES, sum[r][n]);
}

/* Of one place: m (tiles, VECTORS * LANES) = v (channels / LANES, tiles, LANES) times u (channels, VECTORS * LANES). */
TARGET static void NAMED(product)(const float *v, int tiles, const float *u, int channels, float *m) {
    const size_t apart = (size_t)tiles * LANES, group = NAMED(group)();
    for (int c = 0; c < channels; c += NEAR) {
        const int count = channels - c < NEAR ? channels - c : NEAR;
        for (int tile = 0, rows; tile < tiles; tile += rows) {
            const int left = tiles - tile;
            rows = left / ((left + ROWS - 1) / ROWS);  /* evenly: 25 are 5 times 5, not 4 times 6 and a lone one */
            const float *from = v + c / LANES * apart + tile * LANES, *by = u + c * group;
            float *to = m + tile * group;
            switch (rows) {
            case 6: NAMED(sums)(6, from, apart, by, count, !c, to); break;
            case 5: NAMED(sums)(5, from, apart, by, count, !c, to); break;
            case 4: NAMED(sums)(4, from, apart, by, count, !c, to); break;
            case 3: NAMED(sums)(3, from, apart, by, count, !c, to); break;
            case 2: NAMED(sums)(2, from, apart, by, count, !c, to); break;
            default: NAMED(sums)(1, from, apart, by, count, !c, to);
            }
        }
    }
}

TARGET static void NAMED(output)(const struct layer *layer, const float *m, int first, int tiles, int block, const float *bias,
                                 float *out) {
    const int height = layer->out_height, width = layer->out_width, blocks = layer->filters / LANES;
    const size_t apart = (size_t)tiles * VECTORS * LANES;
    const VECTOR shift = V(loadu)(bias + block * LANES), none = V(setzero)();
    struct NAMED(place) at = NAMED(at)(layer, first);
    for (int tile = 0; tile < tiles; tile++, m += VECTORS * LANES, NAMED(next)(layer, &at)) {
        VECTOR half[2][EDGE];
        for (int j = 0; j < EDGE; j++) {
            const VECTOR middle = V(loadu)(m + (EDGE + j) * apart), lower = V(loadu)(m + (2 * EDGE + j) * apart);
            half[0][j] = V(loadu)(m + j * apart) + middle + lower;
            half[1][j] = middle - lower - V(loadu)(m + (3 * EDGE + j) * apart);
        }
        for (int i = 0; i < 2 && 2 * at.y + i < height; i++) {
            VECTOR left = half[i][0] + half[i][1] + half[i][2] + shift, right = half[i][1] - half[i][2] - half[i][3] + shift;
            if (layer->relu) left = V(max)(none, left), right = V(max)(none, right);  /* in this order what is no number stays */
            float *to = out + ((((size_t)at.picture * blocks + block) * height + 2 * at.y + i) * width + 2 * at.x) * LANES;
            V(storeu)(to, left);
            if (2 * at.x + 1 < width) V(storeu)(to + LANES, right);
        }
    }
}

TARGET static void NAMED(filter)(const struct layer *layer, const float *v, int first, int tiles, int group, const float *u,
                                 const float *bias, float *m, float *out) {
    const size_t values = (size_t)tiles * layer->channels, sums = (size_t)tiles * VECTORS * LANES;
    for (int place = 0; place < PLACES; place++)
        NAMED(product)(v + place * values, tiles, u + ((size_t)group * PLACES + place) * layer->channels * VECTORS * LANES,
                       layer->channels, m + place * sums);
    for (int n = 0; n < VECTORS; n++) NAMED(output)(layer, m + n * LANES, first, tiles, group * VECTORS + n, bias, out);
}
