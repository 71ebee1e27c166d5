/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fabric door of the program: an endpoint of the fabric with the door's handlers. By default it
 * is the next port after the first gRPC address: who can't ask the signpost (the master is just
 * being started again) guesses that.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "masterd/masterd.h"

#define PEERS_MAX 8192u
#define CLOSE_MS 1000u
#define HOST_BYTES_MAX 256u

#ifdef UMBP_HAVE_FABRIC

/* Where "auto" listens. False: there is no TCP address to lean on. */
static bool beside_grpc(const struct masterd_options *options, char *listen, size_t bytes)
{
    bool is_six_too = false;
    for (size_t i = 0; i < options->address_count; i++) {
        is_six_too |= strncmp(options->addresses[i], "[::]:", 5) == 0;
    }
    for (size_t i = 0; i < options->address_count; i++) {
        const char *address = options->addresses[i];
        const char *colon = strrchr(address, ':');
        uint64_t port;
        if (strncmp(address, "unix:", 5) == 0 || strncmp(address, "unix-abstract:", 14) == 0 ||
            !colon || !units_parse_count(colon + 1, &port) || port >= UINT16_MAX) {
            continue;
        }
        if (is_six_too && strncmp(address, "0.0.0.0:", 8) == 0) {
            address = "*:"; /* both are wanted, and one socket can be both */
            colon = address + 1;
        }
        (void)snprintf(listen, bytes, "%.*s:%u", (int)(colon - address), address,
                       port ? (unsigned)port + 1 : 0u);
        return true;
    }
    return false;
}

/* A host name, or an address with or without the brackets of a v6 one. */
static bool bare_host(const char *text, char host_out[HOST_BYTES_MAX])
{
    struct in6_addr six;
    size_t bytes = strlen(text);
    bool has_brackets = text[0] == '[' && text[bytes - 1] == ']';
    if (bytes >= HOST_BYTES_MAX) {
        return false;
    }
    (void)snprintf(host_out, HOST_BYTES_MAX, "%.*s", (int)(bytes - (has_brackets ? 2 : 0)),
                   text + has_brackets);
    return !strpbrk(host_out, "[]:, ") || inet_pton(AF_INET6, host_out, &six) == 1;
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
    char host[HOST_BYTES_MAX] = "";
    char why[256] = "";

    *fabric = (struct masterd_fabric){0};
    if (strcmp(wanted, "none") == 0) {
        return UMBP_OK;
    }
    if (strcmp(wanted, "auto") != 0) {
        (void)snprintf(listen, sizeof(listen), "%s", wanted);
    } else if (!beside_grpc(options, listen, sizeof(listen))) {
        log_warn("no_fabric_door",
                 "why=\"fabric-listen is auto, and listen has no host:port to put "
                 "it beside\" hint=\"umbp's own nodes and clients can't come in: "
                 "give --fabric-listen host:port\"");
        return UMBP_OK;
    }
    if (advertise[0] && !bare_host(advertise, host)) {
        (void)snprintf(
            error_out, error_bytes,
            "fabric-advertise: \"%.200s\" is no host: give a name or an address, without "
            "a port",
            advertise);
        return UMBP_INVALID_VALUE;
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
        .advertise = host[0] ? host : NULL,
        .cluster = masterd_option(options, "cluster"),
        .hash_seed = options->hash_seed,
        .identity = "master",
        .identity_bytes = strlen("master"),
        .peers_max = PEERS_MAX,
        .same_host_off = true, /* a master moves no values */
    };
    status = fabric_open(&fabric_options, &handlers, why, sizeof(why), &fabric->fabric);
    if (status != UMBP_OK) {
        (void)snprintf(error_out, error_bytes, "the fabric door (fabric-listen: %.80s): %s", wanted,
                       why);
        masterd_fabric_close(fabric);
        return status;
    }
    door_start(fabric->door, fabric->fabric);
    const char *address = fabric_address(fabric->fabric);
    const char *colon = strrchr(address, ':');
    (void)snprintf(signpost->doors[0], sizeof(signpost->doors[0]), "%.255s",
                   host[0] || !colon ? address : colon);
    signpost->door_count = 1;
    return UMBP_OK;
}

void masterd_fabric_close(struct masterd_fabric *fabric)
{
    if (fabric->fabric) {
        /* Only reads of other processes' memory may take time, and a master makes none. */
        enum umbp_status status =
            fabric_close(fabric->fabric, clock_deadline_ns(clock_monotonic(), CLOSE_MS));
        ASSERT(status == UMBP_OK);
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
