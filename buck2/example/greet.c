#include <stdio.h>

#include "greeting.h"

int main(int argc, char** argv) {
  char line[256];
  if (argc != 2) {
    fputs("usage: greet NAME\n", stderr);
    return 2;
  }
  if (greeting(line, sizeof line, argv[1]) >= sizeof line) {
    fputs("greet: the name is too long\n", stderr);
    return 1;
  }
  return puts(line) < 0;
}
