/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Force-included before every source file: names that have a safer sibling fail to compile.
 *   strcpy strcat strncpy strncat sprintf   memcpy of a known length, or snprintf
 *   atoi atol strtok                        base/units.h; a parser that keeps its state in sight
 *   alloca                                  a bounded array, or mem_alloc
 *   rand                                    base/rng.h: seeded, handed in
 *   localtime gmtime ctime asctime          their _r forms
 * Their headers come first, since a declaration of a poisoned name is an error too.
 */
#ifndef BASE_BANNED_H
#define BASE_BANNED_H

#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#undef alloca
#undef strcpy
#undef strcat
#undef strncpy
#undef strncat
#undef sprintf
#undef vsprintf
#pragma GCC poison strcpy strcat strncpy strncat stpcpy sprintf vsprintf
#pragma GCC poison atoi atol atoll atof strtok alloca rand srand
#pragma GCC poison tmpnam tempnam mktemp localtime gmtime ctime asctime

#endif
