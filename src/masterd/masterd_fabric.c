/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fabric door of the program: an endpoint of the fabric with the door's handlers. By default it
 * is the next port after the first gRPC address: who can't ask the signpost (the master is just
 * being started again) guesses that.
 */
#include <stdio.h>
#include <string.h>

#include "masterd/masterd.h"

#define PEERS_MAX 8192u
#define CLOSE_MS 1000u

#ifdef UMBP_HAVE_FABRIC

/* Where "auto" listens. False: there is no TCP address to lean on. */
static bool beside_grpc(const struct masterd_options *options, char *listen, size_t bytes)
{
    for (size_t i = 0; i < options->address_count; i++) {
        const char *address = options->addresses[i];
        const char *colon = strrchr(address, ':');
        uint64_t port;
        if (strncmp(address, "unix:", 5) == 0 || !colon || !units_parse_count(colon + 1, &port) ||
            port >= UINT16_MAX) {
            continue;
        }
        (void)snprintf(listen, bytes, "%.*s:%u", (int)(colon - address), address,
                       port ? (unsigned)port + 1 : 0u);
        return true;
    }
    return false;
}

enum umbp_status masterd_fabric_open(struct masterd_fabric *fabric,
                                     const struct masterd_options *options, struct master *master,
                                     struct proto_signpost *signpost, char *error_out,
                                     size_t error_bytes)
{
    const char *wanted = masterd_option(options, "fabric-listen");
    const char *advertise = masterd_option(options, "fabric-advertise");
    const struct door_options door_options = {.master = master, .peers_max = PEERS_MAX};
    struct fabric_handlers handlers;
    char listen[FABRIC_ADDRESS_MAX];

    *fabric = (struct masterd_fabric){0};
    if (strcmp(wanted, "none") == 0) {
        return UMBP_OK;
    }
    if (strcmp(wanted, "auto") != 0) {
        (void)snprintf(listen, sizeof(listen), "%s", wanted);
    } else if (!beside_grpc(options, listen, sizeof(listen))) {
        return UMBP_OK;
    }
    enum umbp_status status = door_create(&door_options, &fabric->door);
    if (status != UMBP_OK) {
        (void)snprintf(error_out, error_bytes, "%s", umbp_status_text(status));
        return status;
    }
    door_handlers(fabric->door, &handlers);
    const struct fabric_options fabric_options = {
        .struct_bytes = sizeof(fabric_options),
        .provider = masterd_option(options, "fabric-provider"),
        .listen = listen,
        .advertise = advertise[0] ? advertise : NULL,
        .cluster = masterd_option(options, "cluster"),
        .hash_seed = options->hash_seed,
        .identity = "master",
        .identity_bytes = strlen("master"),
        .peers_max = PEERS_MAX,
        .same_host_off = true, /* a master moves no values */
    };
    status = fabric_open(&fabric_options, &handlers, error_out, error_bytes, &fabric->fabric);
    if (status != UMBP_OK) {
        masterd_fabric_close(fabric);
        return status;
    }
    door_start(fabric->door, fabric->fabric);
    const char *address = fabric_address(fabric->fabric);
    const char *colon = strrchr(address, ':');
    (void)snprintf(signpost->doors[0], sizeof(signpost->doors[0]), "%s%s", advertise,
                   colon ? colon : "");
    signpost->door_count = 1;
    return UMBP_OK;
}

void masterd_fabric_close(struct masterd_fabric *fabric)
{
    if (fabric->fabric) {
        (void)!fabric_close(fabric->fabric, clock_deadline_ns(clock_monotonic(), CLOSE_MS));
        fabric_destroy(fabric->fabric);
    }
    door_destroy(fabric->door);
    *fabric = (struct masterd_fabric){0};
}

const char *masterd_fabric_address(const struct masterd_fabric *fabric)
{
    return fabric->fabric ? fabric_address(fabric->fabric) : "";
}

#else

enum umbp_status masterd_fabric_open(struct masterd_fabric *fabric,
                                     const struct masterd_options *options, struct master *master,
                                     struct proto_signpost *signpost, char *error_out,
                                     size_t error_bytes)
{
    const char *wanted = masterd_option(options, "fabric-listen");
    (void)master;
    (void)signpost;
    *fabric = (struct masterd_fabric){0};
    if (strcmp(wanted, "none") == 0 || strcmp(wanted, "auto") == 0) {
        return UMBP_OK;
    }
    (void)snprintf(error_out, error_bytes,
                   "fabric-listen %s: this build has no fabric (libfabric was not there)", wanted);
    return UMBP_UNSUPPORTED;
}

void masterd_fabric_close(struct masterd_fabric *fabric) { *fabric = (struct masterd_fabric){0}; }

const char *masterd_fabric_address(const struct masterd_fabric *fabric)
{
    (void)fabric;
    return "";
}

#endif
