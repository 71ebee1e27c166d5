/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes, assertions and the small arithmetic that everything uses. */
#ifndef BASE_ATTR_H
#define BASE_ATTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first) __attribute__((format(printf, format_index, first)))
#define NORETURN __attribute__((noreturn))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define CACHE_LINE 64
#define ALIGNED_LINE __attribute__((aligned(CACHE_LINE)))
#define ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* Says what failed on stderr and aborts. For programmer errors only, and on in every build. */
NORETURN void assert_failed(const char *expression, const char *file, int line);
#define ASSERT(x) (LIKELY(x) ? (void)0 : assert_failed(#x, __FILE__, __LINE__))

static inline uint64_t u64_min(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t u64_max(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }
/* `to` is a power of two. */
static inline uint64_t align_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) & ~(to - 1);
}
static inline uint64_t align_down(uint64_t value, uint64_t to) { return value & ~(to - 1); }
static inline bool is_power_of_two(uint64_t value) { return value && !(value & (value - 1)); }
static inline uint64_t div_round_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

#endif
