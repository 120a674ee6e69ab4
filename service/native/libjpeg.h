/* What jpeglib.h of libjpeg-turbo calls by other names, as far as it is used here: ABI 62, pointers of 64 bits.
   jpeg_CreateDecompress checks the size of the structure. */

#include <stddef.h>
#include <stdint.h>

/* Tests change those in #ifndef, and expect it to be noticed. */
#ifndef ABI
#define ABI 62
#endif
#define RGB 2          /* of J_COLOR_SPACE */
#define YCBCR 3
#define RGBX 7
#define MOST_BLOCKS 10 /* in an MCU */
#define TABLES 4       /* of each kind */

struct source {        /* jpeg_source_mgr */
    const uint8_t *next;
    size_t left;       /* bytes */
};

struct code {          /* JHUFF_TBL */
    uint8_t count[17]; /* of codes of each length; the first is unused */
    uint8_t symbol[256];
};

struct component {     /* the head of jpeg_component_info */
    int id, index, across, down, quantisation, dc, ac;
};

struct decompress;

struct progress {      /* jpeg_progress_mgr */
    void (*monitor)(struct decompress *);
    long pass_counter, pass_limit;
    int completed_passes, total_passes;
};

struct decompress {    /* jpeg_decompress_struct */
    void *err, *mem;
    struct progress *progress;
    void *client_data;
    int is_decompressor, global_state;
    struct source *source;
    unsigned image_width, image_height;
    int num_components, jpeg_color_space, out_color_space;
    unsigned scale_num, scale_denom;
    double output_gamma;
    int buffered_image, raw_data_out, dct_method, do_fancy_upsampling, do_block_smoothing;
    int quantize_colors, dither_mode, two_pass_quantize, desired_number_of_colors;
    int enable_1pass_quant, enable_external_quant, enable_2pass_quant;
    unsigned output_width, output_height;
    int out_color_components, output_components, rec_outbuf_height, actual_number_of_colors;
    void *colormap;
    unsigned output_scanline;
    int input_scan_number;
    unsigned input_imcu_row;
    int output_scan_number;
    unsigned output_imcu_row;
    void *coef_bits, *quant_tables[TABLES];
    struct code *dc_codes[TABLES], *ac_codes[TABLES];
    int data_precision;
    struct component *components;
    int progressive_mode, arith_code;
    uint8_t arithmetic[3][16];
    unsigned restart_interval;
    int saw_jfif;
    uint8_t jfif_major, jfif_minor, density_unit;
    uint16_t density_x, density_y;
    int saw_adobe;
    uint8_t adobe_transform;
    int cosited;
    void *markers;
    int most_across, most_down, least_scaled;
    unsigned imcu_rows;
    void *range_limit;
    int comps_in_scan;
    struct component *in_scan[4];
    unsigned mcus_per_row, mcu_rows;
    int blocks_in_mcu, membership[MOST_BLOCKS];  /* of each block: its component's place in in_scan */
    int first_coefficient, last_coefficient, high_bit, low_bit;
    int unread_marker;
    void *master, *main, *coef, *post, *inputctl, *marker;
    void *entropy;
    void *idct, *upsample, *cconvert, *cquantize;
};

_Static_assert(sizeof(void *) != 8 || sizeof(struct decompress) == 632, "jpeg_decompress_struct of ABI 62 has 632 bytes");
