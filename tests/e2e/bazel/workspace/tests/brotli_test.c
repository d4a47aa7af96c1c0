/* Round trips through the Brotli encoder and decoder at every quality, and a cut stream. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <brotli/decode.h>
#include <brotli/encode.h>

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

enum { SIZE = 1 << 14 };

static unsigned char text[SIZE], packed[2 * SIZE], unpacked[SIZE];

int main(void) {
  for (size_t i = 0; i < SIZE; i++) text[i] = (unsigned char)("abracadabra"[(i * i) % 11]);

  for (int quality = BROTLI_MIN_QUALITY; quality <= BROTLI_MAX_QUALITY; quality++) {
    size_t packed_size = sizeof packed;
    size_t unpacked_size = sizeof unpacked;
    CHECK(BrotliEncoderCompress(quality, BROTLI_DEFAULT_WINDOW, BROTLI_MODE_GENERIC, SIZE, text,
                                &packed_size, packed));
    CHECK(BrotliDecoderDecompress(packed_size, packed, &unpacked_size, unpacked) ==
          BROTLI_DECODER_RESULT_SUCCESS);
    CHECK(unpacked_size == SIZE && memcmp(text, unpacked, SIZE) == 0);

    unpacked_size = sizeof unpacked;
    CHECK(BrotliDecoderDecompress(packed_size - 1, packed, &unpacked_size, unpacked) !=
          BROTLI_DECODER_RESULT_SUCCESS);
  }
  return 0;
}
