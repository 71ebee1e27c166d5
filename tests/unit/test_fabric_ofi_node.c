/* SPDX-License-Identifier: Apache-2.0 */
/* A node on libfabric's tcp endpoints, with its own threads: clients on other threads, by RMA and
 * by reads of the same host, and a client that goes amid it all. */
#include "store_support.h"

#include <pthread.h>

#include "door/door.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "proto/proto.h"
#include "store_rig.h"

#define SEED 0x0f1
#define ROOM (4u * 1024u * 1024u)
#define BATCH 16u

struct served {
    struct store *store;
    struct node *node;
    struct fabric *fabric;
};

static struct fabric_options fabric_options_for(bool same_host)
{
    return (struct fabric_options){.struct_bytes = sizeof(struct fabric_options),
                                   .provider = "tcp",
                                   .cluster = "test",
                                   .hash_seed = SEED,
                                   .same_host_off = !same_host};
}

static struct served serve_by(struct store *store, bool same_host, const char *master,
                              uint32_t job_threads, uint32_t staging_slots)
{
    struct served served = {.store = store};
    struct fabric_options fabric_options = fabric_options_for(same_host);
    const struct node_options options = {.store = store,
                                         .hash_seed = SEED,
                                         .id = "n",
                                         .incarnation = 1,
                                         .masters = &master,
                                         .master_count = master ? 1 : 0,
                                         .job_threads = job_threads,
                                         .staging_bytes = 1 << 20,
                                         .staging_slots = staging_slots};
    char error[256] = "";
    assert_ok(node_create(&options, &served.node));
    struct fabric_handlers handlers = node_handlers(served.node);
    fabric_options.listen = "127.0.0.1:0";
    if (fabric_open(&fabric_options, &handlers, error, sizeof(error), &served.fabric) != UMBP_OK) {
        fail_msg("no endpoint: %s", error);
    }
    assert_ok(node_start(served.node, served.fabric));
    return served;
}

static struct served serve_for(struct store *store, bool same_host, const char *master)
{
    return serve_by(store, same_host, master, 0, 4);
}

static struct served serve(struct store *store, bool same_host)
{
    return serve_for(store, same_host, NULL);
}

static void end_service(struct served *served)
{
    node_stop(served->node, soon());
    assert_ok(fabric_close(served->fabric, soon()));
    node_destroy(served->node);
    fabric_destroy(served->fabric);
}

struct client {
    struct fabric *fabric;
    struct fabric_region *region;
    fabric_peer peer;
    uint8_t *memory;
    uint8_t *frame;
    uint64_t next_request;
};

struct connecting {
    struct client *client;
    struct fabric_latch latch;
    enum umbp_status status;
};

static void on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct connecting *connecting = context;
    connecting->status = status;
    connecting->client->peer = peer;
    fabric_latch_down(connecting->client->fabric, &connecting->latch);
}

/* The node takes connections from a moment after node_start on. */
static enum umbp_status connect_once(struct client *client, const char *address)
{
    struct connecting connecting = {.client = client};
    fabric_latch_init(&connecting.latch, 1);
    assert_ok(fabric_connect(client->fabric, address, fabric_now_ns(client->fabric) + 5 * NS_PER_S,
                             on_connected, &connecting));
    assert_ok(fabric_wait(client->fabric, &connecting.latch,
                          fabric_now_ns(client->fabric) + 20 * NS_PER_S));
    return connecting.status;
}

static void open_client(struct client *client, const char *address, bool same_host)
{
    struct fabric_options options = fabric_options_for(same_host);
    const struct fabric_handlers handlers = {.context = client};
    char error[256] = "";
    *client = (struct client){.memory = calloc(1, ROOM), .frame = malloc(PROTO_EAGER_MAX)};
    if (fabric_open(&options, &handlers, error, sizeof(error), &client->fabric) != UMBP_OK) {
        fail_msg("no endpoint: %s", error);
    }
    assert_ok(fabric_region_create(client->fabric, client->memory, ROOM,
                                   FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                   &client->region));
    enum umbp_status status = UMBP_BUSY;
    for (unsigned i = 0; i < 100 && status == UMBP_BUSY; i++) {
        status = connect_once(client, address);
    }
    assert_ok(status);
}

static void close_client(struct client *client)
{
    assert_ok(fabric_close(client->fabric, soon()));
    fabric_region_destroy(client->fabric, client->region);
    fabric_destroy(client->fabric);
    free(client->memory);
    free(client->frame);
}

struct answer {
    struct client *client;
    struct fabric_latch latch;
    enum umbp_status status;
    uint8_t *data;
    struct proto_frame frame;
    uint64_t epoch;
};

static void on_reply(void *context, const struct fabric_reply *reply)
{
    struct answer *answer = context;
    answer->status = reply->status;
    answer->epoch = reply->epoch;
    answer->data = malloc(reply->bytes + 1);
    if (reply->bytes) {
        memcpy(answer->data, reply->data, reply->bytes);
    }
    if (answer->status == UMBP_OK) {
        answer->status = proto_frame_open(answer->data, reply->bytes, &answer->frame);
    }
    fabric_latch_down(answer->client->fabric, &answer->latch);
}

/* The frame that the client has encoded. */
static void ask(struct client *client, size_t bytes, struct answer *answer)
{
    const struct iovec part = {client->frame, bytes};
    *answer = (struct answer){.client = client};
    fabric_latch_init(&answer->latch, 1);
    const struct fabric_call call = {.peer = client->peer,
                                     .parts = &part,
                                     .part_count = 1,
                                     .deadline_ns = fabric_now_ns(client->fabric) + 20 * NS_PER_S,
                                     .exposes_memory = true,
                                     .done = on_reply,
                                     .context = answer};
    enum umbp_status sent = fabric_call(client->fabric, &call);
    if (sent != UMBP_OK) {
        answer->status = sent; /* else it is the callback's */
    } else {
        assert_ok(fabric_wait(client->fabric, &answer->latch,
                              fabric_now_ns(client->fabric) + 30 * NS_PER_S));
    }
}

static struct proto_key key_of(const struct client *client)
{
    struct fabric_key key = fabric_region_key(client->fabric, client->region);
    return (struct proto_key){key.key, key.base};
}

static void put_batch(struct client *client, unsigned first, uint64_t bytes)
{
    struct named names[BATCH];
    struct proto_piece pieces[BATCH];
    struct proto_put items[BATCH];
    struct proto_walk walk;
    struct answer answer;
    enum umbp_status status;
    size_t frame_bytes = 0;
    for (unsigned i = 0; i < BATCH; i++) {
        uint8_t *data = client->memory + i * bytes;
        test_fill(data, bytes, first + i);
        pieces[i] = (struct proto_piece){(uint64_t)(uintptr_t)data, key_of(client), bytes};
        items[i] = (struct proto_put){.key = name_key(&names[i], "k", first + i),
                                      .bytes = bytes,
                                      .pieces = &pieces[i],
                                      .piece_count = 1};
    }
    assert_ok(proto_put_encode((struct proto_buffer){client->frame, PROTO_EAGER_MAX},
                               (struct proto_call){.request_id = ++client->next_request}, items,
                               BATCH, &frame_bytes));
    ask(client, frame_bytes, &answer);
    assert_ok(answer.status);
    assert_ok(proto_statuses_open(&answer.frame, &walk));
    while (proto_statuses_next(&walk, &status)) {
        assert_true(status == UMBP_OK || status == UMBP_ALREADY_EXISTS);
    }
    free(answer.data);
}

static void pull_places(struct client *client, const struct answer *answer,
                        const struct proto_got *got, uint8_t *to)
{
    struct fabric_piece *pieces = calloc(got->place_count, sizeof(*pieces));
    for (uint32_t p = 0; p < got->place_count; p++) {
        struct proto_place place = proto_place_at(got->rows, p);
        pieces[p] =
            (struct fabric_piece){.local = to, .remote = place.address, .bytes = place.bytes};
        to += place.bytes;
    }
    assert_ok(
        fabric_pull_wait(client->fabric, client->peer, answer->epoch, pieces, got->place_count));
    free(pieces);
}

static void release(struct client *client, uint64_t request_id)
{
    uint8_t frame[128];
    size_t bytes = 0;
    assert_ok(proto_numbers_encode((struct proto_buffer){frame, sizeof(frame)},
                                   (struct proto_call){0}, PROTO_RELEASE, PROTO_FLAG_ONE_WAY,
                                   &request_id, 1, &bytes));
    const struct iovec part = {frame, bytes};
    assert_ok(fabric_send(client->fabric, client->peer, &part, 1));
}

static void get_batch(struct client *client, unsigned first, uint64_t bytes, bool wants_places)
{
    struct named names[BATCH];
    struct proto_range ranges[BATCH];
    struct proto_get items[BATCH];
    struct proto_walk walk;
    struct proto_got got;
    struct answer answer;
    size_t frame_bytes = 0;
    memset(client->memory, 0, BATCH * bytes);
    for (unsigned i = 0; i < BATCH; i++) {
        ranges[i] = (struct proto_range){
            0, bytes, (uint64_t)(uintptr_t)(client->memory + i * bytes), key_of(client)};
        items[i] = (struct proto_get){.key = name_key(&names[i], "k", first + i),
                                      .bytes = bytes,
                                      .ranges = &ranges[i],
                                      .range_count = 1};
    }
    assert_ok(proto_get_encode((struct proto_buffer){client->frame, PROTO_EAGER_MAX},
                               (struct proto_call){.request_id = ++client->next_request}, items,
                               BATCH, &frame_bytes));
    ask(client, frame_bytes, &answer);
    assert_ok(answer.status);
    assert_ok(proto_got_open(&answer.frame, &walk));
    for (unsigned i = 0; proto_got_next(&walk, &got); i++) {
        assert_ok(got.status);
        assert_true(!got.has_places || wants_places);
        if (got.has_places) {
            pull_places(client, &answer, &got, client->memory + i * bytes);
        }
        assert_true(test_check_fill(client->memory + i * bytes, bytes, first + i));
    }
    release(client, client->next_request);
    free(answer.data);
}

/* ---------------------------------------------------------------------------- tests ------ */

struct crew {
    const char *address;
    bool same_host;
    unsigned first;
    uint64_t bytes;
    struct fabric_latch *connected; /* or NULL */
};

static void *work(void *context)
{
    const struct crew *crew = context;
    struct client client;
    open_client(&client, crew->address, crew->same_host);
    for (unsigned round = 0; round < 10; round++) {
        put_batch(&client, crew->first + round % 3 * BATCH, crew->bytes);
        get_batch(&client, crew->first + round % 3 * BATCH, crew->bytes, crew->same_host);
    }
    close_client(&client);
    return NULL;
}

static void several_clients_put_and_get(void **state)
{
    (void)state;
    for (int same_host = 0; same_host < 2; same_host++) {
        struct store_options options = small_options(32 * MIB);
        struct store *store = make_store(&options);
        struct served served = serve(store, same_host);
        const char *address = fabric_address(served.fabric);
        pthread_t threads[3];
        struct crew crew[3];
        for (unsigned i = 0; i < 3; i++) { /* two of them on the same keys */
            crew[i] = (struct crew){address, same_host, i / 2 * 1000, i / 2 ? 3000 : 100000, NULL};
            assert_int_equal(pthread_create(&threads[i], NULL, work, &crew[i]), 0);
        }
        for (unsigned i = 0; i < 3; i++) {
            pthread_join(threads[i], NULL);
        }
        end_service(&served);
        finish_store(store);
    }
}

static void values_on_the_ssd_come_by_its_own_threads(void **state)
{
    (void)state;
    for (int same_host = 0; same_host < 2; same_host++) {
        struct rig rig = rig_make();
        struct client client;
        struct named named;
        rig_open(&rig);
        for (unsigned i = 0; i < BATCH; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), 100000, i, 0));
        }
        assert_ok(store_flush(rig.store, soon()));
        empty_memory(rig.store);
        struct served served = serve(rig.store, same_host);
        open_client(&client, fabric_address(served.fabric), same_host);
        get_batch(&client, 0, 100000, false);
        close_client(&client);
        end_service(&served);
        rig_finish(&rig);
    }
}

/* It begins to close while its clients are at work: every call ends, nothing is left behind. */
static void *work_until_it_fails(void *context)
{
    const struct crew *crew = context;
    struct client client;
    struct named named;
    enum umbp_status status = UMBP_OK;
    open_client(&client, crew->address, crew->same_host);
    /* release: pairs with is_connected */
    atomic_fetch_sub_explicit(&crew->connected->pending, 1, memory_order_release);
    while (status == UMBP_OK) {
        const struct proto_piece piece = {(uint64_t)(uintptr_t)client.memory, key_of(&client),
                                          crew->bytes};
        const struct proto_put item = {.key =
                                           name_key(&named, "x", crew->first + client.next_request),
                                       .bytes = crew->bytes,
                                       .pieces = &piece,
                                       .piece_count = 1};
        struct answer answer;
        size_t bytes = 0;
        assert_ok(proto_put_encode((struct proto_buffer){client.frame, PROTO_EAGER_MAX},
                                   (struct proto_call){.request_id = ++client.next_request}, &item,
                                   1, &bytes));
        ask(&client, bytes, &answer);
        status = answer.status;
        free(answer.data);
    }
    close_client(&client);
    return NULL;
}

static bool is_connected(void *context)
{
    const struct fabric_latch *latch = context;
    return atomic_load_explicit(&latch->pending, memory_order_acquire) == 0;
}

static bool has_served(void *context) { return stat_of(context, "puts.stored") > 20; }

static void a_node_that_ends_amid_puts_leaves_nothing_behind(void **state)
{
    (void)state;
    for (int same_host = 0; same_host < 2; same_host++) {
        struct store_options options = small_options(8 * MIB);
        struct store *store = make_store(&options);
        struct served served = serve(store, same_host);
        pthread_t threads[2];
        struct crew crew[2];
        struct fabric_latch connected;
        fabric_latch_init(&connected, 2);
        for (unsigned i = 0; i < 2; i++) {
            crew[i] = (struct crew){fabric_address(served.fabric), same_host, i * 1000000, 500000,
                                    &connected};
            assert_int_equal(pthread_create(&threads[i], NULL, work_until_it_fails, &crew[i]), 0);
        }
        assert_true(test_wait_until(is_connected, &connected, WAIT_MS));
        assert_true(test_wait_until(has_served, store, WAIT_MS));
        assert_ok(fabric_close(served.fabric, soon())); /* without taking leave */
        for (unsigned i = 0; i < 2; i++) {
            pthread_join(threads[i], NULL);
        }
        node_destroy(served.node);
        fabric_destroy(served.fabric);
        finish_store(store);
    }
}

/* ------------------------------------------------------------------------ an end -------- */

#define QUEUED 40u

/* Requests for a value each, on the SSD of a node with one job thread and a disk that hangs. */
struct queued {
    struct rig rig;
    struct served served;
    struct client client;
    struct answer answers[QUEUED];
    uint64_t reads; /* of the disk, before */
};

static uint64_t node_stat(const struct node *node, const char *name)
{
    struct umbp_stat_value values[64];
    size_t count = 0;
    node_stats(node, values, 64, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    fail_msg("no statistic \"%s\"", name);
    return 0;
}

static uint64_t disk_reads(const struct queued *queued)
{
    return disk_fault_calls(queued->rig.fault, DISK_CALL_READ) - queued->reads;
}

static bool all_are_queued(void *context)
{
    struct queued *queued = context;
    return node_stat(queued->served.node, "node.requests") == QUEUED && disk_reads(queued) >= 1;
}

static bool one_is_left(void *context)
{
    return node_stat(((struct queued *)context)->served.node, "node.operations_now") <= 1;
}

static void ask_for_one(struct queued *queued, unsigned which)
{
    struct client *client = &queued->client;
    struct answer *answer = &queued->answers[which];
    struct named named;
    size_t bytes = 0;
    const struct proto_range range = {
        0, 5000, (uint64_t)(uintptr_t)(client->memory + (uint64_t)which * 5000), key_of(client)};
    const struct proto_get item = {
        .key = name_key(&named, "k", which), .bytes = 5000, .ranges = &range, .range_count = 1};
    assert_ok(proto_get_encode((struct proto_buffer){client->frame, PROTO_EAGER_MAX},
                               (struct proto_call){.request_id = ++client->next_request}, &item, 1,
                               &bytes));
    const struct iovec part = {client->frame, bytes};
    *answer = (struct answer){.client = client};
    fabric_latch_init(&answer->latch, 1);
    const struct fabric_call call = {.peer = client->peer,
                                     .parts = &part,
                                     .part_count = 1,
                                     .deadline_ns = fabric_now_ns(client->fabric) + 60 * NS_PER_S,
                                     .exposes_memory = true,
                                     .done = on_reply,
                                     .context = answer};
    assert_ok(fabric_call(client->fabric, &call));
}

/* `read_ms`: for how long the store waits for the disk. */
static void begin_queued(struct queued *queued, uint32_t read_ms)
{
    const struct disk_fault hang = {
        .call = DISK_CALL_READ, .first = 1, .times = 1u << 30, .action = DISK_FAULT_NEVER};
    struct named named;
    memset(queued, 0, sizeof(*queued));
    queued->rig = rig_make();
    queued->rig.options.op_timeout_ms = read_ms;
    rig_open(&queued->rig);
    for (unsigned i = 0; i < QUEUED; i++) {
        assert_ok(put_value(queued->rig.store, name_key(&named, "k", i), 5000, i, 0));
    }
    assert_ok(store_flush(queued->rig.store, soon()));
    empty_memory(queued->rig.store);
    queued->served = serve_by(queued->rig.store, false, NULL, 1, QUEUED);
    open_client(&queued->client, fabric_address(queued->served.fabric), false);
    queued->reads = disk_fault_calls(queued->rig.fault, DISK_CALL_READ);
    assert_true(disk_fault_add(queued->rig.fault, &hang));
    for (unsigned i = 0; i < QUEUED; i++) {
        ask_for_one(queued, i);
    }
    assert_true(test_wait_until(all_are_queued, queued, WAIT_MS));
}

/* Every request was answered that it is over, but for `late` at most, whose reads took too long. */
static void end_queued(struct queued *queued, unsigned late)
{
    struct client *client = &queued->client;
    for (unsigned i = 0; i < QUEUED; i++) {
        struct answer *answer = &queued->answers[i];
        struct proto_walk walk;
        struct proto_got got;
        assert_ok(fabric_wait(client->fabric, &answer->latch,
                              fabric_now_ns(client->fabric) + 30 * NS_PER_S));
        enum umbp_status status = answer->status;
        if (status == UMBP_OK) {
            assert_ok(proto_got_open(&answer->frame, &walk));
            assert_true(proto_got_next(&walk, &got));
            status = got.status;
        }
        assert_true(status == UMBP_CLOSED || (status == UMBP_TIMEOUT && late-- > 0));
        free(answer->data);
    }
    close_client(client);
    rig_finish(&queued->rig);
}

static void a_node_that_stops_begins_no_job_that_was_queued(void **state)
{
    struct queued queued;
    (void)state;
    begin_queued(&queued, 600000);
    node_stop(queued.served.node, soon());
    assert_true(test_wait_until(one_is_left, &queued, WAIT_MS));
    assert_int_equal(node_stat(queued.served.node, "node.lanes_now"), 1);
    assert_ok(fabric_close(queued.served.fabric, soon()));
    assert_int_equal(disk_reads(&queued), 1);
    disk_fault_clear(queued.rig.fault); /* and what hangs goes on */
    node_destroy(queued.served.node);
    fabric_destroy(queued.served.fabric);
    assert_int_equal(disk_reads(&queued), 1);
    end_queued(&queued, 0);
}

/* Without taking leave, and with a disk that never comes back to itself. */
static void a_nodes_end_waits_for_the_jobs_under_way_only(void **state)
{
    struct queued queued;
    (void)state;
    begin_queued(&queued, 500);
    assert_ok(fabric_close(queued.served.fabric, soon()));
    node_destroy(queued.served.node);
    fabric_destroy(queued.served.fabric);
    assert_in_range(disk_reads(&queued), 1, QUEUED - 1); /* those whose time was up meanwhile */
    disk_fault_clear(queued.rig.fault);
    end_queued(&queued, QUEUED - 1);
}

/* --------------------------------------------------------------------------- a master ---- */

struct advisor {
    struct master *master;
    struct door *door;
    struct fabric *fabric;
};

static struct advisor advise(const char *listen)
{
    struct advisor advisor = {0};
    struct master_options options;
    struct fabric_options fabric_options = fabric_options_for(false);
    struct fabric_handlers handlers;
    char error[256] = "";
    master_options_default(&options);
    options.nodes_max = 16;
    options.index_shards = 4;
    assert_ok(master_create(&options, &advisor.master, error, sizeof(error)));
    const struct door_options door_options = {.master = advisor.master};
    assert_ok(door_create(&door_options, &advisor.door));
    door_handlers(advisor.door, &handlers);
    fabric_options.listen = listen;
    if (fabric_open(&fabric_options, &handlers, error, sizeof(error), &advisor.fabric) != UMBP_OK) {
        fail_msg("no endpoint on %s: %s", listen, error);
    }
    door_start(advisor.door, advisor.fabric);
    return advisor;
}

static void end_advice(struct advisor *advisor)
{
    assert_ok(fabric_close(advisor->fabric, soon()));
    door_destroy(advisor->door);
    master_destroy(advisor->master);
    fabric_destroy(advisor->fabric);
}

struct wanted_keys {
    struct advisor *advisor;
    unsigned count;
};

static bool knows_all(void *context)
{
    const struct wanted_keys *wanted = context;
    for (unsigned i = 0; i < wanted->count; i++) {
        struct named named;
        uint8_t found = 0;
        name_key(&named, "k", i);
        struct fingerprint print = hash_key(named.key.data, named.key.bytes, SEED);
        assert_ok(master_lookup(wanted->advisor->master, &print, 1, &found));
        if (!found) {
            return false;
        }
    }
    return true;
}

static void a_master_is_told_and_told_again_after_it_was_gone(void **state)
{
    struct store_options options = small_options(32 * MIB);
    struct store *store = make_store(&options);
    struct advisor advisor = advise("127.0.0.1:0");
    struct wanted_keys wanted = {&advisor, 3000};
    struct named named;
    char address[FABRIC_ADDRESS_MAX];
    (void)state;
    snprintf(address, sizeof(address), "%s", fabric_address(advisor.fabric));
    struct served served = serve_for(store, false, address);
    for (unsigned i = 0; i < 3000; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), 100, i, 0));
    }
    assert_true(test_wait_until(knows_all, &wanted, WAIT_MS));
    end_advice(&advisor);
    for (unsigned i = 3000; i < 4000; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), 100, i, 0));
    }
    advisor = advise(address);
    wanted.count = 4000;
    assert_true(test_wait_until(knows_all, &wanted, WAIT_MS));
    end_service(&served); /* takes leave */
    struct fingerprint print = hash_key("k1", 2, SEED);
    uint8_t found = 9;
    assert_ok(master_lookup(advisor.master, &print, 1, &found));
    assert_int_equal(found, 0);
    end_advice(&advisor);
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_clients_put_and_get),
        cmocka_unit_test(values_on_the_ssd_come_by_its_own_threads),
        cmocka_unit_test(a_node_that_ends_amid_puts_leaves_nothing_behind),
        cmocka_unit_test(a_node_that_stops_begins_no_job_that_was_queued),
        cmocka_unit_test(a_nodes_end_waits_for_the_jobs_under_way_only),
        cmocka_unit_test(a_master_is_told_and_told_again_after_it_was_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
