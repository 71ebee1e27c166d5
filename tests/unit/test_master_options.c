/* SPDX-License-Identifier: Apache-2.0 */
/* The published variables: names, defaults, what is taken and what is warned about. */
#include "master_rig.h"

struct environment {
    const char *name;
    const char *value;
};

static const char *look(void *context, const char *name)
{
    const struct environment *environment = context;
    return strcmp(environment->name, name) == 0 ? environment->value : NULL;
}

static unsigned warnings;

static void count_lines(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    warnings += strstr(line, "bad_environment") != NULL;
}

static void the_defaults_are_the_published_ones(void **state)
{
    static const struct environment want[] = {
        {"UMBP_HEARTBEAT_TTL_SEC", "10"},
        {"UMBP_MAX_MISSED_HEARTBEATS", "3"},
        {"UMBP_HEARTBEAT_INTERVAL_DIVISOR", "2"},
        {"UMBP_REAPER_INTERVAL_SEC", "5"},
        {"UMBP_EVICTION_CHECK_INTERVAL_SEC", "5"},
        {"UMBP_LEASE_DURATION_SEC", "2"},
        {"UMBP_HIT_INDEX_TTL_SEC", "7200"},
        {"UMBP_HIT_INDEX_GC_INTERVAL_SEC", "60"},
        {"UMBP_HIT_QUERY_MAX_BATCH", "4096"},
        {"UMBP_MASTER_INDEX_SHARDS", "32"},
        {"UMBP_ROUTE_PUT_SELECT_ALGO", "most_available"},
        {"UMBP_ROUTE_PUT_NODE_AFFINITY", "none"},
        {"UMBP_METADATA_BACKEND", "inmemory"},
        {"UMBP_EVICTKEY_DEADLINE_MS", "1000"},
        {"UMBP_GRPC_SHUTDOWN_DEADLINE_SEC", "3"},
        {"UMBP_MASTER_MIN_POLLERS", "8"},
        {"UMBP_MASTER_MAX_POLLERS", "64"},
    };
    struct master_option_row row;
    size_t index = 0;
    (void)state;
    for (; master_option_row(NULL, index, &row); index++) {
        assert_true(index < ARRAY_COUNT(want));
        assert_string_equal(row.variable, want[index].name);
        assert_string_equal(row.value, want[index].value);
        assert_string_equal(row.fallback, want[index].value);
        assert_true(strlen(row.help) > 10);
    }
    assert_int_equal(index, ARRAY_COUNT(want));
}

static const char *value_after(const char *name, const char *text, struct master_option_row *row)
{
    struct environment environment = {name, text};
    struct master_options options;
    master_options_default(&options);
    master_options_from_env(&options, look, &environment);
    for (size_t i = 0; master_option_row(&options, i, row); i++) {
        if (strcmp(row->variable, name) == 0) {
            return row->value;
        }
    }
    return "";
}

static void values_are_read_as_the_public_master_reads_them(void **state)
{
    static const struct {
        const char *name;
        const char *text;
        const char *want;
    } cases[] = {
        {"UMBP_HEARTBEAT_TTL_SEC", "20", "20"},
        {"UMBP_HEARTBEAT_TTL_SEC", "  +7", "7"},
        {"UMBP_HEARTBEAT_TTL_SEC", "", "10"},
        {"UMBP_HEARTBEAT_TTL_SEC", "0", "10"},
        {"UMBP_REAPER_INTERVAL_SEC", "10abc", "5"},
        {"UMBP_LEASE_DURATION_SEC", "-5", "2"},
        {"UMBP_HIT_INDEX_TTL_SEC", "99999999999999999999", "7200"},
        {"UMBP_HIT_INDEX_GC_INTERVAL_SEC", "60 ", "60"},
        {"UMBP_MAX_MISSED_HEARTBEATS", "0x10", "3"},
        {"UMBP_EVICTKEY_DEADLINE_MS", "+", "1000"},
        {"UMBP_ROUTE_PUT_SELECT_ALGO", " random\t", "random"},
        {"UMBP_ROUTE_PUT_SELECT_ALGO", "Random", "most_available"},
        {"UMBP_ROUTE_PUT_NODE_AFFINITY", "same", "same"},
        {"UMBP_ROUTE_PUT_NODE_AFFINITY", "local", "local"},
        {"UMBP_ROUTE_PUT_NODE_AFFINITY", "near", "none"},
        {"UMBP_METADATA_BACKEND", "redis", "inmemory"},
        {"UMBP_MASTER_INDEX_SHARDS", "100000", "4096"},
        {"UMBP_MASTER_INDEX_SHARDS", "many", "32"},
    };
    struct master_option_row row;
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_string_equal(value_after(cases[i].name, cases[i].text, &row), cases[i].want);
    }
}

static void a_bad_value_is_warned_about_once_a_name_and_process(void **state)
{
    struct master_option_row row;
    (void)state;
    umbp_log_set(UMBP_LOG_WARN, count_lines, NULL);
    for (size_t i = 0; master_option_row(NULL, i, &row); i++) {
        char name[64];
        snprintf(name, sizeof(name), "%s", row.variable);
        warnings = 0;
        value_after(name, "", &row);
        assert_int_equal(warnings, 0);
        value_after(name, "bad", &row);
        assert_int_equal(warnings, 1);
        value_after(name, "worse", &row);
        assert_int_equal(warnings, 1);
    }
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
}

static void max_pollers_is_at_least_min_pollers(void **state)
{
    struct environment environment = {"UMBP_MASTER_MIN_POLLERS", "100"};
    struct master_options options;
    (void)state;
    master_options_default(&options);
    master_options_from_env(&options, look, &environment);
    assert_int_equal(options.min_pollers, 100);
    assert_int_equal(options.max_pollers, 100);
}

static void options_that_make_no_sense_are_refused_with_a_sentence(void **state)
{
    struct master_options good;
    struct master_options bad;
    struct master *master = NULL;
    char error[128];
    (void)state;
    master_options_default(&good);
    for (int i = 0; i < 7; i++) {
        bad = good;
        switch (i) {
        case 0:
            bad.nodes_max = 0;
            break;
        case 1:
            bad.nodes_max = MASTER_NODES_MAX + 1;
            break;
        case 2:
            bad.heartbeat_ttl_sec = 0;
            break;
        case 3:
            bad.evict_low_watermark = 0.95;
            break;
        case 4:
            bad.index_shards = 5000;
            break;
        case 5:
            bad.put_algorithm = 9;
            break;
        default:
            bad.heartbeat_ttl_sec = UINT64_MAX;
            break;
        }
        error[0] = '\0';
        assert_status(master_create(&bad, &master, error, sizeof(error)), UMBP_INVALID_VALUE);
        assert_true(strlen(error) > 5);
        assert_null(master);
    }
    assert_ok(master_create(&good, &master, error, sizeof(error)));
    assert_true(master_incarnation(master) != 0);
    master_destroy(master);
    master_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_the_published_ones),
        cmocka_unit_test(a_bad_value_is_warned_about_once_a_name_and_process),
        cmocka_unit_test(values_are_read_as_the_public_master_reads_them),
        cmocka_unit_test(max_pollers_is_at_least_min_pollers),
        cmocka_unit_test(options_that_make_no_sense_are_refused_with_a_sentence),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
