/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of a client's life: what it says of itself, close, fork, and what is left after. */
#include "contract.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLS 17

static bool visit_nothing(void *context, const struct umbp_entry_info *info)
{
    (void)context;
    (void)info;
    return true;
}

/* Call number `call` of the interface. */
static enum umbp_status call_one(struct umbp_client *client, unsigned call, void *memory,
                                 uint64_t number)
{
    char room[TEST_KEY_ROOM];
    unsigned char data[512];
    struct umbp_key key = test_key_number(room, "call", number % 40);
    struct umbp_range range = {data, sizeof(data), 0};
    struct umbp_put_item put = {.key = key, .data = data, .bytes = sizeof(data)};
    struct umbp_get_item get = {.key = key, .data = data, .bytes = sizeof(data)};
    struct umbp_range_item ranged = {
        .key = key, .ranges = &range, .range_count = 1, .object_bytes = sizeof(data)};
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    struct umbp_stat_value stats[8];
    enum umbp_status status = UMBP_OK;
    uint8_t found;
    size_t count;

    test_fill(data, sizeof(data), number % 40);
    switch (call) {
    case 0:
        return umbp_put(client, key, data, sizeof(data), 0);
    case 1:
        return umbp_get(client, key, data, sizeof(data));
    case 2:
        return umbp_exists(client, key);
    case 3:
        return umbp_remove(client, key);
    case 4:
        return umbp_batch_put(client, &put, 1, &status);
    case 5:
        return umbp_batch_get(client, &get, 1, &status);
    case 6:
        return umbp_batch_exists(client, &key, 1, &found);
    case 7:
        return umbp_batch_exists_consecutive(client, &key, 1, &count);
    case 8:
        return umbp_batch_remove(client, &key, 1, &status);
    case 9:
        return umbp_batch_put_ranges(client, &ranged, 1, &status);
    case 10:
        return umbp_batch_get_ranges(client, &ranged, 1, &status);
    case 11:
        return umbp_register_memory(client, memory, 16);
    case 12:
        return umbp_deregister_memory(client, memory);
    case 13:
        return umbp_flush(client, 0);
    case 14:
        return umbp_clear(client);
    case 15:
        return umbp_list(client, visit_nothing, NULL);
    case 16:
        return umbp_stats(client, stats, 8, &count);
    default:
        return umbp_stat(client, key, &info);
    }
}

static void a_client_says_what_it_is(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    const struct contract_factory *factory = contract_factory();
    (void)state;
    assert_int_equal(umbp_client_deployment(fixture.client), factory->deployment);
    assert_int_equal(umbp_client_is_distributed(fixture.client), factory->is_distributed);
    assert_int_equal(umbp_client_supports_ranges(fixture.client), factory->supports_ranges);
    fixture_close(&fixture);
}

static void every_call_on_no_client_is_refused(void **state)
{
    char memory[16];
    (void)state;
    for (unsigned call = 0; call <= CALLS; call++) {
        assert_status(call_one(NULL, call, memory, 0), UMBP_INVALID_VALUE);
    }
    assert_status(umbp_client_close(NULL, 0), UMBP_INVALID_VALUE);
    umbp_client_destroy(NULL);
}

static void close_is_idempotent_and_every_later_call_is_told(void **state)
{
    char memory[16];
    (void)state;
    for (unsigned call = 0; call <= CALLS; call++) {
        struct fixture fixture = fixture_open(NULL);
        assert_ok(test_put(fixture.client, test_key("k"), 100, 1));
        assert_ok(umbp_client_close(fixture.client, 0));
        assert_status(call_one(fixture.client, call, memory, 0), UMBP_CLOSED);
        assert_ok(umbp_client_close(fixture.client, 0));
        assert_ok(umbp_client_close(fixture.client, 1));
        fixture_end(&fixture);
    }
}

static void a_batch_on_a_closed_client_sets_every_status(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_put_item puts[3] = {{.key = test_key("a")}, {.key = test_key("b")}};
    enum umbp_status statuses[3] = {UMBP_OK, UMBP_OK, UMBP_OK};
    (void)state;
    assert_ok(umbp_client_close(fixture.client, 0));
    assert_status(umbp_batch_put(fixture.client, puts, 3, statuses), UMBP_CLOSED);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(statuses[i], UMBP_CLOSED);
    }
    fixture_end(&fixture);
}

static void a_client_may_be_destroyed_without_a_close(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    assert_ok(test_put(fixture.client, test_key("k"), 100000, 1));
    fixture_end(&fixture);
}

/* ---- threads inside every call ---- */

struct caller {
    struct umbp_client *client;
    unsigned call;
    _Atomic uint64_t done;
    unsigned wrong;
    char memory[16];
};

static void *call_until_closed(void *context)
{
    struct caller *caller = context;
    for (uint64_t number = 0;; number++) {
        enum umbp_status status =
            call_one(caller->client, caller->call, caller->memory, number + caller->call);
        if (status == UMBP_CLOSED) {
            return NULL;
        }
        if (status != UMBP_OK && status != UMBP_ALREADY_EXISTS && status != UMBP_NOT_FOUND &&
            status != UMBP_NO_SPACE) {
            printf("call %u: %s\n", caller->call, umbp_status_name(status));
            caller->wrong++;
        }
        atomic_fetch_add(&caller->done, 1);
    }
}

static bool has_called(void *context)
{
    struct caller *caller = context;
    return atomic_load(&caller->done) >= 3;
}

static void *close_it(void *context)
{
    enum umbp_status *status = calloc(1, sizeof(*status));
    *status = umbp_client_close(context, 20000);
    return status;
}

static void close_ends_calls_that_run_in_every_function_and_two_closers_agree(void **state)
{
    static const char *const options[] = {"close_timeout_ms", "20000", NULL};
    (void)state;
    for (unsigned round = 0; round < (test_is_slow() ? 1 : 4); round++) {
        struct fixture fixture = fixture_open(options);
        struct caller callers[CALLS + 1];
        pthread_t threads[CALLS + 1];
        pthread_t closers[2];
        memset(callers, 0, sizeof(callers));
        for (unsigned i = 0; i <= CALLS; i++) {
            callers[i].client = fixture.client;
            callers[i].call = i;
            assert_int_equal(pthread_create(&threads[i], NULL, call_until_closed, &callers[i]), 0);
        }
        for (unsigned i = 0; i <= CALLS; i++) {
            assert_true(test_wait_until(has_called, &callers[i], 20000));
        }
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(pthread_create(&closers[i], NULL, close_it, fixture.client), 0);
        }
        for (unsigned i = 0; i < 2; i++) {
            enum umbp_status *status;
            pthread_join(closers[i], (void **)&status);
            assert_ok(*status);
            free(status);
        }
        for (unsigned i = 0; i <= CALLS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(callers[i].wrong, 0);
        }
        fixture_end(&fixture);
    }
}

/* ---- fork ---- */

/* In the child: no cmocka, only an exit code. */
static int child_of(struct umbp_client *client)
{
    char memory[16];
    for (unsigned call = 0; call <= CALLS; call++) {
        if (call_one(client, call, memory, 0) != UMBP_FORKED) {
            return 1 + (int)call;
        }
    }
    if (umbp_client_close(client, 0) != UMBP_FORKED) {
        return 100;
    }
    umbp_client_destroy(client);
    return 0;
}

static void a_forked_child_is_refused_and_the_parent_goes_on(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    int status = -1;
    (void)state;
    assert_ok(test_put(fixture.client, test_key("k"), 5000, 1));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        _exit(child_of(fixture.client));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_ok(test_get(fixture.client, test_key("k"), 5000, 1));
    fixture_close(&fixture);
}

/* ---- leaks ---- */

static unsigned long mapped_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (file == NULL || fscanf(file, "%lu", &pages) != 1) {
        abort();
    }
    fclose(file);
    return pages * (unsigned long)sysconf(_SC_PAGESIZE) / 1024;
}

static void live_once(void)
{
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    for (uint64_t i = 0; i < 150; i++) {
        assert_ok(test_put(fixture.client, test_key_number(room, "m", i), 40000, i));
        if (i >= 20) {
            assert_ok(test_get(fixture.client, test_key_number(room, "m", i - 20), 40000, i - 20));
        }
    }
    assert_ok(umbp_flush(fixture.client, 0));
    fixture_close(&fixture);
}

static void clients_one_after_the_other_leave_no_mapping_behind(void **state)
{
    (void)state;
    if (test_is_slow()) {
        skip(); /* the sanitizers map on their own, and look for leaks themselves */
    }
    for (unsigned i = 0; i < 3; i++) {
        live_once();
    }
    unsigned long before = mapped_kib();
    for (unsigned i = 0; i < 12; i++) {
        live_once();
    }
    /* A tier that stayed mapped, or a thread's stack, would be 48 MiB by now. */
    assert_in_range(mapped_kib(), 0, before + 20 * 1024);
}

int contract_run_life(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_says_what_it_is),
        cmocka_unit_test(every_call_on_no_client_is_refused),
        cmocka_unit_test(close_is_idempotent_and_every_later_call_is_told),
        cmocka_unit_test(a_batch_on_a_closed_client_sets_every_status),
        cmocka_unit_test(a_client_may_be_destroyed_without_a_close),
        cmocka_unit_test(close_ends_calls_that_run_in_every_function_and_two_closers_agree),
        cmocka_unit_test(a_forked_child_is_refused_and_the_parent_goes_on),
        cmocka_unit_test(clients_one_after_the_other_leave_no_mapping_behind),
    };
    return CONTRACT_TESTS("life", tests);
}
