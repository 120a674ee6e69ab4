/* Huffman decoding in the place of libjpeg's; see huffman.c. */

#include "libjpeg.h"

#define LOOK 10        /* bits of a code that are looked up at once */

struct lookup {
    uint32_t of[1 << LOOK];        /* what the next bits mean; 0: the code is longer */
    int32_t greatest[17], from[17];  /* of the codes of each length: the greatest, and what makes a place in `code` of one */
    const struct code *code;
    int most;          /* bits of a value */
};

struct huffman {
    decode_mcu *usual;
    int64_t mcus;      /* decoded here */
    struct lookup tables[2 * TABLES], *dc[MOST_BLOCKS], *ac[MOST_BLOCKS];
};

/* After jpeg_start_decompress: from now on `decode`, which calls huffman_decode, takes libjpeg's place, if the picture is a plain one
   and this is a libjpeg whose inside is known. `huffman` is zero before, and lives as long as `jpeg`. */
void huffman_begin(struct decompress *jpeg, struct huffman *huffman, decode_mcu *decode);

/* As libjpeg's decode_mcu, which it calls for what is not plain. */
int huffman_decode(struct decompress *jpeg, struct huffman *huffman, block **blocks);
