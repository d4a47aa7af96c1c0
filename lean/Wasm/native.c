// The extracted checker as a native program, for comparing it with the module: `native DECLARATION EVIDENCE` reads two files
// and writes the answer.
#include <lean/lean.h>
#include <stdio.h>
#include <stdlib.h>

lean_object *armitage_check(lean_object *declaration, lean_object *evidence);
lean_object *initialize_Coeffect_Extract(uint8_t builtin);

void *armitage_allocate(size_t size) {
  void *block = malloc(size);
  lean_require(block != NULL);
  return block;
}

static lean_object *bytes_of(const char *path) {
  FILE *file = fopen(path, "rb");
  lean_require(file != NULL);
  lean_object *reversed = lean_box(0), *list = lean_box(0);
  for (int byte; (byte = getc(file)) != EOF;) {
    lean_object *cons = lean_alloc_ctor(1, 2, 0);
    lean_ctor_set(cons, 0, lean_box((size_t)byte));
    lean_ctor_set(cons, 1, reversed);
    reversed = cons;
  }
  fclose(file);
  for (; !lean_is_scalar(reversed); reversed = lean_ctor_get(reversed, 1)) {
    lean_object *cons = lean_alloc_ctor(1, 2, 0);
    lean_ctor_set(cons, 0, lean_ctor_get(reversed, 0));
    lean_ctor_set(cons, 1, list);
    list = cons;
  }
  return list;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  initialize_Coeffect_Extract(1);
  lean_object *answer = armitage_check(bytes_of(arguments[1]), bytes_of(arguments[2]));
  for (; !lean_is_scalar(answer); answer = lean_ctor_get(answer, 1)) putchar((int)lean_unbox(lean_ctor_get(answer, 0)));
  return 0;
}
