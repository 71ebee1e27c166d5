/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp_master [LISTEN [METRICS_PORT]] [--flag value ...]
 *
 * Says `ready` on standard output once calls can come in: "ready grpc=ADDRESS[,ADDRESS...]
 * fabric=ADDRESS metrics=PORT pid=PID", with the addresses that were bound (port 0 takes a free
 * one).
 *
 * SIGTERM and SIGINT end it gracefully, within UMBP_GRPC_SHUTDOWN_DEADLINE_SEC and a second;
 * SIGHUP and SIGPIPE do nothing. Exit codes, as umbp's: 0 ended as asked, 2 the command line, the
 * file or a value in them is not valid, 3 could not start.
 *
 * Nothing forks here: gRPC does not live through it.
 */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/signals.h"
#include "masterd/masterd.h"

#define EXIT_BAD 2
#define EXIT_FAILED 3

#define DESCRIPTORS_LEAST 64u
#define SERIES_MAX 16384u
#define SERIES_IDLE_MS (60u * 60u * 1000u)
#define SWEEP_NS (60 * NS_PER_S)

struct ticker {
    struct master *master;
    struct rpc_evictor *evictor;
    struct metrics_registry *registry;
    struct mutex guard; /* rank leaf: is_stopping */
    struct condition wake;
    bool is_stopping;
    pthread_t thread;
};

static void *tick(void *context)
{
    struct ticker *ticker = context;
    uint64_t next_sweep = clock_now_ns(clock_monotonic()) + SWEEP_NS;
    mutex_lock(&ticker->guard);
    while (!ticker->is_stopping) {
        mutex_unlock(&ticker->guard);
        uint64_t wait_ns = master_tick(ticker->master);
        struct master_advice advice;
        if (master_advice_take(ticker->master, &advice) == UMBP_OK) {
            rpc_evictor_offer(ticker->evictor, &advice);
        }
        uint64_t now = clock_now_ns(clock_monotonic());
        if (now >= next_sweep) {
            metrics_registry_sweep(ticker->registry, SERIES_IDLE_MS);
            next_sweep = now + SWEEP_NS;
        }
        mutex_lock(&ticker->guard);
        if (!ticker->is_stopping) {
            (void)condition_wait(&ticker->wake, &ticker->guard, now + u64_max(wait_ns, NS_PER_MS));
        }
    }
    mutex_unlock(&ticker->guard);
    return NULL;
}

static enum umbp_status ticker_start(struct ticker *ticker)
{
    mutex_init(&ticker->guard, RANK_LEAF);
    condition_init(&ticker->wake);
    return thread_create(&ticker->thread, "umbp-tick", false, tick, ticker);
}

static void ticker_stop(struct ticker *ticker)
{
    mutex_lock(&ticker->guard);
    ticker->is_stopping = true;
    condition_broadcast(&ticker->wake);
    mutex_unlock(&ticker->guard);
    pthread_join(ticker->thread, NULL);
}

struct program {
    struct masterd_options options;
    struct master *master;
    struct metrics_registry *registry;
    struct rpc_master context;
    struct rpc_server *server;
    struct rpc_evictor *evictor;
    struct metrics_http *http;
    struct masterd_metrics metrics;
    struct masterd_fabric fabric;
    struct ticker ticker;
    _Atomic bool is_ready;
    struct proto_signpost signpost;
};

static bool is_ready(void *context)
{
    struct program *program = context;
    return atomic_load_explicit(&program->is_ready, memory_order_acquire);
}

/* As many descriptors as the system lets us have. gRPC aborts where there are too few for it. */
static enum umbp_status raise_descriptor_limit(char *error_out, size_t error_bytes)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return UMBP_OK;
    }
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < DESCRIPTORS_LEAST) {
        snprintf(
            error_out, error_bytes,
            "the limit of open files is %llu, and at least %u are needed: raise it (ulimit -n)",
            (unsigned long long)limit.rlim_cur, DESCRIPTORS_LEAST);
        return UMBP_LIMIT;
    }
    return UMBP_OK;
}

static const char *path_or_null(const struct masterd_options *options, const char *name)
{
    const char *text = masterd_option(options, name);
    return text[0] != '\0' ? text : NULL;
}

static enum umbp_status make_server(struct program *program, char *error_out, size_t error_bytes)
{
    const struct masterd_options *options = &program->options;
    snprintf(program->signpost.cluster, sizeof program->signpost.cluster, "%s",
             masterd_option(options, "cluster"));
    snprintf(program->signpost.version, sizeof program->signpost.version, "%s", UMBP_BUILD_VERSION);
    program->signpost.hash_seed = options->hash_seed;
    program->context = (struct rpc_master){
        .master = program->master,
        .hash_seed = options->hash_seed,
        .hit_query_max = options->master.hit_query_max_batch,
        .metrics = program->registry,
    };
    const struct rpc_options rpc = {
        .methods = rpc_master_methods,
        .method_count = rpc_master_method_count,
        .context = &program->context,
        .addresses = options->addresses,
        .address_count = options->address_count,
        .min_pollers = (unsigned)options->master.min_pollers,
        .max_pollers = (unsigned)options->master.max_pollers,
        .max_connections = options->max_connections,
        .max_message_bytes = options->max_message_bytes,
        .certificate_path = path_or_null(options, "tls-certificate"),
        .key_path = path_or_null(options, "tls-key"),
        .client_ca_path = path_or_null(options, "tls-client-ca"),
        .signpost = &program->signpost,
    };
    return rpc_server_create(&rpc, &program->server, error_out, error_bytes);
}

static void write_metrics(void *context, struct metrics_text *text)
{
    masterd_metrics_write(&((struct program *)context)->metrics, text);
}

static enum umbp_status make_http(struct program *program, char *error_out, size_t error_bytes)
{
    const struct masterd_options *options = &program->options;
    program->metrics = (struct masterd_metrics){
        .master = program->master,
        .server = program->server,
        .evictor = program->evictor,
        .door = program->fabric.door,
        .registry = program->registry,
        .started_ns = clock_now_ns(clock_monotonic()),
    };
    if (!options->has_metrics) {
        return UMBP_OK;
    }
    const struct metrics_http_options http = {
        .host = path_or_null(options, "metrics-host"),
        .port = options->metrics_port,
        .write = write_metrics,
        .is_ready = is_ready,
        .context = program,
    };
    return metrics_http_create(&http, &program->http, error_out, error_bytes);
}

static void say_ready(const struct program *program)
{
    printf("ready grpc=");
    for (size_t i = 0; rpc_server_address(program->server, i) != NULL; i++) {
        printf("%s%s", i > 0 ? "," : "", rpc_server_address(program->server, i));
    }
    const char *fabric = masterd_fabric_address(&program->fabric);
    printf(" fabric=%s metrics=%u pid=%d\n", fabric[0] != '\0' ? fabric : "none",
           program->http != NULL ? metrics_http_port(program->http) : 0u, (int)getpid());
    fflush(stdout);
}

/* Before anything listens, so that a wrong one is named and not what was derived from it. */
static enum umbp_status check_addresses(const struct masterd_options *options, char *error_out,
                                        size_t error_bytes)
{
    char why[400];
    for (size_t i = 0; i < options->address_count; i++) {
        enum umbp_status status = rpc_address_check(options->addresses[i], why, sizeof why);
        if (status != UMBP_OK) {
            snprintf(error_out, error_bytes, "listen: %s", why);
            return status;
        }
    }
    return UMBP_OK;
}

static enum umbp_status start(struct program *program, char *error_out, size_t error_bytes)
{
    enum umbp_status status = check_addresses(&program->options, error_out, error_bytes);
    if (status == UMBP_OK) {
        status = master_create(&program->options.master, &program->master, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        status = metrics_registry_create(SERIES_MAX, NULL, &program->registry);
        snprintf(error_out, error_bytes, "%s", status != UMBP_OK ? umbp_status_text(status) : "");
    }
    if (status == UMBP_OK) {
        status = masterd_fabric_open(&program->fabric, &program->options, program->master,
                                     &program->signpost, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        status = make_server(program, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        const struct rpc_evictor_options evictor = {
            .master = program->master,
            .deadline_ms =
                (uint32_t)u64_min(program->options.master.evictkey_deadline_ms, UINT32_MAX),
        };
        status = rpc_evictor_create(&evictor, &program->evictor);
        snprintf(error_out, error_bytes, "%s", status != UMBP_OK ? umbp_status_text(status) : "");
    }
    if (status == UMBP_OK) {
        status = make_http(program, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        program->ticker.master = program->master;
        program->ticker.evictor = program->evictor;
        program->ticker.registry = program->registry;
        status = rpc_server_start(program->server);
        snprintf(error_out, error_bytes, "%s",
                 status != UMBP_OK ? "the gRPC door can't be opened" : "");
    }
    if (status == UMBP_OK) {
        status = ticker_start(&program->ticker);
        snprintf(error_out, error_bytes, "%s", status != UMBP_OK ? umbp_status_text(status) : "");
    }
    return status;
}

static void finish(struct program *program)
{
    metrics_http_destroy(program->http);
    masterd_fabric_close(&program->fabric);
    rpc_evictor_destroy(program->evictor);
    rpc_server_destroy(program->server);
    metrics_registry_destroy(program->registry);
    master_destroy(program->master);
}

static int run(struct program *program)
{
    char error[512] = "";
    sigset_t signals;
    int number = 0;
    /* Before any thread is made, so that all of them inherit it. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    masterd_options_log(&program->options);
    enum umbp_status status = raise_descriptor_limit(error, sizeof error);
    status = status == UMBP_OK ? start(program, error, sizeof error) : status;
    if (status != UMBP_OK) {
        fprintf(stderr, "umbp_master: %s\n", error);
        finish(program);
        return status == UMBP_INVALID_VALUE ? EXIT_BAD : EXIT_FAILED;
    }
    atomic_store_explicit(&program->is_ready, true, memory_order_release);
    say_ready(program);
    do {
        if (sigwait(&signals, &number) != 0) {
            number = SIGTERM;
        }
        log_info("signal", "number=%d action=%s", number, number == SIGHUP ? "none" : "stop");
    } while (number == SIGHUP);

    atomic_store_explicit(&program->is_ready, false, memory_order_release);
    rpc_evictor_stop(program->evictor);
    uint64_t deadline_ms = program->options.master.grpc_shutdown_deadline_sec * 1000;
    bool is_clean = rpc_server_stop(program->server, (uint32_t)u64_min(deadline_ms, UINT32_MAX));
    ticker_stop(&program->ticker);
    finish(program);
    log_info("stopped", "calls_cancelled=%s", is_clean ? "no" : "yes");
    return 0;
}

int main(int count, char **arguments)
{
    log_hold_streams();
    signals_drop_foreign();
    struct program *program = mem_zalloc(sizeof *program);
    if (program == NULL) {
        return EXIT_FAILED;
    }
    log_level_set(UMBP_LOG_INFO);
    int code = 0;
    if (masterd_options_parse(&program->options, count - 1, arguments + 1, NULL) != UMBP_OK) {
        fprintf(stderr, "umbp_master: %s\n", program->options.error);
        code = EXIT_BAD;
    } else if (program->options.asks_for_help) {
        masterd_options_help(&program->options, count > 0 ? arguments[0] : "umbp_master");
    } else if (program->options.asks_for_version) {
        printf("umbp_master %s\n", UMBP_BUILD_VERSION);
    } else {
        log_level_set(program->options.log_level);
        code = run(program);
    }
    mem_free(program);
    return code;
}
