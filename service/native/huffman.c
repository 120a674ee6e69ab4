/* An MCU's coefficients out of a baseline JPEG's bits: what libjpeg-turbo's decode_mcu gives, a third sooner.

   libjpeg's loop finds a code, takes it away, looks for bits, and takes the value: each step waits for the one before. Here one look-up
   tells how many bits code and value have together, so that the next code is looked up at once, while the value is still being made.

   State is libjpeg's own between two MCUs. What is not plain (a marker, a code that doesn't exist, the last bytes) is left untouched to
   libjpeg's decode_mcu, so that everything unusual stays its own.

   Source of the method: ITU-T T.81, F.2.2 and annex C; libjpeg-turbo, jdhuff.c; refilling as F. Giesen, "Reading bits in far too many
   ways". */

#include "huffman.h"

#include <string.h>

#define LEAST 54       /* bits of two codes (16 each) and their values */
#define MOST_DC 11     /* bits of a value: with 8 bits a sample there are no longer ones */
#define MOST_AC 10
#define BYTES 512      /* that a block can't be longer than: 64 codes with values, each byte stuffed; and what is read ahead */
#define END 128        /* more than any place of a coefficient: the rest of the block is zero */
#define REFUSED 255    /* likewise, of what is left to libjpeg */

static const uint8_t natural_order[64] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* Bits of code and value together, bits of the code, bits of the value, and how far it leads. */
static uint32_t entry_of(int length, int symbol, int most) {
    const int size = symbol & 15, zeros = symbol >> 4, far = most == MOST_DC ? 0 : size || zeros == 15 ? zeros + 1 : END;
    if (size > most) return (uint32_t)REFUSED << 24;
    return (uint32_t)(length + size) | (uint32_t)length << 8 | (uint32_t)size << 16 | (uint32_t)far << 24;
}

/* Whether they are codes; libjpeg has checked those that it reads with, but who knows whether these are those. */
static int fill(struct lookup *table, const struct code *code, int most) {
    memset(table->of, 0, sizeof table->of);
    table->code = code, table->most = most;
    int next = 0, place = 0;
    for (int length = 1; length <= 16; length++, next <<= 1) {
        const int count = code->count[length];
        table->from[length] = place - next;
        table->greatest[length] = count ? next + count - 1 : -1;
        if (next + count > 1 << length || place + count > 256) return 0;
        for (int i = 0; i < count; i++, next++, place++) {
            if (length > LOOK) continue;
            const uint32_t entry = entry_of(length, code->symbol[place], most);
            uint32_t *first = table->of + (next << (LOOK - length));
            for (int same = 0; same < 1 << (LOOK - length); same++) first[same] = entry;
        }
    }
    return 1;
}

/* What is longer than LOOK. */
static __attribute__((noinline, cold)) uint32_t longer(const struct lookup *table, uint64_t bits) {
    for (int length = LOOK + 1; length <= 16; length++) {
        const int code = bits >> (64 - length);
        if (code <= table->greatest[length])
            return entry_of(length, table->code->symbol[(code + table->from[length]) & 255], table->most);
    }
    return (uint32_t)REFUSED << 24;
}

/* Its inside is what it is taken for: pointers and flags agree with what is public. */
static int known(const struct decompress *jpeg) {
    const struct entropy *inside = jpeg->entropy;
    if (!inside || inside->insufficient_data || inside->bits || jpeg->blocks_in_mcu < 1 || jpeg->blocks_in_mcu > MOST_BLOCKS) return 0;
    for (int i = 0; i < jpeg->blocks_in_mcu; i++) {
        const int which = jpeg->membership[i];
        if (which < 0 || which >= jpeg->comps_in_scan) return 0;
        const struct component *of = jpeg->in_scan[which];
        if (of->dc < 0 || of->dc >= TABLES || of->ac < 0 || of->ac >= TABLES || inside->last_dc[which]) return 0;
        if (!jpeg->dc_codes[of->dc] || !jpeg->ac_codes[of->ac]) return 0;
        if (!inside->dc_of_block[i] || inside->dc_of_block[i] != inside->dc_tables[of->dc] || inside->dc_needed[i] != 1 ||
            !inside->ac_of_block[i] || inside->ac_of_block[i] != inside->ac_tables[of->ac] || inside->ac_needed[i] != 1)
            return 0;
    }
    return 1;
}

/* Up to its end, a marker, no 0xFF follows another: what the two ways of libjpeg make of that depends on how far it has read ahead. */
static int unfilled(const struct source *source) {
    const uint8_t *next = source->next, *end = next + source->left;
    while ((next = memchr(next, 0xFF, end - next)) && end - next > 1) {
        if (next[1]) return next[1] != 0xFF;
        next += 2;
    }
    return 1;
}

void huffman_begin(struct decompress *jpeg, struct huffman *huffman, decode_mcu *decode) {
    /* All that is there in the first scan: of several, jpeg_start_decompress has read all, and the tables behind them. */
    const int plain = jpeg->input_scan_number == 1 && jpeg->comps_in_scan == jpeg->num_components && jpeg->data_precision == 8 &&
                      !jpeg->progressive_mode && !jpeg->arith_code && !jpeg->restart_interval && jpeg->first_coefficient == 0 &&
                      jpeg->last_coefficient == 63;
    if (!plain || !known(jpeg) || !unfilled(jpeg->source)) return;
    unsigned filled = 0;
    for (int i = 0; i < jpeg->blocks_in_mcu; i++) {
        const struct component *of = jpeg->in_scan[jpeg->membership[i]];
        huffman->dc[i] = huffman->tables + of->dc, huffman->ac[i] = huffman->tables + TABLES + of->ac;
        if (!(filled & 1u << of->dc) && !fill(huffman->dc[i], jpeg->dc_codes[of->dc], MOST_DC)) return;
        if (!(filled & 16u << of->ac) && !fill(huffman->ac[i], jpeg->ac_codes[of->ac], MOST_AC)) return;
        filled |= 1u << of->dc | 16u << of->ac;
    }
    huffman->usual = jpeg->entropy->decode_mcu;
    jpeg->entropy->decode_mcu = decode;
}

struct reader {
    uint64_t bits;     /* the next one is the highest; behind `count` they are the right ones or zero */
    int count;
    const uint8_t *next;
};

/* Enough for two codes and their values, unless a marker is in the way. There are 63 bits at most: an MCU begins with no more, and
   between two calls at least one code is taken. */
static inline __attribute__((always_inline)) int refill(struct reader *reader) {
    uint64_t word;
    memcpy(&word, reader->next, sizeof word);
    const int more = (63 - reader->count) >> 3;
    const uint64_t high = UINT64_C(0x8080808080808080), taken = word & ((UINT64_C(1) << 8 * more) - 1);
    if (__builtin_expect(!(((taken & ~high) + (high >> 7)) & taken & high), 1)) {  /* no byte is 0xFF */
        reader->bits |= __builtin_bswap64(word) >> reader->count;
        reader->next += more, reader->count += 8 * more;
        return 1;
    }
    while (reader->count <= 56) {
        const uint64_t byte = *reader->next;
        if (byte == 0xFF && reader->next[1]) break;
        reader->next += byte == 0xFF ? 2 : 1;
        reader->bits |= byte << (56 - reader->count);
        reader->count += 8;
    }
    return reader->count >= LEAST;
}

/* The next code's entry. */
static inline __attribute__((always_inline)) uint32_t look(const struct lookup *table, const struct reader *reader) {
    const uint32_t entry = table->of[reader->bits >> (64 - LOOK)];
    return __builtin_expect(entry != 0, 1) ? entry : longer(table, reader->bits);
}

/* Go on behind a code and its value, and give that: T.81, F.2.2.1, EXTEND. */
static inline __attribute__((always_inline)) int take(struct reader *reader, uint32_t entry) {
    const int total = entry & 255, size = entry >> 16 & 15;
    const uint64_t its = reader->bits << (entry >> 8 & 255);
    const int low = its >> 1 >> (63 - size), negative = (int64_t)~its >> 63;
    reader->bits <<= total, reader->count -= total;
    return low + (negative & (1 - (1 << size)));
}

/* From coefficient k to the next one that isn't zero, or the last one of 16 zeros, or behind the end: END or more. */
static inline __attribute__((always_inline)) int coefficient(const struct lookup *table, struct reader *reader, int k, int16_t *out) {
    const uint32_t entry = look(table, reader);
    const int made = take(reader, entry);
    k += entry >> 24;
    if (k < 64) out[natural_order[k]] = made;
    return k;
}

static inline __attribute__((always_inline)) int mcu(struct decompress *jpeg, struct huffman *huffman, block **blocks) {
    struct entropy *inside = jpeg->entropy;
    struct source *source = jpeg->source;
    if (jpeg->unread_marker || inside->insufficient_data || inside->bits > 63) return 0;
    if (source->left < BYTES * (size_t)jpeg->blocks_in_mcu) return 0;
    struct reader reader = {inside->bits ? inside->buffer << (64 - inside->bits) : 0, inside->bits, source->next};
    int last_dc[4];
    memcpy(last_dc, inside->last_dc, sizeof last_dc);
    block nowhere;
    for (int i = 0; i < jpeg->blocks_in_mcu; i++) {
        int16_t *out = blocks ? *blocks[i] : nowhere;
        if (!refill(&reader)) return 0;
        const uint32_t entry = look(huffman->dc[i], &reader);
        if (entry >> 24) return 0;
        const int which = jpeg->membership[i];
        out[0] = last_dc[which] = (unsigned)last_dc[which] + take(&reader, entry);
        const struct lookup *table = huffman->ac[i];
        int k = coefficient(table, &reader, 0, out);
        while (k < 63) {
            if (!refill(&reader)) return 0;
            if ((k = coefficient(table, &reader, k, out)) < 63) k = coefficient(table, &reader, k, out);
        }
        if (k != 63 && (k < END || k >= REFUSED)) return 0;
    }
    source->left -= reader.next - source->next, source->next = reader.next;
    inside->buffer = reader.count ? reader.bits >> (64 - reader.count) : 0, inside->bits = reader.count;
    memcpy(inside->last_dc, last_dc, sizeof last_dc);
    return 1;
}

#if defined(__x86_64__) && !defined(PORTABLE)
/* With BMI2's shifts, which wait for no flags. */
__attribute__((target("bmi2"))) static int mcu_bmi2(struct decompress *jpeg, struct huffman *huffman, block **blocks) {
    return mcu(jpeg, huffman, blocks);
}
static int has_bmi2(void) { return __builtin_cpu_supports("bmi2"); }
#else
static int has_bmi2(void) { return 0; }
#define mcu_bmi2 mcu
#endif

int huffman_decode(struct decompress *jpeg, struct huffman *huffman, block **blocks) {
    const int done = (has_bmi2() ? mcu_bmi2 : mcu)(jpeg, huffman, blocks);
    huffman->mcus += done;
    return done || huffman->usual(jpeg, blocks);
}
