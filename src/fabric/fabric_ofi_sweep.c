/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half-open connections. The tcp provider accepts sockets and waits for their connection request
 * without a deadline, and nobody is told. So we look among the process's descriptors for connected
 * sockets of our port that belong to no connection of ours; one that is still there a sweep later
 * is shut down, which makes the provider find its end, and close it. No race: only the provider
 * closes such a socket, only when it is called, and this runs under the token like every call of
 * it.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <sys/socket.h>

#include "fabric/fabric_ofi_priv.h"

/* Where a connection comes from, to tell sockets apart. False: not one of our port. */
static bool socket_of_ours(const struct ofi *ofi, int fd, struct sockaddr_in6 *from_out)
{
    struct sockaddr_in6 near = {0};
    socklen_t bytes = sizeof(near);
    if (getsockname(fd, (struct sockaddr *)&near, &bytes) != 0 ||
        (near.sin6_family != AF_INET && near.sin6_family != AF_INET6) ||
        ntohs(near.sin6_port) != ofi->listen_port) { /* both families have it at the same place */
        return false;
    }
    bytes = sizeof(*from_out);
    memset(from_out, 0, sizeof(*from_out));
    return getpeername(fd, (struct sockaddr *)from_out, &bytes) == 0;
}

static bool is_known(struct ofi *ofi, const struct sockaddr_in6 *from)
{
    for (uint32_t i = 0; i < ofi->peers_high; i++) {
        struct peer *peer = &ofi->peers[i];
        struct sockaddr_in6 other;
        size_t bytes = sizeof(other);
        if (peer->state == PEER_FREE || !peer->ep || !peer->incoming) {
            continue;
        }
        memset(&other, 0, sizeof(other));
        if (fi_getpeer(peer->ep, &other, &bytes) == 0 && memcmp(&other, from, sizeof(other)) == 0) {
            return true;
        }
    }
    return false;
}

static bool was_seen(const struct ofi *ofi, const struct sockaddr_in6 *from)
{
    for (unsigned i = 0; i < ofi->half_open_count; i++) {
        if (memcmp(&ofi->half_open[i], from, sizeof(*from)) == 0) {
            return true;
        }
    }
    return false;
}

void fabric_ofi_sweep_now(struct ofi *ofi, bool at_once)
{
    DIR *folder = ofi->listen_port && ofi->is_tcp ? opendir("/proc/self/fd") : NULL;
    if (!folder) {
        return;
    }
    struct sockaddr_in6 *found = ofi->half_open_next;
    unsigned count = 0;
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        uint64_t fd = 0;
        struct sockaddr_in6 from;
        if (!units_parse_count(entry->d_name, &fd) || fd > INT32_MAX ||
            !socket_of_ours(ofi, (int)fd, &from) || is_known(ofi, &from)) {
            continue;
        }
        if (at_once || was_seen(ofi, &from) || count == HALF_OPEN_MAX) {
            shutdown((int)fd, SHUT_RDWR);
        } else {
            found[count++] = from;
        }
    }
    closedir(folder);
    ofi->half_open_next = ofi->half_open;
    ofi->half_open = found;
    ofi->half_open_count = count;
}

void fabric_ofi_sweep(struct fabric_timer *timer)
{
    struct ofi *ofi = CONTAINER_OF(timer, struct ofi, sweep);
    fabric_ofi_sweep_now(ofi, false);
    fabric_heap_set(&ofi->timers, timer, ofi->now_ns + ofi->options.handshake_ms * NS_PER_MS);
}
