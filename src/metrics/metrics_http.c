/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server, on libmicrohttpd: two threads, so that a slow scrape does not keep a health
 * probe waiting. */
#include "metrics/metrics_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdarg.h>

#define HTTP_THREADS 2u
#define HTTP_TIMEOUT_S 10u

struct metrics_http {
    struct metrics_http_options options;
    struct MHD_Daemon *daemon;
    uint16_t port;
};

static enum MHD_Result respond(struct MHD_Connection *connection, unsigned code, const char *text,
                               size_t bytes)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(bytes, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (response == NULL) {
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, "Content-Type",
                                  "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result respond_text(struct MHD_Connection *connection, unsigned code,
                                    const char *text)
{
    return respond(connection, code, text, strlen(text));
}

static enum MHD_Result respond_metrics(const struct metrics_http *http,
                                       struct MHD_Connection *connection)
{
    struct metrics_text *text;
    const char *data;
    size_t bytes;
    if (metrics_text_create(METRICS_HTTP_TEXT_BYTES_MAX, &text) != UMBP_OK) {
        return respond_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
    }
    http->options.write(http->options.context, text);
    enum MHD_Result result =
        metrics_text_end(text, &data, &bytes) == UMBP_OK
            ? respond(connection, MHD_HTTP_OK, data, bytes)
            : respond_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "too much to tell\n");
    metrics_text_destroy(text);
    return result;
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **state)
{
    const struct metrics_http *http = context;
    static int seen;
    (void)version;
    (void)upload;
    if (*state == NULL) { /* the head only; the whole request comes next */
        *state = &seen;
        return MHD_YES;
    }
    if (*upload_bytes > 0) {
        *upload_bytes = 0; /* read and dropped */
        return MHD_YES;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        return respond_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
    }
    if (strcmp(url, "/metrics") == 0) {
        return respond_metrics(http, connection);
    }
    if (strcmp(url, "/healthz") == 0) {
        return respond_text(connection, MHD_HTTP_OK, "ok\n");
    }
    if (strcmp(url, "/readyz") == 0) {
        bool is_ready = http->options.is_ready(http->options.context);
        return respond_text(connection, is_ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                            is_ready ? "ready\n" : "not ready\n");
    }
    return respond_text(connection, MHD_HTTP_NOT_FOUND, "/metrics, /healthz, /readyz\n");
}

/* libmicrohttpd tells of every broken connection. */
static void log_nothing(void *context, const char *format, va_list arguments)
{
    (void)context;
    (void)format;
    (void)arguments;
}

static bool make_address(const struct metrics_http_options *options,
                         struct sockaddr_storage *address_out)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(options->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(options->port)};
    memset(address_out, 0, sizeof *address_out);
    if (options->host == NULL || inet_pton(AF_INET, options->host, &v4.sin_addr) == 1) {
        memcpy(address_out, &v4, sizeof v4);
        return true;
    }
    if (inet_pton(AF_INET6, options->host, &v6.sin6_addr) == 1) {
        memcpy(address_out, &v6, sizeof v6);
        return true;
    }
    return false;
}

enum umbp_status metrics_http_create(const struct metrics_http_options *options,
                                     struct metrics_http **http_out, char *error_out,
                                     size_t error_bytes)
{
    struct sockaddr_storage address;
    if (!make_address(options, &address)) {
        snprintf(error_out, error_bytes,
                 "metrics-host: \"%s\" is no numeric address, as 127.0.0.1 or ::1", options->host);
        return UMBP_INVALID_VALUE;
    }
    struct metrics_http *http = mem_zalloc(sizeof *http);
    if (http == NULL) {
        snprintf(error_out, error_bytes, "out of memory");
        return UMBP_NO_MEMORY;
    }
    http->options = *options;
    http->options.host = NULL;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ERROR_LOG |
                     (address.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0u);
    http->daemon = MHD_start_daemon(
        flags, options->port, NULL, NULL, answer, http, MHD_OPTION_EXTERNAL_LOGGER, log_nothing,
        NULL, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_THREAD_POOL_SIZE, HTTP_THREADS,
        MHD_OPTION_CONNECTION_LIMIT, METRICS_HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
        HTTP_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(16 * KIB), MHD_OPTION_END);
    if (http->daemon == NULL) {
        snprintf(error_out, error_bytes,
                 "can't serve metrics on port %u: %s; --metrics-port gives another, 0 none",
                 options->port, strerror(errno));
        mem_free(http);
        return UMBP_IO;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    http->port = info != NULL ? info->port : options->port;
    *http_out = http;
    return UMBP_OK;
}

uint16_t metrics_http_port(const struct metrics_http *http) { return http->port; }

void metrics_http_destroy(struct metrics_http *http)
{
    if (http != NULL) {
        MHD_stop_daemon(http->daemon);
        mem_free(http);
    }
}
