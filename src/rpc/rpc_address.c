/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as people write them, in gRPC's ways. */
#include "rpc/rpc_priv.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/un.h>

static enum umbp_status fail(char *error_out, size_t error_bytes, const char *format, ...)
    PRINTF_LIKE(3, 4);
static enum umbp_status fail(char *error_out, size_t error_bytes, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_out, error_bytes, format, arguments);
    va_end(arguments);
    return UMBP_INVALID_VALUE;
}

/* `path` is what goes into the address; an abstract name begins with a NUL there. */
static enum umbp_status make_unix(const char *path, bool is_abstract, const char *text,
                                  struct rpc_address *address_out, char *error_out,
                                  size_t error_bytes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t bytes = strlen(path);
    if (bytes == 0 || bytes >= sizeof address.sun_path - 1) {
        return fail(error_out, error_bytes, "\"%s\": the name of a unix socket has 1 to %zu bytes",
                    text, sizeof address.sun_path - 2);
    }
    size_t at = is_abstract ? 1 : 0;
    memcpy(address.sun_path + at, path, bytes);
    memset(address_out, 0, sizeof *address_out);
    memcpy(&address_out->socket, &address, sizeof address);
    address_out->bytes =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes + 1); /* its NUL, or the first */
    return UMBP_OK;
}

/* "host:port", "[v6]:port", ":port", "*:port". */
static bool split(const char *text, char *host, size_t host_bytes, char *port, size_t port_bytes)
{
    const char *colon = strrchr(text, ':');
    uint64_t number;
    if (colon == NULL || !units_parse_count(colon + 1, &number) || number > UINT16_MAX) {
        return false;
    }
    snprintf(port, port_bytes, "%u", (unsigned)number);
    const char *begin = text;
    const char *end = colon;
    if (*begin == '[') {
        if (end - begin < 2 || end[-1] != ']') {
            return false;
        }
        begin++;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin)) != NULL) {
        return false; /* a v6 address without brackets: which colon is the port's? */
    }
    if ((size_t)(end - begin) >= host_bytes) {
        return false;
    }
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    return true;
}

enum umbp_status rpc_address_resolve(const char *text, struct rpc_address *addresses_out,
                                     size_t most, size_t *count_out, char *error_out,
                                     size_t error_bytes)
{
    char host[RPC_ADDRESS_BYTES_MAX];
    char port[8];
    ASSERT(most > 0);
    if (strncmp(text, "unix:", 5) == 0 || strncmp(text, "unix-abstract:", 14) == 0) {
        bool is_abstract = text[4] == '-';
        const char *path = text + (is_abstract ? 14 : 5);
        path += !is_abstract && strncmp(path, "//", 2) == 0 ? 2 : 0; /* unix:///path */
        enum umbp_status status =
            make_unix(path, is_abstract, text, addresses_out, error_out, error_bytes);
        *count_out = status == UMBP_OK ? 1 : *count_out;
        return status;
    }
    if (!split(text, host, sizeof host, port, sizeof port)) {
        return fail(error_out, error_bytes,
                    "\"%s\" is no address; it should look like 0.0.0.0:50051, [::]:50051 or "
                    "unix:/path",
                    text);
    }
    const struct addrinfo hints = {
        .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
        .ai_socktype = SOCK_STREAM,
    };
    struct addrinfo *found = NULL;
    bool any = host[0] == '\0' || strcmp(host, "*") == 0;
    int rc = getaddrinfo(any ? NULL : host, port, &hints, &found);
    if (rc != 0) {
        return fail(error_out, error_bytes,
                    "\"%s\": the host is not known here (%s); name an address of this machine, or "
                    "none for all of them, as in :50051",
                    text, gai_strerror(rc));
    }
    size_t count = 0;
    for (struct addrinfo *one = found; one != NULL && count < most; one = one->ai_next) {
        if (one->ai_family == AF_INET || one->ai_family == AF_INET6) {
            memset(&addresses_out[count], 0, sizeof addresses_out[count]);
            memcpy(&addresses_out[count].socket, one->ai_addr, one->ai_addrlen);
            addresses_out[count++].bytes = one->ai_addrlen;
        }
    }
    freeaddrinfo(found);
    if (count == 0) {
        return fail(error_out, error_bytes, "\"%s\" has no address", text);
    }
    *count_out = count;
    return UMBP_OK;
}

enum umbp_status rpc_address_check(const char *text, char *error_out, size_t error_bytes)
{
    struct rpc_address addresses[RPC_ADDRESSES_MAX];
    size_t count;
    return rpc_address_resolve(text, addresses, ARRAY_COUNT(addresses), &count, error_out,
                               error_bytes);
}

void rpc_address_format(const struct rpc_address *address, char *text_out, size_t text_bytes)
{
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    const struct sockaddr *socket = (const struct sockaddr *)&address->socket;
    if (socket->sa_family == AF_UNIX) {
        const struct sockaddr_un *local = (const struct sockaddr_un *)(const void *)socket;
        bool is_abstract = local->sun_path[0] == '\0';
        int bytes = (int)(address->bytes - offsetof(struct sockaddr_un, sun_path)) - 1;
        snprintf(text_out, text_bytes, "%s:%.*s", is_abstract ? "unix-abstract" : "unix", bytes,
                 local->sun_path + (is_abstract ? 1 : 0));
        return;
    }
    if (getnameinfo(socket, address->bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(text_out, text_bytes, "?");
        return;
    }
    bool is_v6 = socket->sa_family == AF_INET6;
    snprintf(text_out, text_bytes, "%s%s%s:%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}
