/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option table: the one place where an option's name, default, range, environment and help are
 * written. A new option is a row here, an id in config_priv.h, and a line in config_store_options.
 *
 * Environment names: the ones that the public C++ UMBP reads come first, so that its users' job
 * scripts keep working; after them UMBP_<SECTION>_<NAME>, which every option has.
 */
#include "config/config_priv.h"

/* As the names of store_policy_name and of the disk drivers; tests hold them together. */
static const char *const policy_names[] = {"lru", "prefix_aware_lru", "s3fifo"};
static const char *const driver_names[] = {"auto", "io_uring", "posix"};

const char *config_policy_name(uint64_t number)
{
    ASSERT(number < ARRAY_COUNT(policy_names));
    return policy_names[number];
}

const char *config_driver_name(uint64_t number)
{
    ASSERT(number < ARRAY_COUNT(driver_names));
    return driver_names[number];
}

const struct config_option config_options[CONFIG_OPTION_COUNT] = {
    [CONFIG_SCHEME] =
        {
            .name = "scheme",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "local|pool|process",
            .default_value = "local",
            .environment = {{"UMBP_SCHEME", NULL}},
            .help =
                "How the store is reached: in this process, as a node of a cluster, or through the "
                "node daemon of this host.",
        },
    [CONFIG_ROLE] =
        {
            .name = "role",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "standalone|leader|follower",
            .default_value = "standalone",
            .environment = {{"UMBP_ROLE", NULL}},
            .flag = "role",
            .help =
                "Part in a shared SSD directory: standalone has its own, a leader copies every put "
                "to it, followers only read it.",
        },
    [CONFIG_OP_TIMEOUT_MS] =
        {
            .name = "op_timeout_ms",
            .type = CONFIG_TYPE_MS,
            .range = "1..3600000",
            .default_value = "30000",
            .environment = {{"UMBP_OP_TIMEOUT_MS", NULL}},
            .help = "How long a call may take at most.",
        },
    [CONFIG_CLOSE_TIMEOUT_MS] =
        {
            .name = "close_timeout_ms",
            .type = CONFIG_TYPE_MS,
            .range = "1..3600000",
            .default_value = "3000",
            .environment = {{"UMBP_CLOSE_TIMEOUT_MS", NULL}},
            .help = "How long closing may wait for calls in flight and for the flush.",
        },

    [CONFIG_DRAM_BYTES] =
        {
            .name = "dram.bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "4KiB..64TiB",
            .default_value = "4GiB",
            .environment = {{"UMBP_DRAM_CAPACITY", NULL}, {"UMBP_DRAM_BYTES", NULL}},
            .flag = "dram",
            .help = "Size of the memory tier.",
        },
    [CONFIG_DRAM_PAGE_BYTES] =
        {
            .name = "dram.page_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "0 or 4KiB..64MiB, a power of two",
            .default_value = "0",
            .environment = {{"UMBP_DRAM_PAGE_BYTES", NULL}},
            .help =
                "Allocation unit of the memory tier; 0 chooses 64KiB. Smaller values share pages.",
        },
    [CONFIG_DRAM_BUFFERS] =
        {
            .name = "dram.buffers",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..64",
            .default_value = "1",
            .environment = {{"UMBP_DRAM_BUFFERS", NULL}},
            .help = "Mappings that the memory tier is made of.",
        },
    [CONFIG_DRAM_BACKING] =
        {
            .name = "dram.backing",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "anonymous|huge_pages|shared|shared_huge_pages",
            .default_value = "anonymous",
            .environment = {{"UMBP_DRAM_BACKING", NULL},
                            {"UMBP_DRAM_USE_HUGEPAGES",
                             "1=huge_pages true=huge_pages yes=huge_pages on=huge_pages "
                             "0=anonymous false=anonymous no=anonymous off=anonymous"}},
            .help = "Kind of memory; huge pages fall back to ordinary ones, with a warning, where "
                    "there are none. Where none is chosen, a node of a pool takes shared, which "
                    "neighbours on the host read fastest.",
        },
    [CONFIG_DRAM_NUMA_NODE] =
        {
            .name = "dram.numa_node",
            .type = CONFIG_TYPE_NODE,
            .range = "0..1023",
            .default_value = "any",
            .environment = {{"UMBP_DRAM_NUMA_NODE", NULL}},
            .help =
                "NUMA node that the memory is bound to; any binds nothing, spread takes the nodes "
                "in turn, a buffer each.",
        },
    [CONFIG_DRAM_PREFAULT] =
        {
            .name = "dram.prefault",
            .type = CONFIG_TYPE_BOOL,
            .default_value = "true",
            .environment = {{"UMBP_DRAM_PREFAULT", NULL}},
            .help = "Touch all memory at the start, so that no put pays for it later.",
        },
    [CONFIG_DRAM_PREFAULT_THREADS] =
        {
            .name = "dram.prefault_threads",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..64",
            .default_value = "0",
            .environment = {{"UMBP_DRAM_PREFAULT_THREADS", NULL}},
            .help = "Threads that touch it; 0 is one a CPU, at most 16.",
        },
    [CONFIG_DRAM_HIGH_WATERMARK] =
        {
            .name = "dram.high_watermark",
            .type = CONFIG_TYPE_FRACTION,
            .range = "0.01..1",
            .default_value = "0.95",
            .environment = {{"UMBP_DRAM_HIGH_WM", NULL}, {"UMBP_DRAM_HIGH_WATERMARK", NULL}},
            .flag = "high-watermark",
            .help =
                "Share of the memory tier above which values are evicted ahead of need; 1 evicts "
                "only what a put needs.",
        },
    [CONFIG_DRAM_LOW_WATERMARK] =
        {
            .name = "dram.low_watermark",
            .type = CONFIG_TYPE_FRACTION,
            .range = "0.01..1",
            .default_value = "0.9",
            .environment = {{"UMBP_DRAM_LOW_WM", NULL}, {"UMBP_DRAM_LOW_WATERMARK", NULL}},
            .flag = "low-watermark",
            .help = "Share of the memory tier at which that eviction stops.",
        },
    [CONFIG_DRAM_CHECKSUM] =
        {
            .name = "dram.checksum",
            .type = CONFIG_TYPE_BOOL,
            .default_value = "false",
            .environment = {{"UMBP_DRAM_CHECKSUM", NULL}},
            .help = "Checksum values in memory too, and check them at every get (the SSD's always "
                    "are).",
        },

    [CONFIG_SSD_ENABLED] =
        {
            .name = "ssd.enabled",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "auto|true|false",
            .synonyms = "1=true yes=true on=true 0=false no=false off=false",
            .default_value = "auto",
            .environment = {{"UMBP_SSD_ENABLED", NULL}},
            .help =
                "Whether there is an SSD tier; auto: where ssd.dir is set and ssd.bytes is not 0.",
        },
    [CONFIG_SSD_DIR] =
        {
            .name = "ssd.dir",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "",
            .environment = {{"UMBP_SSD_DIR", NULL}},
            .flag = "ssd-dir",
            .help = "Directory of the SSD tier; created if its parent exists. One owner at a time.",
        },
    [CONFIG_SSD_BYTES] =
        {
            .name = "ssd.bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "0 or 1MiB..1024TiB",
            .default_value = "32GiB",
            .environment = {{"UMBP_SSD_CAPACITY", NULL}, {"UMBP_SSD_BYTES", NULL}},
            .flag = "ssd",
            .help = "What the SSD tier's files may take in all; 0: no SSD tier.",
        },
    [CONFIG_SSD_SEGMENT_BYTES] =
        {
            .name = "ssd.segment_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "0 or 64KiB..16GiB",
            .default_value = "0",
            .environment = {{"UMBP_SSD_SEGMENT_BYTES", NULL}},
            .help = "Size of a log segment, the unit of reclaim; 0 chooses 256MiB. No more than an "
                    "eighth of the tier is taken.",
        },
    [CONFIG_SSD_DURABILITY] =
        {
            .name = "ssd.durability",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "relaxed|strict",
            .synonyms = "sync=strict async=relaxed",
            .default_value = "strict",
            .environment = {{"UMBP_SSD_DURABILITY", NULL}},
            .flag = "durability",
            .help = "What flush promises: strict is on stable storage, relaxed is written to the "
                    "files.",
        },
    [CONFIG_SSD_DRIVER] =
        {
            .name = "ssd.driver",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "auto|io_uring|posix",
            .default_value = "auto",
            .environment = {{"UMBP_SSD_DRIVER", NULL}, {"UMBP_SSD_BACKEND", "file=auto"}},
            .help = "How files are read and written; auto is io_uring where the kernel allows it.",
        },
    [CONFIG_SSD_QUEUE_DEPTH] =
        {
            .name = "ssd.queue_depth",
            .type = CONFIG_TYPE_COUNT,
            .range = "0 or 1..256",
            .default_value = "0",
            .environment = {{"UMBP_SSD_QUEUE_DEPTH", NULL}},
            .help = "Requests in flight per I/O queue; 0 chooses 32.",
        },
    [CONFIG_SSD_READ_QUEUES] =
        {
            .name = "ssd.read_queues",
            .type = CONFIG_TYPE_COUNT,
            .range = "0 or 1..64",
            .default_value = "0",
            .environment = {{"UMBP_SSD_READ_QUEUES", NULL}},
            .help = "Reading calls that use the SSD at once; 0 chooses 4.",
        },
    [CONFIG_SSD_IO_BYTES] =
        {
            .name = "ssd.io_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "0 or 64KiB..16MiB, a power of two",
            .default_value = "0",
            .environment = {{"UMBP_SSD_IO_BYTES", NULL}},
            .help = "Largest single request to the SSD; 0 chooses 1MiB.",
        },
    [CONFIG_SSD_IO_TIMEOUT_MS] =
        {
            .name = "ssd.io_timeout_ms",
            .type = CONFIG_TYPE_MS,
            .range = "0 or 1..3600000",
            .default_value = "0",
            .environment = {{"UMBP_SSD_IO_TIMEOUT_MS", NULL}},
            .help = "After how long a request to the SSD, or a call on its files, counts as "
                    "failed; 0 chooses 30s.",
        },
    [CONFIG_SSD_HIGH_WATERMARK] =
        {
            .name = "ssd.high_watermark",
            .type = CONFIG_TYPE_FRACTION,
            .range = "0.01..1",
            .default_value = "0.95",
            .environment = {{"UMBP_SSD_HIGH_WM", NULL}, {"UMBP_SSD_HIGH_WATERMARK", NULL}},
            .help = "Share of the SSD tier above which segments are reclaimed ahead of need.",
        },
    [CONFIG_SSD_LOW_WATERMARK] =
        {
            .name = "ssd.low_watermark",
            .type = CONFIG_TYPE_FRACTION,
            .range = "0.01..1",
            .default_value = "0.9",
            .environment = {{"UMBP_SSD_LOW_WM", NULL}, {"UMBP_SSD_LOW_WATERMARK", NULL}},
            .help = "Share of the SSD tier at which that reclaim stops.",
        },

    [CONFIG_COPY_MODE] =
        {
            .name = "copy.mode",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "on_commit|on_evict",
            .default_value = "on_commit",
            .environment = {{"UMBP_COPY_MODE", NULL}},
            .help = "When values are copied to the SSD: soon after every put, or when they leave "
                    "memory "
                    "(and at flush).",
        },
    [CONFIG_COPY_WORKERS] =
        {
            .name = "copy.workers",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..16",
            .default_value = "2",
            .environment = {{"UMBP_COPY_WORKERS", NULL}},
            .help = "Threads that copy values to the SSD.",
        },
    [CONFIG_COPY_QUEUE_DEPTH] =
        {
            .name = "copy.queue_depth",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..1048576",
            .default_value = "4096",
            .environment = {{"UMBP_COPY_QUEUE_DEPTH", NULL}},
            .help = "Values that may wait to be copied; a put never waits, what finds the queue "
                    "full is "
                    "counted as dropped.",
        },
    [CONFIG_COPY_THREADS] =
        {
            .name = "copy.threads",
            .type = CONFIG_TYPE_COUNT,
            .range = "0 or 1..64",
            .default_value = "0",
            .environment = {{"UMBP_COPY_THREADS", NULL},
                            {"UMBP_DRAM_READ_THREADS", NULL},
                            {"UMBP_DRAM_WRITE_THREADS", NULL}},
            .help = "Threads that share the copying of one batch, the caller among them; 0 is one "
                    "a "
                    "CPU, at most 8.",
        },
    [CONFIG_COPY_SPIN_US] =
        {
            .name = "copy.spin_us",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..10000",
            .default_value = "20",
            .environment = {{"UMBP_COPY_SPIN_US", NULL}},
            .help = "Microseconds that these threads stay awake after a batch, to spare the next "
                    "one "
                    "their waking.",
        },
    [CONFIG_PROMOTE_ON_READ] =
        {
            .name = "promote.on_read",
            .type = CONFIG_TYPE_BOOL,
            .default_value = "true",
            .environment = {{"UMBP_PROMOTE_ON_READ", NULL}},
            .help = "Keep what a get found on the SSD in memory too, where there is room.",
        },

    [CONFIG_EVICTION_POLICY] =
        {
            .name = "eviction.policy",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "lru|prefix_aware_lru|s3fifo",
            .default_value = "lru",
            .environment = {{"UMBP_EVICTION_POLICY", NULL}},
            .flag = "policy",
            .help = "What leaves memory first; umbp replay shows which one suits a trace.",
        },
    [CONFIG_EVICTION_CANDIDATE_WINDOW] =
        {
            .name = "eviction.candidate_window",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..4096",
            .default_value = "16",
            .environment = {{"UMBP_EVICTION_CANDIDATE_WINDOW", NULL}},
            .help = "prefix_aware_lru: how many of the coldest values compete by depth.",
        },
    [CONFIG_FOLLOWER_POLL_MS] =
        {
            .name = "follower.poll_ms",
            .type = CONFIG_TYPE_MS,
            .range = "1..60000",
            .default_value = "100",
            .environment = {{"UMBP_FOLLOWER_POLL_MS", NULL}},
            .help = "How often a follower looks for what its leader has written.",
        },

    [CONFIG_INDEX_SHARDS] =
        {
            .name = "index.shards",
            .type = CONFIG_TYPE_COUNT,
            .range = "0 or 1..1024, a power of two",
            .default_value = "0",
            .environment = {{"UMBP_INDEX_SHARDS", NULL}},
            .help = "Parts of the index with a lock of their own; 0 chooses by the number of CPUs.",
        },
    [CONFIG_INDEX_HASH_SEED] =
        {
            .name = "index.hash_seed",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..18446744073709551615",
            .default_value = "0",
            .environment = {{"UMBP_INDEX_HASH_SEED", NULL}},
            .help = "Seed of the hash of keys; give a secret one where keys come from strangers.",
        },

    [CONFIG_POOL_MASTERS] =
        {
            .name = "pool.masters",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "",
            .environment = {{"UMBP_MASTER_ADDRESS", NULL}, {"UMBP_POOL_MASTERS", NULL}},
            .flag = "masters",
            .help = "Addresses of the masters, host:port separated by commas; nodes report to all, "
                    "clients ask any.",
        },
    [CONFIG_POOL_CLUSTER] =
        {
            .name = "pool.cluster",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "umbp",
            .environment = {{"UMBP_POOL_CLUSTER", NULL}},
            .help = "Name of the cluster; processes of another one are refused.",
        },
    [CONFIG_POOL_NODE_ID] =
        {
            .name = "pool.node_id",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "",
            .environment = {{"UMBP_NODE_ID", NULL}, {"UMBP_POOL_NODE_ID", NULL}},
            .help = "Name of this node, unique in the cluster; by default host name, process and a "
                    "random number.",
        },
    [CONFIG_POOL_ADDRESS] =
        {
            .name = "pool.address",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "",
            .environment = {{"UMBP_NODE_ADDRESS", NULL},
                            {"UMBP_IO_ENGINE_HOST", NULL},
                            {"UMBP_POOL_ADDRESS", NULL}},
            .help = "Address at which others reach this process; by default the one from which the "
                    "master is reached.",
        },
    [CONFIG_POOL_PORT] =
        {
            .name = "pool.port",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..65535",
            .default_value = "0",
            .environment = {{"UMBP_IO_ENGINE_PORT", NULL}, {"UMBP_POOL_PORT", NULL}},
            .help = "Port of this process; 0 takes any that is free.",
        },
    [CONFIG_POOL_PROVIDER] =
        {
            .name = "pool.provider",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "auto|tcp|verbs",
            .default_value = "auto",
            .environment = {{"UMBP_POOL_PROVIDER", NULL}},
            .help = "Network of the data plane: verbs (RDMA), tcp, or auto, which takes verbs "
                    "where there is a device.",
        },
    [CONFIG_POOL_TAGS] =
        {
            .name = "pool.tags",
            .type = CONFIG_TYPE_TEXT,
            .default_value = "",
            .environment = {{"UMBP_NODE_TAGS", NULL}, {"UMBP_POOL_TAGS", NULL}},
            .help = "Tags of this node for schedulers, key=value separated by commas.",
        },
    [CONFIG_POOL_SERVE] =
        {
            .name = "pool.serve",
            .type = CONFIG_TYPE_BOOL,
            .default_value = "true",
            .environment = {{"UMBP_POOL_SERVE", NULL}},
            .help = "Whether this process gives its memory tier to the pool; false makes it a "
                    "client only.",
        },
    [CONFIG_POOL_SAME_HOST] =
        {
            .name = "pool.same_host",
            .type = CONFIG_TYPE_BOOL,
            .default_value = "true",
            .environment = {{"UMBP_POOL_SAME_HOST", NULL}},
            .help = "Whether processes of one host read each other's memory directly instead of "
                    "using the network.",
        },
    [CONFIG_POOL_SPIN_US] =
        {
            .name = "pool.spin_us",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..1000000",
            .default_value = "20",
            .environment = {{"UMBP_POOL_SPIN_US", NULL}},
            .help = "How long a waiting call spins before it sleeps, in microseconds; five times "
                    "as long, and "
                    "a node's own thread too, while most waits end within that time.",
        },
    [CONFIG_POOL_BEAT_MS] =
        {
            .name = "pool.beat_ms",
            .type = CONFIG_TYPE_MS,
            .range = "10..60000",
            .default_value = "500",
            .environment = {{"UMBP_POOL_BEAT_MS", NULL}},
            .help = "A connection that was silent for so long carries a beat.",
        },
    [CONFIG_POOL_PEER_TIMEOUT_MS] =
        {
            .name = "pool.peer_timeout_ms",
            .type = CONFIG_TYPE_MS,
            .range = "100..600000",
            .default_value = "3000",
            .environment = {{"UMBP_POOL_PEER_TIMEOUT_MS", NULL}},
            .help = "A peer that was silent for so long is taken for dead; at least three times "
                    "pool.beat_ms.",
        },
    [CONFIG_POOL_RETRIES] =
        {
            .name = "pool.retries",
            .type = CONFIG_TYPE_COUNT,
            .range = "0..16",
            .default_value = "3",
            .environment = {{"UMBP_POOL_RETRIES", NULL}},
            .help = "How often an item is tried on another node after one failed or had no room.",
        },
    [CONFIG_POOL_REQUESTS] =
        {
            .name = "pool.requests",
            .type = CONFIG_TYPE_COUNT,
            .range = "16..65536",
            .default_value = "1024",
            .environment = {{"UMBP_POOL_REQUESTS", NULL}},
            .help = "Requests that the node serves at a time; more are answered busy.",
        },
    [CONFIG_POOL_STAGING_BYTES] =
        {
            .name = "pool.staging_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "1MiB..64GiB",
            .default_value = "64MiB",
            .environment = {{"UMBP_DISTRIBUTED_STAGING_BUFFER_SIZE", NULL},
                            {"UMBP_POOL_STAGING_BYTES", NULL}},
            .help = "Memory through which buffers go that are not registered, where the network "
                    "wants that.",
        },
    [CONFIG_POOL_SSD_STAGING_BYTES] =
        {
            .name = "pool.ssd_staging_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "1MiB..64GiB",
            .default_value = "256MiB",
            .environment = {{"UMBP_DISTRIBUTED_SSD_STAGING_BUFFER_SIZE", NULL},
                            {"UMBP_POOL_SSD_STAGING_BYTES", NULL}},
            .help = "Memory through which the node sends what it has on SSD only.",
        },
    [CONFIG_POOL_SSD_WORKERS] =
        {
            .name = "pool.ssd_workers",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..64",
            .default_value = "2",
            .environment = {{"UMBP_POOL_SSD_WORKERS", NULL}},
            .help = "Threads that read from the SSD for other processes.",
        },
    [CONFIG_POOL_EVENT_LINGER_MS] =
        {
            .name = "pool.event_linger_ms",
            .type = CONFIG_TYPE_MS,
            .range = "0..10000",
            .default_value = "2",
            .environment = {{"UMBP_POOL_EVENT_LINGER_MS", NULL}},
            .help = "How long the node gathers news for the masters before it sends them.",
        },
    [CONFIG_POOL_EVENT_BATCH] =
        {
            .name = "pool.event_batch",
            .type = CONFIG_TYPE_COUNT,
            .range = "1..65536",
            .default_value = "128",
            .environment = {{"UMBP_AUTO_FLUSH_EVENT_THRESHOLD", "0=65536"},
                            {"UMBP_POOL_EVENT_BATCH", NULL}},
            .help = "So many news are sent at once, without lingering.",
        },
    [CONFIG_POOL_RECACHE] =
        {
            .name = "pool.recache",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "size|never|always",
            .default_value = "size",
            .environment =
                {{"UMBP_POOL_RECACHE", NULL},
                 {"UMBP_CACHE_REMOTE_FETCHES",
                  "1=size true=size yes=size on=size 0=never false=never no=never off=never"},
                 {"UMBP_DISTRIBUTED_CACHE_REMOTE_FETCHES",
                  "1=size true=size yes=size on=size 0=never false=never no=never off=never"}},
            .help = "Whether values read from other nodes are kept here too: never, always, or up "
                    "to pool.recache_bytes; only in free memory.",
        },
    [CONFIG_POOL_RECACHE_BYTES] =
        {
            .name = "pool.recache_bytes",
            .type = CONFIG_TYPE_SIZE,
            .range = "0..1TiB",
            .default_value = "16MiB",
            .environment = {{"UMBP_POOL_RECACHE_BYTES", NULL}},
            .help = "The largest value that pool.recache = size keeps.",
        },

    [CONFIG_LOG_LEVEL] =
        {
            .name = "log.level",
            .type = CONFIG_TYPE_CHOICE,
            .choices = "error|warn|info|debug",
            .synonyms = "warning=warn trace=debug critical=error",
            .default_value = "warn",
            .environment = {{"UMBP_LOG_LEVEL", NULL},
                            {"MORI_UMBP_LOG_LEVEL", NULL},
                            {"MORI_GLOBAL_LOG_LEVEL", NULL}},
            .help = "What is logged to standard error: lines of this level and above.",
        },
};

size_t config_find(const char *name)
{
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        if (strcmp(config_options[i].name, name) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static const char *type_text(const struct config_option *option)
{
    switch (option->type) {
    case CONFIG_TYPE_SIZE:
        return "size";
    case CONFIG_TYPE_COUNT:
        return "count";
    case CONFIG_TYPE_MS:
        return "milliseconds";
    case CONFIG_TYPE_BOOL:
        return "bool";
    case CONFIG_TYPE_FRACTION:
        return "fraction";
    case CONFIG_TYPE_NODE:
        return "any|spread|count";
    case CONFIG_TYPE_TEXT:
        return "text";
    case CONFIG_TYPE_CHOICE:
        return option->choices;
    }
    return "";
}

enum umbp_status umbp_option_describe(size_t index, struct umbp_option_info *info_out)
{
    if (info_out == NULL || info_out->struct_bytes < sizeof info_out->struct_bytes) {
        return UMBP_INVALID_VALUE;
    }
    if (index >= CONFIG_OPTION_COUNT) {
        return UMBP_NOT_FOUND;
    }
    const struct config_option *option = &config_options[index];
    const struct umbp_option_info info = {
        .struct_bytes = info_out->struct_bytes,
        .name = option->name,
        .type = type_text(option),
        .default_value = option->default_value,
        .range = option->range != NULL ? option->range : "",
        .environment = option->environment[0].name != NULL ? option->environment[0].name : "",
        .help = option->help,
    };
    /* A caller built against a later header has a larger structure: the rest of it stays. */
    memcpy(info_out, &info, size_min(info_out->struct_bytes, sizeof info));
    return UMBP_OK;
}

const char *config_option_flag(size_t index)
{
    return index < CONFIG_OPTION_COUNT ? config_options[index].flag : NULL;
}

const char *config_option_environment(size_t index, size_t nth)
{
    return index < CONFIG_OPTION_COUNT && nth < CONFIG_ENVIRONMENTS_MAX
               ? config_options[index].environment[nth].name
               : NULL;
}
