/* Round trips through libzstd: every level, with a trained dictionary, and damaged frames. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zdict.h"
#include "zstd.h"

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

enum { SIZE = 1 << 16, SAMPLES = 512, SAMPLE = 128 };

static unsigned char text[SIZE], packed[2 * SIZE], unpacked[SIZE];

static void fill(void) {
  unsigned state = 1;
  for (size_t i = 0; i < SIZE; i++) {
    state = state * 1103515245u + 12345u;
    text[i] = (unsigned char)("etaoin shrdlu\n"[(state >> 16) % 14]);
  }
}

static void every_level_gives_the_text_back(void) {
  for (int level = -5; level <= ZSTD_maxCLevel(); level++) {
    size_t size = ZSTD_compress(packed, sizeof packed, text, SIZE, level);
    CHECK(!ZSTD_isError(size));
    CHECK(level < 1 || size < SIZE);
    CHECK(ZSTD_decompress(unpacked, SIZE, packed, size) == SIZE);
    CHECK(memcmp(text, unpacked, SIZE) == 0);
  }
}

static void a_trained_dictionary_helps(void) {
  static char dictionary[4096];
  static size_t sizes[SAMPLES];
  for (int i = 0; i < SAMPLES; i++) sizes[i] = SAMPLE;
  size_t size = ZDICT_trainFromBuffer(dictionary, sizeof dictionary, text, sizes, SAMPLES);
  CHECK(!ZDICT_isError(size));

  ZSTD_CCtx* compressor = ZSTD_createCCtx();
  ZSTD_DCtx* decompressor = ZSTD_createDCtx();
  size_t with = ZSTD_compress_usingDict(
      compressor, packed, sizeof packed, text, SAMPLE, dictionary, size, 3);
  CHECK(!ZSTD_isError(with));
  CHECK(ZSTD_decompress_usingDict(
            decompressor, unpacked, SIZE, packed, with, dictionary, size) == SAMPLE);
  CHECK(memcmp(text, unpacked, SAMPLE) == 0);
  ZSTD_freeDCtx(decompressor);
  ZSTD_freeCCtx(compressor);
}

static void a_damaged_frame_is_refused(void) {
  size_t size = ZSTD_compress(packed, sizeof packed, text, SIZE, 3);
  CHECK(ZSTD_isError(ZSTD_decompress(unpacked, SIZE, packed, size - 1)));
  packed[0] ^= 0xff;
  CHECK(ZSTD_isError(ZSTD_decompress(unpacked, SIZE, packed, size)));
}

int main(void) {
  fill();
  every_level_gives_the_text_back();
  a_trained_dictionary_helps();
  a_damaged_frame_is_refused();
  return 0;
}
