/* SPDX-License-Identifier: Apache-2.0 */
#include "base/attr.h"

#include <stdio.h>
#include <stdlib.h>

void assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "umbp: %s:%d: assertion failed: %s\n", file, line, expression);
    fflush(stderr);
    abort();
}
