/* SPDX-License-Identifier: Apache-2.0 */
/* Host buffers: the memory tier's mappings, for applications. */
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tier_dram/tier_dram.h"
#include <umbp/umbp.h>

#define HUGE_PAGE_BYTES (2 * MIB)

struct umbp_host_buffer {
    struct dram_buffer_info memory;
    uint64_t bytes; /* asked for */
    enum dram_backing backing;
};

_Static_assert((int)UMBP_HOST_ANONYMOUS == (int)DRAM_BACKING_ANONYMOUS &&
                   (int)UMBP_HOST_HUGE_PAGES == (int)DRAM_BACKING_HUGE_PAGES &&
                   (int)UMBP_HOST_SHARED == (int)DRAM_BACKING_SHARED &&
                   (int)UMBP_HOST_SHARED_HUGE_PAGES == (int)DRAM_BACKING_SHARED_HUGE_PAGES,
               "converted by cast");

enum umbp_status umbp_host_buffer_create(const struct umbp_host_buffer_options *options,
                                         struct umbp_host_buffer **buffer_out)
{
    struct umbp_host_buffer_options asked = {0};
    if (!options || !buffer_out) {
        return UMBP_INVALID_VALUE;
    }
    /* As much as the caller's version of the structure has; 0 is this version. */
    memcpy(&asked, options,
           size_min(options->struct_bytes ? options->struct_bytes : sizeof(asked), sizeof(asked)));
    if (!asked.bytes || (unsigned)asked.backing > UMBP_HOST_SHARED_HUGE_PAGES) {
        return UMBP_INVALID_VALUE;
    }
    if (asked.bind && asked.numa_node > INT32_MAX) {
        return UMBP_UNSUPPORTED;
    }
    const struct dram_options memory = {
        .bytes = asked.bytes,
        .backing = (enum dram_backing)asked.backing,
        .numa_node = asked.bind ? (int)asked.numa_node : DRAM_NUMA_ANY,
        .prefault = asked.prefault,
        .prefault_threads = asked.prefault_threads,
    };
    struct umbp_host_buffer *buffer = mem_zalloc(sizeof(*buffer));
    if (!buffer) {
        return UMBP_NO_MEMORY;
    }
    enum umbp_status status = dram_buffer_create(&memory, &buffer->memory, &buffer->backing);
    if (status != UMBP_OK) {
        mem_free(buffer);
        return status;
    }
    buffer->bytes = asked.bytes;
    *buffer_out = buffer;
    return UMBP_OK;
}

enum umbp_status umbp_host_buffer_describe(const struct umbp_host_buffer *buffer,
                                           struct umbp_host_buffer_info *info_out)
{
    if (!buffer || !info_out) {
        return UMBP_INVALID_VALUE;
    }
    bool huge = buffer->backing == DRAM_BACKING_HUGE_PAGES ||
                buffer->backing == DRAM_BACKING_SHARED_HUGE_PAGES;
    struct umbp_host_buffer_info info = {
        .data = buffer->memory.data,
        .bytes = buffer->bytes,
        .mapped_bytes = buffer->memory.bytes,
        .page_bytes = huge ? HUGE_PAGE_BYTES : (uint64_t)getpagesize(),
        .backing = (enum umbp_host_backing)buffer->backing,
        .fd = buffer->memory.fd,
    };
    size_t room = info_out->struct_bytes ? info_out->struct_bytes : sizeof(info);
    info.struct_bytes = size_min(room, sizeof(info));
    memcpy(info_out, &info, info.struct_bytes);
    return UMBP_OK;
}

void umbp_host_buffer_destroy(struct umbp_host_buffer *buffer)
{
    if (!buffer) {
        return;
    }
    dram_buffer_destroy(&buffer->memory);
    mem_free(buffer);
}
