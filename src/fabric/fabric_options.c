/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/fabric_priv.h"

enum umbp_status fabric_address_split(const char *address, char host_out[FABRIC_HOST_MAX],
                                      uint16_t *port_out)
{
    const char *colon = strrchr(address, ':');
    if (!colon || strlen(address) >= FABRIC_ADDRESS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    const char *host = address;
    size_t bytes = (size_t)(colon - address);
    if (bytes >= 2 && host[0] == '[' && host[bytes - 1] == ']') {
        host++;
        bytes -= 2;
    } else if (memchr(host, ':', bytes)) {
        return UMBP_INVALID_VALUE; /* a bare v6 address: which colon is the port's? */
    }
    if (bytes >= FABRIC_HOST_MAX) {
        return UMBP_INVALID_VALUE;
    }
    uint32_t port = 0;
    size_t digits = strlen(colon + 1);
    if (digits == 0 || digits > 5) {
        return UMBP_INVALID_VALUE;
    }
    for (const char *at = colon + 1; *at; at++) {
        if (*at < '0' || *at > '9') {
            return UMBP_INVALID_VALUE;
        }
        port = port * 10 + (uint32_t)(*at - '0');
    }
    if (port > UINT16_MAX) {
        return UMBP_INVALID_VALUE;
    }
    memcpy(host_out, host, bytes);
    host_out[bytes] = '\0';
    *port_out = (uint16_t)port;
    return UMBP_OK;
}

void fabric_address_join(char out[FABRIC_ADDRESS_MAX], const char *host, uint16_t port)
{
    bool six = strchr(host, ':') != NULL;
    snprintf(out, FABRIC_ADDRESS_MAX, "%s%.255s%s:%u", six ? "[" : "", host, six ? "]" : "", port);
}

static void fill(uint32_t *value, uint32_t preset)
{
    if (*value == 0) {
        *value = preset;
    }
}

static const char *wrong_option(const struct fabric_options *full)
{
    if (full->peer_timeout_ms / 3 < full->beat_ms) {
        return "peer_timeout_ms is less than three beats";
    }
    if (full->identity_bytes > FABRIC_IDENTITY_MAX) {
        return "the identity is too long";
    }
    if (strlen(full->cluster) > FABRIC_CLUSTER_MAX) {
        return "the cluster's name is too long";
    }
    if (full->peers_max > 16384 || full->calls_max > 65535 || full->requests_max > 65535 ||
        full->pull_threads > COPY_POOL_THREADS_MAX) {
        return "a limit is too high";
    }
    return NULL;
}

enum umbp_status fabric_options_check(const struct fabric_options *options,
                                      struct fabric_options *full_out, char *error_out,
                                      size_t error_bytes)
{
    struct fabric_options full;
    memset(&full, 0, sizeof(full));
    memcpy(&full, options, size_min(options->struct_bytes, sizeof(full)));
    full.struct_bytes = sizeof(full);
    full.provider = full.provider ? full.provider : "auto";
    full.cluster = full.cluster ? full.cluster : "";
    full.clock = full.clock ? full.clock : clock_monotonic();
    fill(&full.beat_ms, 500);
    fill(&full.peer_timeout_ms, 3000);
    fill(&full.handshake_ms, 2000);
    fill(&full.peers_max, 1024);
    fill(&full.calls_max, 1024);
    fill(&full.calls_per_peer, 256);
    fill(&full.requests_max, 256);
    fill(&full.pull_threads, 2);
    fill(&full.spin_us, 20);
    if (full.spin_us == UINT32_MAX) {
        full.spin_us = 0;
    }
    const char *wrong = wrong_option(&full);
    char host[FABRIC_HOST_MAX];
    uint16_t port;
    bool bad_listen = !wrong && full.listen && fabric_address_split(full.listen, host, &port);
    if (bad_listen && error_out) {
        snprintf(error_out, error_bytes,
                 "can't listen at %s: that is not host:port ([host]:port for IPv6)", full.listen);
    } else if (wrong && error_out) {
        snprintf(error_out, error_bytes, "%s", wrong);
    }
    if (wrong || bad_listen) {
        return UMBP_INVALID_VALUE;
    }
    *full_out = full;
    return UMBP_OK;
}

size_t fabric_parts_bytes(const struct iovec *parts, unsigned part_count)
{
    size_t sum = 0;
    if (part_count > FABRIC_PARTS_MAX) {
        return SIZE_MAX;
    }
    for (unsigned i = 0; i < part_count; i++) {
        if (__builtin_add_overflow(sum, parts[i].iov_len, &sum)) {
            return SIZE_MAX;
        }
    }
    return sum;
}

void fabric_parts_copy(void *to, const struct iovec *parts, unsigned part_count)
{
    char *at = to;
    for (unsigned i = 0; i < part_count; i++) {
        if (parts[i].iov_len > 0) {
            memcpy(at, parts[i].iov_base, parts[i].iov_len);
            at += parts[i].iov_len;
        }
    }
}
