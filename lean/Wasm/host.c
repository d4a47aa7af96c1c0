// The edge between the host and the extracted checker: byte strings in, one byte string out.
//
//   input()                        where the input goes, the two documents one after the other; it is the same for every instance
//   check(declaration, evidence)   takes the lengths of the two documents and says where the answer lies
//   infer(evidence)                takes the length of the only document
//   canonical(declaration)         likewise
//
// An answer is the length of its text (four bytes, little endian), the SHA-256 of the first document and that of the second
// (which is empty where there is none), so that the host can tell that these were the inputs, and the text.
//
// An instance answers one call; a second one traps, because the arena is never emptied.
#include <lean/lean.h>

#define EXPORT(name) __attribute__((export_name(#name)))

lean_object *armitage_check(lean_object *declaration, lean_object *evidence);
lean_object *armitage_infer(lean_object *evidence);
lean_object *armitage_canonical(lean_object *declaration);
lean_object *initialize_Coeffect_Extract(uint8_t builtin);

#define PAGE 65536
extern unsigned char __heap_base;
static uintptr_t next_free, end_of_memory;

void *armitage_allocate(size_t size) {
  if (next_free == 0) {
    next_free = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    end_of_memory = __builtin_wasm_memory_size(0) * PAGE;
  }
  lean_require(size < SIZE_MAX / 2);
  size = (size + 7) & ~(size_t)7;
  if (size > end_of_memory - next_free) {
    size_t pages = (size - (end_of_memory - next_free) + PAGE - 1) / PAGE + 16;
    lean_require(__builtin_wasm_memory_grow(0, pages) != SIZE_MAX);
    end_of_memory += pages * PAGE;
  }
  void *block = (void *)next_free;
  next_free += size;
  return block;
}

#define MAX_INPUT (1 << 20)
static unsigned char input_bytes[MAX_INPUT];
static bool answered;

EXPORT(input) void *input(void) { return input_bytes; }

// SHA-256 (FIPS 180-4), of the raw input.
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

// One byte of the padded message: the input, a 1 bit, zeros, and the length in bits in the last eight bytes.
static unsigned char padded(size_t start, size_t size, size_t padded_size, size_t i) {
  if (i < size) return input_bytes[start + i];
  if (i == size) return 0x80;
  size_t from_end = padded_size - 1 - i;
  return from_end < 8 ? (unsigned char)((uint64_t)size * 8 >> (8 * from_end)) : 0;
}

static void digest(size_t start, size_t size, unsigned char *out) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  size_t padded_size = (size + 9 + 63) / 64 * 64;
  for (size_t block = 0; block < padded_size; block += 64) {
    uint32_t w[64], v[8];
    for (size_t i = 0; i < 16; i++) {
      w[i] = 0;
      for (size_t j = 0; j < 4; j++) w[i] = w[i] << 8 | padded(start, size, padded_size, block + 4 * i + j);
    }
    for (size_t i = 16; i < 64; i++) {
      uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    for (size_t i = 0; i < 8; i++) v[i] = state[i];
    for (size_t i = 0; i < 64; i++) {
      uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25), choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22), majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      uint32_t t1 = v[7] + s1 + choice + round_constants[i] + w[i], t2 = s0 + majority;
      for (size_t j = 7; j > 0; j--) v[j] = v[j - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (size_t i = 0; i < 8; i++) state[i] += v[i];
  }
  for (size_t i = 0; i < 32; i++) out[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}

// The list of the bytes from `start` up to `end`.
static lean_object *list_of(size_t start, size_t end) {
  lean_object *list = lean_box(0);
  while (end > start) {
    lean_object *cons = lean_alloc_ctor(1, 2, 0);
    lean_ctor_set(cons, 0, lean_box(input_bytes[--end]));
    lean_ctor_set(cons, 1, list);
    list = cons;
  }
  return list;
}

typedef struct {
  uint32_t size;
  unsigned char echo[64];
  unsigned char text[];
} answer;

// Checks the lengths of the two documents, and makes ready to read them.
static void start(size_t first, size_t second) {
  lean_require(!answered && first <= MAX_INPUT && second <= MAX_INPUT - first);
  answered = true;
  initialize_Coeffect_Extract(1);
}

static void *finish(size_t first, size_t second, lean_object *list) {
  size_t size = 0;
  for (lean_object *at = list; !lean_is_scalar(at); at = lean_ctor_get(at, 1)) size++;
  answer *a = armitage_allocate(sizeof(answer) + size);
  a->size = (uint32_t)size;
  digest(0, first, a->echo);
  digest(first, second, a->echo + 32);
  unsigned char *to = a->text;
  for (lean_object *at = list; !lean_is_scalar(at); at = lean_ctor_get(at, 1)) {
    size_t byte = lean_unbox(lean_ctor_get(at, 0));
    lean_require(byte < 256);
    *to++ = (unsigned char)byte;
  }
  return a;
}

EXPORT(check) void *check(size_t declaration, size_t evidence) {
  start(declaration, evidence);
  return finish(declaration, evidence, armitage_check(list_of(0, declaration), list_of(declaration, declaration + evidence)));
}

EXPORT(infer) void *infer(size_t evidence) {
  start(evidence, 0);
  return finish(evidence, 0, armitage_infer(list_of(0, evidence)));
}

EXPORT(canonical) void *canonical(size_t declaration) {
  start(declaration, 0);
  return finish(declaration, 0, armitage_canonical(list_of(0, declaration)));
}
