/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's only way to the heap, so that a test can fail the Nth allocation and count them.
 * Every function returns NULL on failure; sizes that overflow fail. mem_free takes NULL.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

MUST_USE void *mem_alloc(size_t bytes);
MUST_USE void *mem_zalloc(size_t bytes);
MUST_USE void *mem_calloc(size_t count, size_t bytes);
MUST_USE void *mem_realloc(void *old, size_t bytes); /* the old block stays on failure */
MUST_USE void *mem_aligned(size_t alignment, size_t bytes);
MUST_USE char *mem_strdup(const char *text);
void mem_free(void *block);

/*
 * Anonymous memory by mmap: page-aligned, zeroed, returned to the system by mem_unmap. The way for
 * large tables and I/O buffers. Counted and failed like the others.
 */
MUST_USE void *mem_map(size_t bytes);
/* The same in huge pages where the system gives them, from a multiple of 2 MiB on. For I/O buffers:
 * the device then sees one piece, not one for every 4 KiB. */
MUST_USE void *mem_map_huge(size_t bytes);
void mem_unmap(void *block, size_t bytes); /* of either */

/*
 * Tests only: called before each allocation; returning false makes it fail. NULL takes it away.
 * Process-wide and atomic. (With log_set, the one other global.)
 */
void mem_set_hook(bool (*hook)(void *context, size_t bytes), void *context);

#endif
