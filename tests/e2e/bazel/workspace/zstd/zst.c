/* A small command-line front to libzstd: zst -c|-d LEVEL < in > out. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zstd.h"

enum { CHUNK = 1 << 16 };

static char input[CHUNK];
static char output[CHUNK];

static size_t checked(size_t code) {
  if (ZSTD_isError(code)) {
    fprintf(stderr, "zst: %s\n", ZSTD_getErrorName(code));
    exit(1);
  }
  return code;
}

static void emit(const ZSTD_outBuffer* out) {
  if (fwrite(output, 1, out->pos, stdout) != out->pos) {
    perror("zst: write");
    exit(1);
  }
}

static void compress_stream(int level) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  int last = 0;
  checked(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level));
  checked(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1));
  while (!last) {
    ZSTD_inBuffer in = {input, fread(input, 1, CHUNK, stdin), 0};
    size_t left = 0;
    last = feof(stdin);
    do {
      ZSTD_outBuffer out = {output, CHUNK, 0};
      left = checked(
          ZSTD_compressStream2(context, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue));
      emit(&out);
    } while (last ? left != 0 : in.pos < in.size);
  }
  ZSTD_freeCCtx(context);
}

static void decompress_stream(void) {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  size_t expected = 0;
  size_t got = 0;
  while ((got = fread(input, 1, CHUNK, stdin)) > 0) {
    ZSTD_inBuffer in = {input, got, 0};
    while (in.pos < in.size) {
      ZSTD_outBuffer out = {output, CHUNK, 0};
      expected = checked(ZSTD_decompressStream(context, &out, &in));
      emit(&out);
    }
  }
  if (expected != 0) {
    fputs("zst: input ends in the middle of a frame\n", stderr);
    exit(1);
  }
  ZSTD_freeDCtx(context);
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "-c") == 0) {
    compress_stream(atoi(argv[2]));
  } else if (argc == 2 && strcmp(argv[1], "-d") == 0) {
    decompress_stream();
  } else {
    fputs("usage: zst -c LEVEL | zst -d\n", stderr);
    return 2;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}
