/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process at the other end of the wire, and three ways to it in the same run: plain sockets, bare
 * libfabric (its messages, no calls, no loop), and our endpoint. For ratios: take turns.
 *
 * Threading: one thread. bench_wire_create forks, so no other thread may be running then. Every
 * function gives the nanoseconds it took; the far process dies with the wire or its maker. Limits:
 * BENCH_WIRE_MEMORY of memory on each side.
 */
#ifndef TOOLS_BENCH_WIRE_H
#define TOOLS_BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include <umbp/status.h>

#define BENCH_WIRE_MEMORY ((size_t)256 << 20)

struct bench_wire;

/* `spin_us`: how long both ends poll before they sleep, the bare way and ours; 0: not at all. */
MUST_USE enum umbp_status bench_wire_create(uint32_t spin_us, struct bench_wire **wire_out);
void bench_wire_destroy(struct bench_wire *wire); /* takes NULL */

/* `count` pieces of `bytes` down one socket, and a byte back. */
MUST_USE enum umbp_status bench_wire_raw_stream(struct bench_wire *wire, size_t bytes, size_t count,
                                                uint64_t *ns_out);
/* `rounds` of 64 bytes there and `bytes` back (at most 64 KiB), over bare libfabric. */
MUST_USE enum umbp_status bench_wire_bare_ping(struct bench_wire *wire, size_t bytes,
                                               unsigned rounds, uint64_t *ns_out);
/* The same by fabric_call. */
MUST_USE enum umbp_status bench_wire_call(struct bench_wire *wire, size_t bytes, unsigned rounds,
                                          uint64_t *ns_out);
/* `rounds` calls, for each of which the far side writes (or reads) `count` pieces of `bytes`,
 * `stride` apart, into (from) our memory before it answers. */
MUST_USE enum umbp_status bench_wire_transfer(struct bench_wire *wire, bool write, size_t bytes,
                                              size_t count, size_t stride, unsigned rounds,
                                              uint64_t *ns_out);
/* We pull `count` pieces of its memory; mapped, or by process_vm_readv. UNSUPPORTED: not allowed
 * here. */
MUST_USE enum umbp_status bench_wire_pull(struct bench_wire *wire, bool mapped, size_t bytes,
                                          size_t count, uint64_t *ns_out);
/* One thread copies `count` pieces out of memory that both share: by memcpy. */
void bench_wire_shared_copy(struct bench_wire *wire, size_t bytes, size_t count, uint64_t *ns_out);

#endif
