/* SPDX-License-Identifier: Apache-2.0 */
/* The master's fabric port: whatever a peer says, a question after it is answered. */
#include "port_fuzz.h"

#include "door/door.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const struct fabric_sim_options sim_options = {.seed = 1};
    const struct proto_want want = {.print = hash_key("k", 1, 7)};
    struct master_options options;
    struct fabric_handlers handlers;
    struct master *master;
    struct door *door;
    struct port port = {0};
    uint8_t frame[256];
    size_t frame_bytes = 0;
    char error[128];

    log_level_set(UMBP_LOG_ERROR);
    check(fabric_sim_create(&sim_options, &port.sim) == UMBP_OK);
    master_options_default(&options);
    options.clock = fabric_sim_clock(port.sim);
    options.seed = 1;
    options.incarnation = 1;
    options.index_shards = 1;
    options.nodes_max = 8;
    options.keys_max = 1024;
    options.external_keys_max = 1024;
    check(master_create(&options, &master, error, sizeof(error)) == UMBP_OK);
    const struct door_options door_options = {.master = master, .peers_max = 4};
    check(door_create(&door_options, &door) == UMBP_OK);
    door_handlers(door, &handlers);
    port_open(&port, &handlers);
    door_start(door, port.served);
    port_connect(&port);
    port_hear(&port, data, bytes);
    port_connect(&port);
    check(proto_ask_encode((struct proto_buffer){frame, sizeof(frame)},
                           (struct proto_call){.request_id = 1, .time_left_ms = 100}, PROTO_LOOKUP,
                           &(struct proto_ask){0}, &want, 1, &frame_bytes) == UMBP_OK);
    port_call(&port, frame, frame_bytes, false);
    check(port.is_answered && port.status == UMBP_OK && port.reply_status == UMBP_OK);
    port_close_asker(&port);
    check(fabric_close(port.served, 0) == UMBP_OK);
    fabric_destroy(port.served);
    door_destroy(door);
    master_destroy(master);
    fabric_sim_destroy(port.sim);
    free(port.memory);
    return 0;
}
