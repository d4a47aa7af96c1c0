#include "greeting.h"

#include <stdio.h>

size_t greeting(char* buffer, size_t size, const char* name) {
  return (size_t)snprintf(buffer, size, "Good day, %s.", name);
}
