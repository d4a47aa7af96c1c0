#ifndef GREETING_H
#define GREETING_H

#include <stddef.h>

/* Writes a greeting for `name` to `buffer`, always ended by a NUL; gives the length it wanted. */
size_t greeting(char* buffer, size_t size, const char* name);

#endif
