/* SPDX-License-Identifier: Apache-2.0 */
/* The option table, values in and out, and what only shows across options. */
#include "support.h"

#include <locale.h>
#include <string.h>

#include "config/config_priv.h"

static struct umbp_config *config;

static int make_config(void **state)
{
    (void)state;
    return umbp_config_create(&config) == UMBP_OK ? 0 : -1;
}

static int drop_config(void **state)
{
    (void)state;
    umbp_config_destroy(config);
    config = NULL;
    return 0;
}

static void assert_value(const char *name, const char *expected)
{
    char text[64];
    assert_ok(umbp_config_get(config, name, text, sizeof text));
    assert_string_equal(text, expected);
}

static void assert_set(const char *name, const char *value, const char *expected)
{
    enum umbp_status status = umbp_config_set(config, name, value);
    if (status != UMBP_OK) {
        fail_msg("%s = %s: %s", name, value, umbp_config_error(config));
    }
    assert_value(name, expected);
}

/* The setting fails, says `part`, names the option, and leaves the value as it was. */
static void assert_refused(const char *name, const char *value, const char *part)
{
    char before[64];
    assert_ok(umbp_config_get(config, name, before, sizeof before));
    assert_status(umbp_config_set(config, name, value), UMBP_INVALID_VALUE);
    if (strstr(umbp_config_error(config), part) == NULL ||
        strstr(umbp_config_error(config), name) == NULL) {
        fail_msg("\"%s\" says neither %s nor %s", umbp_config_error(config), name, part);
    }
    assert_value(name, before);
}

static void every_row_is_whole_and_its_default_is_what_a_new_config_has(void **state)
{
    (void)state;
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        struct umbp_option_info info = {.struct_bytes = sizeof info};
        char text[64];
        assert_ok(umbp_option_describe(i, &info));
        assert_non_null(info.name);
        assert_true(strlen(info.type) > 0);
        assert_true(strncmp(info.environment, "UMBP_", 5) == 0);
        assert_true(strlen(info.help) > 10);
        assert_int_equal(info.help[strlen(info.help) - 1], '.');
        assert_ok(umbp_config_get(config, info.name, text, sizeof text));
        assert_string_equal(text, info.default_value);
        /* and it round-trips */
        assert_ok(umbp_config_set(config, info.name, text));
        assert_ok(umbp_config_get(config, info.name, text, sizeof text));
        assert_string_equal(text, info.default_value);
    }
    assert_ok(umbp_config_validate(config));
}

static void names_environments_and_flags_are_unique(void **state)
{
    (void)state;
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        assert_int_equal(
            config_option_of_flag(config_options[i].name, strlen(config_options[i].name)), i);
        if (config_options[i].flag != NULL) {
            assert_int_equal(
                config_option_of_flag(config_options[i].flag, strlen(config_options[i].flag)), i);
        }
        for (size_t j = 0; j < i; j++) {
            for (size_t a = 0; a < CONFIG_ENVIRONMENTS_MAX; a++) {
                const char *mine = config_option_environment(i, a);
                for (size_t b = 0; mine != NULL && b < CONFIG_ENVIRONMENTS_MAX; b++) {
                    const char *other = config_option_environment(j, b);
                    assert_true(other == NULL || strcmp(mine, other) != 0);
                }
            }
        }
    }
}

static void describing_ends_with_not_found_and_respects_the_callers_structure(void **state)
{
    (void)state;
    struct umbp_option_info info = {.struct_bytes = offsetof(struct umbp_option_info, type)};
    assert_ok(umbp_option_describe(0, &info));
    assert_string_equal(info.name, "scheme");
    assert_null(info.type);
    assert_int_equal(info.struct_bytes, offsetof(struct umbp_option_info, type));
    info.struct_bytes = 0;
    assert_status(umbp_option_describe(0, &info), UMBP_INVALID_VALUE);
    info.struct_bytes = sizeof info;
    assert_status(umbp_option_describe(CONFIG_OPTION_COUNT, &info), UMBP_NOT_FOUND);
    assert_status(umbp_option_describe(0, NULL), UMBP_INVALID_VALUE);
}

static void sizes_take_bytes_and_units_and_print_exactly(void **state)
{
    (void)state;
    assert_set("dram.bytes", "4G", "4GiB");
    assert_set("dram.bytes", "4GiB", "4GiB");
    assert_set("dram.bytes", "  65536 ", "64KiB");
    assert_set("dram.bytes", "1.5MiB", "1536KiB");
    assert_set("dram.bytes", "100001", "100001");
    assert_set("dram.bytes", "2GB", "1953125KiB");
    assert_refused("dram.bytes", "4Q", "\"4Q\" is not a size");
    assert_refused("dram.bytes", "-1", "is not a size");
    assert_refused("dram.bytes", "", "no value");
    assert_refused("dram.bytes", "4 5", "is not a size");
    assert_refused("dram.bytes", "0x1000", "is not a size");
    assert_refused("dram.bytes", "99999999999999999999", "is not a size");
}

static void ranges_hold_at_both_ends(void **state)
{
    (void)state;
    assert_set("dram.bytes", "4KiB", "4KiB");
    assert_refused("dram.bytes", "4095", "out of range (4KiB..64TiB)");
    assert_set("dram.bytes", "64TiB", "64TiB");
    assert_refused("dram.bytes", "65TiB", "out of range");
    assert_set("dram.buffers", "64", "64");
    assert_refused("dram.buffers", "0", "out of range (1..64)");
    assert_refused("dram.buffers", "65", "out of range");
    assert_set("ssd.bytes", "0", "0");
    assert_refused("ssd.bytes", "1", "out of range (0 or 1MiB..1024TiB)");
    assert_set("index.hash_seed", "18446744073709551615", "18446744073709551615");
    assert_refused("index.hash_seed", "18446744073709551616", "is not a whole number");
}

static void powers_of_two_are_asked_for_where_they_are_needed(void **state)
{
    (void)state;
    assert_set("dram.page_bytes", "128KiB", "128KiB");
    assert_set("dram.page_bytes", "0", "0");
    assert_refused("dram.page_bytes", "96KiB", "a power of two");
    assert_set("index.shards", "1024", "1024");
    assert_refused("index.shards", "1000", "a power of two");
}

static void times_are_milliseconds_or_carry_a_unit(void **state)
{
    (void)state;
    assert_set("op_timeout_ms", "1500", "1500");
    assert_set("op_timeout_ms", "1500ms", "1500");
    assert_set("op_timeout_ms", "3s", "3000");
    assert_set("op_timeout_ms", "2 min", "120000");
    assert_refused("op_timeout_ms", "0", "out of range");
    assert_refused("op_timeout_ms", "2h", "is not milliseconds");
    assert_refused("op_timeout_ms", "18446744073709551615min", "is not milliseconds");
    assert_refused("op_timeout_ms", "s", "is not milliseconds");
}

static void bools_take_the_usual_words_only(void **state)
{
    (void)state;
    static const char *const yes[] = {"true", "YES", "on", "1"};
    static const char *const no[] = {"False", "no", "OFF", "0"};
    for (size_t i = 0; i < 4; i++) {
        assert_set("dram.checksum", yes[i], "true");
        assert_set("dram.checksum", no[i], "false");
    }
    assert_refused("dram.checksum", "2", "neither true");
    assert_refused("dram.checksum", "ja", "neither true");
}

static void fractions_take_decimals_and_percent_in_any_locale(void **state)
{
    (void)state;
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where it is installed */
    assert_set("dram.high_watermark", "0.95", "0.95");
    assert_set("dram.high_watermark", "1", "1");
    assert_set("dram.high_watermark", "1.0", "1");
    assert_set("dram.high_watermark", ".5", "0.5");
    assert_set("dram.high_watermark", "95%", "0.95");
    assert_set("dram.high_watermark", "0.123456", "0.123456");
    assert_refused("dram.high_watermark", "1.01", "out of range (0.01..1)");
    assert_refused("dram.high_watermark", "0", "out of range");
    assert_refused("dram.high_watermark", "0,95", "is not a share");
    assert_refused("dram.high_watermark", "0.9.5", "is not a share");
    assert_refused("dram.high_watermark", "95%%", "is not a share");
    assert_refused("dram.high_watermark", "0.1234567", "is not a share");
    assert_refused("dram.high_watermark", ".", "is not a share");
    assert_refused("dram.high_watermark", "nan", "is not a share");
    assert_set("dram.low_watermark", "0.01", "0.01");
    assert_refused("dram.low_watermark", "0", "out of range (0.01..1)");
    setlocale(LC_ALL, "C");
}

static void choices_name_the_nearest(void **state)
{
    (void)state;
    assert_set("ssd.driver", "IO_URING", "io_uring");
    assert_set("ssd.durability", "async", "relaxed");
    assert_set("ssd.durability", "STRICT", "strict");
    assert_refused("ssd.driver", "iouring", "the nearest is \"io_uring\"");
    assert_refused("eviction.policy", "lur", "the nearest is \"lru\"");
    assert_refused("eviction.policy", "prefix_aware", "\"prefix_aware_lru\"");
    assert_refused("eviction.policy", "lr", "none of lru|prefix_aware_lru|s3fifo");
}

static void numa_nodes_are_any_spread_or_a_number(void **state)
{
    (void)state;
    assert_set("dram.numa_node", "-1", "any");
    assert_set("dram.numa_node", "Spread", "spread");
    assert_set("dram.numa_node", "-2", "spread");
    assert_set("dram.numa_node", "0", "0");
    assert_set("dram.numa_node", "1023", "1023");
    assert_refused("dram.numa_node", "1024", "out of range");
    assert_refused("dram.numa_node", "-3", "any, spread or the number");
}

static void text_is_taken_as_it_is_and_bounded(void **state)
{
    (void)state;
    char *text = malloc(8192);
    assert_set("ssd.dir", " /a path ", " /a path ");
    assert_set("ssd.dir", "", "");
    memset(text, 'x', 8192);
    text[4096] = '\0';
    assert_refused("ssd.dir", text, "longer than 4095 bytes");
    text[4095] = '\0';
    assert_ok(umbp_config_set(config, "ssd.dir", text));
    char small[16] = "same";
    assert_status(umbp_config_get(config, "ssd.dir", small, sizeof small), UMBP_LIMIT);
    assert_string_equal(small, "same");
    free(text);
}

static void a_section_is_no_option_and_is_said_to_be_a_section(void **state)
{
    (void)state;
    assert_status(umbp_config_set(config, "ssd", "x"), UMBP_UNKNOWN_OPTION);
    assert_non_null(strstr(umbp_config_error(config), "\"ssd\" is a section"));
}

static void an_unknown_option_names_the_nearest(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        {"dram.byte", "dram.bytes"},         {"dram.pagebytes", "dram.page_bytes"},
        {"page_bytes", "dram.page_bytes"},   {"sdd.dir", "ssd.dir"},
        {"ssd-durabilty", "ssd.durability"}, {"evicton.policy", "eviction.policy"},
        {"log.levle", "log.level"},          {"rôle", "role"},
    };
    char text[8];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_status(umbp_config_set(config, wrong[i][0], "1"), UMBP_UNKNOWN_OPTION);
        assert_non_null(strstr(umbp_config_error(config), wrong[i][0]));
        if (strstr(umbp_config_error(config), wrong[i][1]) == NULL) {
            fail_msg("%s", umbp_config_error(config));
        }
        assert_status(umbp_config_get(config, wrong[i][0], text, sizeof text), UMBP_UNKNOWN_OPTION);
    }
    assert_status(umbp_config_set(config, "", "1"), UMBP_UNKNOWN_OPTION);
    assert_status(umbp_config_set(config, NULL, "1"), UMBP_INVALID_VALUE);
    assert_status(umbp_config_set(config, "role", NULL), UMBP_INVALID_VALUE);
    assert_ok(umbp_config_set(config, "role", "leader"));
    assert_string_equal(umbp_config_error(config), "");
}

static void distance_counts_edits_swaps_and_ignores_joiners(void **state)
{
    (void)state;
    assert_int_equal(config_name_distance("", ""), 0);
    assert_int_equal(config_name_distance("abc", ""), 3);
    assert_int_equal(config_name_distance("a.b-C", "A_b_c"), 0);
    assert_int_equal(config_name_distance("kitten", "sitting"), 3);
    assert_int_equal(config_name_distance("ab", "ba"), 1);
    char longest[300];
    memset(longest, 'x', sizeof longest);
    longest[299] = '\0';
    assert_int_equal(config_name_distance(longest, ""), 63);
}

static void validate_finds(const char *first, const char *second)
{
    assert_status(umbp_config_validate(config), UMBP_INVALID_VALUE);
    if (strstr(umbp_config_error(config), first) == NULL ||
        strstr(umbp_config_error(config), second) == NULL) {
        fail_msg("\"%s\" lacks %s or %s", umbp_config_error(config), first, second);
    }
    struct store_options options;
    memset(&options, 0x5a, sizeof options);
    assert_status(config_store_options(config, &options), UMBP_INVALID_VALUE);
    assert_int_equal(options.role, 0x5a5a5a5a); /* outputs only on success */
}

static void set(const char *name, const char *value)
{
    assert_ok(umbp_config_set(config, name, value));
}

static void watermarks_must_be_in_order(void **state)
{
    (void)state;
    set("dram.low_watermark", "0.96");
    validate_finds("dram.low_watermark (0.96)", "dram.high_watermark (0.95)");
    set("dram.high_watermark", "0.96");
    assert_ok(umbp_config_validate(config));
    assert_string_equal(umbp_config_error(config), "");
    set("ssd.low_watermark", "1"); /* of no account without an SSD */
    assert_ok(umbp_config_validate(config));
    set("ssd.dir", "/x");
    validate_finds("ssd.low_watermark (1)", "ssd.high_watermark (0.95)");
}

static void pages_and_buffers_must_fit_the_tier(void **state)
{
    (void)state;
    set("dram.bytes", "1MiB");
    set("dram.page_bytes", "2MiB");
    validate_finds("dram.page_bytes (2MiB)", "dram.bytes (1MiB)");
    set("dram.page_bytes", "0");
    set("dram.buffers", "17");
    validate_finds("dram.buffers (17)", "64KiB");
    set("dram.buffers", "16");
    assert_ok(umbp_config_validate(config));
    set("dram.bytes", "4KiB"); /* smaller than an automatic page */
    set("dram.buffers", "1");
    assert_ok(umbp_config_validate(config));
}

static void an_ssd_needs_a_directory_and_a_size(void **state)
{
    (void)state;
    set("ssd.enabled", "true");
    validate_finds("ssd.enabled is true", "ssd.dir");
    set("ssd.dir", "/x");
    assert_ok(umbp_config_validate(config));
    set("ssd.bytes", "0");
    validate_finds("ssd.bytes is 0", "ssd.enabled");
    set("ssd.bytes", "1MiB");
    set("ssd.segment_bytes", "1MiB");
    validate_finds("ssd.segment_bytes (1MiB)", "ssd.bytes (1MiB)");
    set("ssd.segment_bytes", "0");
    assert_ok(umbp_config_validate(config));
}

static void ssd_is_on_by_itself_where_there_is_a_directory_and_a_size(void **state)
{
    (void)state;
    assert_false(config_ssd_is_on(config));
    set("ssd.dir", "/x");
    assert_true(config_ssd_is_on(config));
    set("ssd.bytes", "0");
    assert_false(config_ssd_is_on(config));
    assert_ok(umbp_config_validate(config));
    set("ssd.bytes", "1GiB");
    set("ssd.enabled", "no");
    assert_false(config_ssd_is_on(config));
    set("ssd.enabled", "auto");
    assert_true(config_ssd_is_on(config));
}

static void leaders_and_followers_need_an_ssd(void **state)
{
    (void)state;
    set("role", "follower");
    validate_finds("role is follower", "ssd.dir");
    set("ssd.dir", "/x");
    assert_ok(umbp_config_validate(config));
    set("ssd.enabled", "false");
    validate_finds("role is follower", "ssd.enabled");
    set("ssd.enabled", "auto");
    set("role", "leader");
    set("copy.mode", "on_evict");
    validate_finds("copy.mode is on_evict", "role is leader");
    set("role", "standalone");
    assert_ok(umbp_config_validate(config));
}

static void store_options_carry_every_value(void **state)
{
    (void)state;
    static const char *const given[][2] = {
        {"role", "leader"},
        {"op_timeout_ms", "11"},
        {"close_timeout_ms", "12"},
        {"dram.bytes", "2MiB"},
        {"dram.page_bytes", "4KiB"},
        {"dram.buffers", "3"},
        {"dram.backing", "shared"},
        {"dram.numa_node", "5"},
        {"dram.prefault", "off"},
        {"dram.prefault_threads", "7"},
        {"dram.high_watermark", "0.8"},
        {"dram.low_watermark", "0.6"},
        {"dram.checksum", "on"},
        {"ssd.dir", "/some/where"},
        {"ssd.bytes", "3GiB"},
        {"ssd.segment_bytes", "1MiB"},
        {"ssd.durability", "relaxed"},
        {"ssd.driver", "posix"},
        {"ssd.queue_depth", "13"},
        {"ssd.read_queues", "14"},
        {"ssd.io_bytes", "512KiB"},
        {"ssd.io_timeout_ms", "15"},
        {"ssd.high_watermark", "0.7"},
        {"ssd.low_watermark", "0.5"},
        {"copy.workers", "4"},
        {"copy.queue_depth", "17"},
        {"copy.threads", "18"},
        {"copy.spin_us", "19"},
        {"promote.on_read", "no"},
        {"eviction.policy", "s3fifo"},
        {"eviction.candidate_window", "21"},
        {"follower.poll_ms", "22"},
        {"index.shards", "32"},
        {"index.hash_seed", "23"},
    };
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
        set(given[i][0], given[i][1]);
    }
    struct store_options options;
    assert_ok(config_store_options(config, &options));
    assert_int_equal(options.role, STORE_LEADER);
    assert_int_equal(options.op_timeout_ms, 11);
    assert_int_equal(options.close_timeout_ms, 12);
    assert_int_equal(options.dram.bytes, 2 << 20);
    assert_int_equal(options.dram.page_bytes, 4096);
    assert_int_equal(options.dram.buffer_count, 3);
    assert_int_equal(options.dram.backing, DRAM_BACKING_SHARED);
    assert_int_equal(options.dram.numa_node, 5);
    assert_false(options.dram.prefault);
    assert_int_equal(options.dram.prefault_threads, 7);
    assert_true(options.dram_high_watermark == 0.8 && options.dram_low_watermark == 0.6);
    assert_true(options.dram_checksum && options.ssd_enabled);
    assert_string_equal(options.ssd.directory, "/some/where");
    assert_int_equal(options.ssd.bytes, 3ull << 30);
    assert_int_equal(options.ssd.segment_bytes, 1 << 20);
    assert_int_equal(options.ssd.durability, SSD_RELAXED);
    assert_string_equal(options.disk_driver, "posix");
    assert_int_equal(options.ssd.queue_depth, 13);
    assert_int_equal(options.ssd.read_queues, 14);
    assert_int_equal(options.ssd.io_bytes, 512 << 10);
    assert_int_equal(options.ssd.io_timeout_ms, 15);
    assert_true(options.ssd_high_watermark == 0.7 && options.ssd_low_watermark == 0.5);
    assert_int_equal(options.copy_mode, STORE_COPY_ON_COMMIT);
    assert_int_equal(options.copy_workers, 4);
    assert_int_equal(options.copy_queue_depth, 17);
    assert_int_equal(options.copy_threads, 18);
    assert_int_equal(options.copy_spin_us, 19);
    assert_false(options.promote_on_read);
    assert_string_equal(options.policy, "s3fifo");
    assert_int_equal(options.candidate_window, 21);
    assert_int_equal(options.follower_poll_ms, 22);
    assert_int_equal(options.shards, 32);
    assert_int_equal(options.hash_seed, 23);
    assert_null(options.disk);

    set("dram.numa_node", "any");
    set("role", "standalone");
    set("copy.mode", "on_evict");
    assert_ok(config_store_options(config, &options));
    assert_int_equal(options.dram.numa_node, DRAM_NUMA_ANY);
    assert_int_equal(options.copy_mode, STORE_COPY_ON_EVICT);
    set("dram.numa_node", "spread");
    assert_ok(config_store_options(config, &options));
    assert_int_equal(options.dram.numa_node, DRAM_NUMA_SPREAD);
}

static void pool_options_go_where_they_belong(void **state)
{
    struct config_pool pool;
    (void)state;
    set("pool.masters", "m1:1,m2:2");
    set("pool.cluster", "c");
    set("pool.node_id", "n");
    set("pool.address", "10.0.0.9");
    set("pool.port", "31");
    set("pool.provider", "tcp");
    set("pool.tags", "a=b");
    set("pool.serve", "false");
    set("pool.same_host", "false");
    set("pool.spin_us", "32");
    set("pool.beat_ms", "33");
    set("pool.peer_timeout_ms", "134");
    set("pool.retries", "5");
    set("pool.requests", "36");
    set("pool.staging_bytes", "37MiB");
    set("pool.ssd_staging_bytes", "38MiB");
    set("pool.ssd_workers", "39");
    set("pool.event_linger_ms", "40");
    set("pool.event_batch", "41");
    set("pool.recache", "always");
    set("pool.recache_bytes", "42");
    assert_ok(config_pool_options(config, &pool));
    assert_string_equal(pool.masters, "m1:1,m2:2");
    assert_string_equal(pool.cluster, "c");
    assert_string_equal(pool.node_id, "n");
    assert_string_equal(pool.address, "10.0.0.9");
    assert_int_equal(pool.port, 31);
    assert_int_equal(pool.provider, CONFIG_PROVIDER_TCP);
    assert_string_equal(pool.tags, "a=b");
    assert_false(pool.serve);
    assert_false(pool.same_host);
    assert_int_equal(pool.spin_us, 32);
    assert_int_equal(pool.beat_ms, 33);
    assert_int_equal(pool.peer_timeout_ms, 134);
    assert_int_equal(pool.retries, 5);
    assert_int_equal(pool.requests, 36);
    assert_int_equal(pool.staging_bytes, UINT64_C(37) << 20);
    assert_int_equal(pool.ssd_staging_bytes, UINT64_C(38) << 20);
    assert_int_equal(pool.ssd_workers, 39);
    assert_int_equal(pool.event_linger_ms, 40);
    assert_int_equal(pool.event_batch, 41);
    assert_int_equal(pool.recache, CONFIG_RECACHE_ALWAYS);
    assert_int_equal(pool.recache_bytes, 42);
}

/* The words of a choice are the names of an enumeration, or of another room's table, in order. */
static void choices_agree_with_what_they_stand_for(void **state)
{
    (void)state;
    static const struct {
        const char *option;
        const char *word;
        unsigned number;
    } pairs[] = {
        {"scheme", "local", CONFIG_SCHEME_LOCAL},
        {"scheme", "pool", CONFIG_SCHEME_POOL},
        {"scheme", "process", CONFIG_SCHEME_PROCESS},
        {"role", "standalone", STORE_STANDALONE},
        {"role", "leader", STORE_LEADER},
        {"role", "follower", STORE_FOLLOWER},
        {"dram.backing", "anonymous", DRAM_BACKING_ANONYMOUS},
        {"dram.backing", "huge_pages", DRAM_BACKING_HUGE_PAGES},
        {"dram.backing", "shared", DRAM_BACKING_SHARED},
        {"dram.backing", "shared_huge_pages", DRAM_BACKING_SHARED_HUGE_PAGES},
        {"ssd.durability", "relaxed", SSD_RELAXED},
        {"ssd.durability", "strict", SSD_STRICT},
        {"copy.mode", "on_commit", STORE_COPY_ON_COMMIT},
        {"copy.mode", "on_evict", STORE_COPY_ON_EVICT},
        {"pool.provider", "auto", CONFIG_PROVIDER_AUTO},
        {"pool.provider", "tcp", CONFIG_PROVIDER_TCP},
        {"pool.provider", "verbs", CONFIG_PROVIDER_VERBS},
        {"pool.recache", "size", CONFIG_RECACHE_SIZE},
        {"pool.recache", "never", CONFIG_RECACHE_NEVER},
        {"pool.recache", "always", CONFIG_RECACHE_ALWAYS},
        {"log.level", "error", UMBP_LOG_ERROR},
        {"log.level", "warn", UMBP_LOG_WARN},
        {"log.level", "info", UMBP_LOG_INFO},
        {"log.level", "debug", UMBP_LOG_DEBUG},
    };
    char word[64];
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        size_t id = config_find(pairs[i].option);
        assert_true(config_choice(config_options[id].choices, pairs[i].number, word, sizeof word));
        assert_string_equal(word, pairs[i].word);
    }
    for (size_t i = 0;
         config_choice(config_options[CONFIG_EVICTION_POLICY].choices, i, word, sizeof word); i++) {
        assert_string_equal(config_policy_name(i), word);
        assert_string_equal(store_policy_name(i), word);
    }
    for (size_t i = 0;
         config_choice(config_options[CONFIG_SSD_DRIVER].choices, i, word, sizeof word); i++) {
        assert_string_equal(config_driver_name(i), word);
    }
}

static void a_copy_is_whole_and_its_own(void **state)
{
    (void)state;
    struct umbp_config *copy;
    char text[64];
    set("ssd.dir", "/x");
    set("dram.bytes", "1GiB");
    assert_ok(config_copy(config, &copy));
    set("ssd.dir", "/y");
    set("dram.bytes", "2GiB");
    assert_ok(umbp_config_get(copy, "ssd.dir", text, sizeof text));
    assert_string_equal(text, "/x");
    assert_ok(umbp_config_get(copy, "dram.bytes", text, sizeof text));
    assert_string_equal(text, "1GiB");
    umbp_config_destroy(copy);
}

/* ---- every allocation fails once ---- */

static unsigned allocations_left;

static bool fail_at_zero(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return allocations_left-- != 0;
}

static void whichever_allocation_fails_nothing_changes(void **state)
{
    (void)state;
    static const char text[] = "role = leader\n[ssd]\ndir = /new\n";
    set("ssd.dir", "/old");
    for (unsigned n = 0;; n++) {
        struct umbp_config *fresh = NULL;
        struct umbp_config *copy = NULL;
        allocations_left = n;
        mem_set_hook(fail_at_zero, NULL);
        enum umbp_status status = umbp_config_create(&fresh);
        if (status == UMBP_OK) {
            status = config_copy(config, &copy);
        }
        if (status == UMBP_OK) {
            status = config_load_text(config, "f", text, strlen(text));
        }
        mem_set_hook(NULL, NULL);
        umbp_config_destroy(fresh);
        umbp_config_destroy(copy);
        if (status == UMBP_OK) {
            assert_true(n > 3);
            break;
        }
        assert_status(status, UMBP_NO_MEMORY);
        assert_value("ssd.dir", "/old");
        assert_value("role", "standalone");
    }
    assert_value("ssd.dir", "/new");
}

static void null_is_an_error_and_no_crash(void **state)
{
    (void)state;
    char text[8];
    assert_status(umbp_config_create(NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_config_set(NULL, "role", "leader"), UMBP_INVALID_VALUE);
    assert_status(umbp_config_get(NULL, "role", text, sizeof text), UMBP_INVALID_VALUE);
    assert_status(umbp_config_validate(NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_config_load_file(NULL, "x"), UMBP_INVALID_VALUE);
    assert_status(umbp_config_load_file(config, NULL), UMBP_INVALID_VALUE);
    umbp_config_load_env(NULL);
    assert_non_null(umbp_config_error(NULL));
    umbp_config_destroy(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_config, drop_config)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_row_is_whole_and_its_default_is_what_a_new_config_has),
        TEST(names_environments_and_flags_are_unique),
        TEST(describing_ends_with_not_found_and_respects_the_callers_structure),
        TEST(sizes_take_bytes_and_units_and_print_exactly),
        TEST(ranges_hold_at_both_ends),
        TEST(powers_of_two_are_asked_for_where_they_are_needed),
        TEST(times_are_milliseconds_or_carry_a_unit),
        TEST(bools_take_the_usual_words_only),
        TEST(fractions_take_decimals_and_percent_in_any_locale),
        TEST(choices_name_the_nearest),
        TEST(numa_nodes_are_any_spread_or_a_number),
        TEST(text_is_taken_as_it_is_and_bounded),
        TEST(a_section_is_no_option_and_is_said_to_be_a_section),
        TEST(an_unknown_option_names_the_nearest),
        TEST(distance_counts_edits_swaps_and_ignores_joiners),
        TEST(watermarks_must_be_in_order),
        TEST(pages_and_buffers_must_fit_the_tier),
        TEST(an_ssd_needs_a_directory_and_a_size),
        TEST(ssd_is_on_by_itself_where_there_is_a_directory_and_a_size),
        TEST(leaders_and_followers_need_an_ssd),
        TEST(store_options_carry_every_value),
        TEST(pool_options_go_where_they_belong),
        TEST(choices_agree_with_what_they_stand_for),
        TEST(a_copy_is_whole_and_its_own),
        TEST(whichever_allocation_fails_nothing_changes),
        TEST(null_is_an_error_and_no_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
