// The runtime that the C emitted by Lean's code generator runs on, for total, first-order, single-threaded code.
//
// Rules:
//  - Memory is an arena: objects are never freed, and the host throws the whole instance away after one call. So the
//    reference counts that the emitted code maintains mean nothing here, and no object is ever changed in place.
//  - Natural numbers are small integers only. Arithmetic that would leave them, memory that runs out, and anything that
//    this file does not expect trap; the host takes a trap for a rejection.
#ifndef ARMITAGE_LEAN_H
#define ARMITAGE_LEAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEAN_EXPORT

typedef struct {
  int m_rc;
  unsigned m_cs_sz : 16;
  unsigned m_other : 8;  // Constructors: the number of fields.
  unsigned m_tag : 8;    // Constructors: which one.
} lean_object;

typedef struct {
  lean_object m_header;
  lean_object *m_objs[];
} lean_ctor_object;

typedef struct {
  lean_object m_header;
  void *m_fun;
  uint16_t m_arity;
  uint16_t m_num_fixed;
  lean_object *m_objs[];
} lean_closure_object;

// Eight bytes of scalar fields, as the pointers that a static object is made of.
#define LEAN_BYTES4(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#if UINTPTR_MAX == UINT32_MAX
#define LEAN_SCALAR_PTR_LITERAL(a, b, c, d, e, f, g, h) \
  (lean_object *)LEAN_BYTES4(a, b, c, d), (lean_object *)LEAN_BYTES4(e, f, g, h)
#else
#define LEAN_SCALAR_PTR_LITERAL(a, b, c, d, e, f, g, h) \
  (lean_object *)((uint64_t)LEAN_BYTES4(a, b, c, d) | (uint64_t)LEAN_BYTES4(e, f, g, h) << 32)
#endif

void *armitage_allocate(size_t size);

static inline void lean_require(bool condition) {
  if (!condition) __builtin_trap();
}

// Small values live in the pointer itself, with the lowest bit set.
static inline bool lean_is_scalar(lean_object *o) { return ((uintptr_t)o & 1) == 1; }
static inline lean_object *lean_box(size_t n) { return (lean_object *)((n << 1) | 1); }
static inline size_t lean_unbox(lean_object *o) { return (uintptr_t)o >> 1; }

static inline void lean_inc(lean_object *o) { (void)o; }
static inline void lean_inc_ref(lean_object *o) { (void)o; }
static inline void lean_inc_n(lean_object *o, size_t n) { (void)o, (void)n; }
static inline void lean_inc_ref_n(lean_object *o, size_t n) { (void)o, (void)n; }
static inline void lean_dec(lean_object *o) { (void)o; }
static inline void lean_dec_ref(lean_object *o) { (void)o; }
static inline void lean_dec_ref_known(lean_object *o, unsigned fields) { (void)o, (void)fields; }
static inline void lean_del_object(lean_object *o) { (void)o; }
static inline void lean_mark_persistent(lean_object *o) { (void)o; }
static inline bool lean_is_exclusive(lean_object *o) { return (void)o, false; }

static inline lean_object *lean_alloc_ctor(unsigned tag, unsigned fields, unsigned scalar_bytes) {
  lean_ctor_object *o = armitage_allocate(sizeof(lean_ctor_object) + fields * sizeof(void *) + scalar_bytes);
  o->m_header = (lean_object){.m_rc = 1, .m_other = fields, .m_tag = tag};
  return &o->m_header;
}

static inline unsigned lean_obj_tag(lean_object *o) {
  return lean_is_scalar(o) ? (unsigned)lean_unbox(o) : o->m_tag;
}

static inline lean_object *lean_ctor_get(lean_object *o, unsigned i) { return ((lean_ctor_object *)o)->m_objs[i]; }
static inline void lean_ctor_set(lean_object *o, unsigned i, lean_object *v) { ((lean_ctor_object *)o)->m_objs[i] = v; }
static inline void lean_ctor_set_tag(lean_object *o, uint8_t tag) { o->m_tag = tag; }
static inline uint8_t lean_ctor_get_uint8(lean_object *o, unsigned offset) {
  return ((const uint8_t *)((lean_ctor_object *)o)->m_objs)[offset];
}
static inline void lean_ctor_set_uint8(lean_object *o, unsigned offset, uint8_t v) {
  ((uint8_t *)((lean_ctor_object *)o)->m_objs)[offset] = v;
}

// Natural numbers.
#define LEAN_MAX_SMALL_NAT (UINTPTR_MAX >> 1)
static inline lean_object *lean_unsigned_to_nat(unsigned n) {
  lean_require(n <= LEAN_MAX_SMALL_NAT);
  return lean_box(n);
}
static inline lean_object *lean_nat_add(lean_object *a, lean_object *b) {
  size_t sum = lean_unbox(a) + lean_unbox(b);
  lean_require(sum <= LEAN_MAX_SMALL_NAT);
  return lean_box(sum);
}
static inline lean_object *lean_nat_sub(lean_object *a, lean_object *b) {
  size_t m = lean_unbox(a), n = lean_unbox(b);
  return lean_box(m < n ? 0 : m - n);
}
static inline lean_object *lean_nat_pred(lean_object *a) { return lean_nat_sub(a, lean_box(1)); }
static inline lean_object *lean_nat_mul(lean_object *a, lean_object *b) {
  size_t product;
  lean_require(!__builtin_mul_overflow(lean_unbox(a), lean_unbox(b), &product) && product <= LEAN_MAX_SMALL_NAT);
  return lean_box(product);
}
static inline lean_object *lean_nat_div(lean_object *a, lean_object *b) {
  return lean_box(lean_unbox(b) == 0 ? 0 : lean_unbox(a) / lean_unbox(b));
}
static inline lean_object *lean_nat_mod(lean_object *a, lean_object *b) {
  return lean_box(lean_unbox(b) == 0 ? lean_unbox(a) : lean_unbox(a) % lean_unbox(b));
}
static inline uint8_t lean_nat_dec_eq(lean_object *a, lean_object *b) { return a == b; }
static inline uint8_t lean_nat_dec_le(lean_object *a, lean_object *b) { return lean_unbox(a) <= lean_unbox(b); }
static inline uint8_t lean_nat_dec_lt(lean_object *a, lean_object *b) { return lean_unbox(a) < lean_unbox(b); }

// Closures: a function and its first arguments.
static inline lean_object *lean_alloc_closure(void *fun, unsigned arity, unsigned fixed) {
  lean_closure_object *o = armitage_allocate(sizeof(lean_closure_object) + fixed * sizeof(void *));
  o->m_header = (lean_object){.m_rc = 1, .m_tag = 245};
  o->m_fun = fun, o->m_arity = arity, o->m_num_fixed = fixed;
  return &o->m_header;
}
static inline void lean_closure_set(lean_object *o, unsigned i, lean_object *v) { ((lean_closure_object *)o)->m_objs[i] = v; }
lean_object *lean_apply_1(lean_object *closure, lean_object *a);
lean_object *lean_apply_2(lean_object *closure, lean_object *a, lean_object *b);

// Constants that are computed when first used.
typedef bool lean_once_cell_t;
#define LEAN_ONCE_CELL_INITIALIZER false
static inline lean_object *lean_obj_once(lean_object **cell, lean_once_cell_t *done, lean_object *(*compute)(void)) {
  if (!*done) *cell = compute(), *done = true;
  return *cell;
}

// Initialisation of modules cannot fail here.
static inline void lean_initialize_runtime_module(void) {}
static inline lean_object *lean_io_result_mk_ok(lean_object *o) { return o; }
static inline bool lean_io_result_is_error(lean_object *o) { return (void)o, false; }

#endif
