/* One function for ctypes: the pixels of a box of a JPEG, without decoding what is outside it.
 *
 * libjpeg-turbo must still read the entropy-coded data above the box, but neither transforms nor converts it, and never
 * looks below. The box comes out bit for bit as from decoding the whole image: a margin around it gives the smooth
 * upsampling of colours the neighbours that it blends. Whatever is unusual is declined, and decoded otherwise.
 */

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

enum { DECODED = 0, DECLINED = 1 };
enum { BESIDE = 4, ABOVE = 2 }; /* pixels around the box that its own depend on, and a few more */
enum { ROWS = 16 };             /* read at once */

struct failure {
  struct jpeg_error_mgr manager; /* first, so that libjpeg's pointer is a pointer to all of this */
  jmp_buf back;
};

static void give_up(j_common_ptr codec) { longjmp(((struct failure *)codec->err)->back, 1); }

static void count_warning(j_common_ptr codec, int level) {
  if (level < 0) give_up(codec); /* damaged data: somebody else says what is wrong with it */
}

static void say_nothing(j_common_ptr codec) { (void)codec; }

static JDIMENSION smaller(JDIMENSION a, JDIMENSION b) { return a < b ? a : b; }

/* The box, RGB, into `out`: `height` rows of `stride` pixels, in each of which those of the box begin at `offset`. */
int tessera_jpeg_crop(const unsigned char *data, unsigned long size, unsigned top, unsigned left, unsigned height,
                      unsigned width, unsigned stride, unsigned char *out, unsigned *offset) {
  struct jpeg_decompress_struct codec;
  struct failure failure;
  codec.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = give_up;
  failure.manager.emit_message = count_warning;
  failure.manager.output_message = say_nothing;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&codec);
    return DECLINED;
  }
  jpeg_create_decompress(&codec);
  jpeg_mem_src(&codec, data, size);
  jpeg_read_header(&codec, TRUE);
  if ((codec.jpeg_color_space != JCS_YCbCr && codec.jpeg_color_space != JCS_GRAYSCALE) || height < 1 || width < 1 ||
      top > codec.image_height || height > codec.image_height - top || left > codec.image_width ||
      width > codec.image_width - left)
    give_up((j_common_ptr)&codec);
  codec.out_color_space = JCS_RGB;
  codec.dct_method = JDCT_ISLOW;
  codec.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&codec);

  JDIMENSION first = left > BESIDE ? left - BESIDE : 0;
  JDIMENSION columns = smaller(left + width + BESIDE, codec.output_width) - first;
  jpeg_crop_scanline(&codec, &first, &columns); /* moves `first` to the left, to where a block begins */
  if (columns > stride) give_up((j_common_ptr)&codec);

  JDIMENSION start = top > ABOVE ? top - ABOVE : 0;
  if (start && jpeg_skip_scanlines(&codec, start) != start) give_up((j_common_ptr)&codec);
  while (codec.output_scanline < top + height) {
    JSAMPROW rows[ROWS];
    for (int row = 0; row < ROWS; row++) { /* what is above the box is written where the box will overwrite it */
      JDIMENSION at = codec.output_scanline + row;
      rows[row] = out + 3 * (size_t)stride * (at > top ? at - top : 0);
    }
    JDIMENSION missing = top + height - codec.output_scanline;
    if (!jpeg_read_scanlines(&codec, rows, smaller(ROWS, missing))) give_up((j_common_ptr)&codec);
  }
  *offset = left - first;
  jpeg_destroy_decompress(&codec);
  return DECODED;
}
