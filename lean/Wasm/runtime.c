// What of the runtime (lean/lean.h) is no inline function.
#include <lean/lean.h>

lean_object *initialize_Init_Core(uint8_t builtin);

typedef lean_object *(*function_1)(lean_object *);
typedef lean_object *(*function_2)(lean_object *, lean_object *);
typedef lean_object *(*function_3)(lean_object *, lean_object *, lean_object *);
typedef lean_object *(*function_4)(lean_object *, lean_object *, lean_object *, lean_object *);

// Calls a closure with exactly the arguments that it still lacks.
static lean_object *apply(lean_object *closure, unsigned given, lean_object *a, lean_object *b) {
  lean_closure_object *c = (lean_closure_object *)closure;
  lean_object *args[4] = {0};
  lean_require(c->m_arity <= 4 && c->m_arity == c->m_num_fixed + given);
  for (unsigned i = 0; i < c->m_num_fixed; i++) args[i] = c->m_objs[i];
  args[c->m_num_fixed] = a;
  if (given == 2) args[c->m_num_fixed + 1] = b;
  switch (c->m_arity) {
    case 1: return ((function_1)c->m_fun)(args[0]);
    case 2: return ((function_2)c->m_fun)(args[0], args[1]);
    case 3: return ((function_3)c->m_fun)(args[0], args[1], args[2]);
    default: return ((function_4)c->m_fun)(args[0], args[1], args[2], args[3]);
  }
}

lean_object *lean_apply_1(lean_object *closure, lean_object *a) { return apply(closure, 1, a, NULL); }
lean_object *lean_apply_2(lean_object *closure, lean_object *a, lean_object *b) { return apply(closure, 2, a, b); }

// The modules import `Init`, of which only the definitions are linked.
lean_object *initialize_Init(uint8_t builtin) { return initialize_Init_Core(builtin); }
