/* SPDX-License-Identifier: Apache-2.0 */
#include "masterd/masterd.h"

#include <ctype.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>

#include "config/config.h"

#define HELP_COLUMN 28

struct own_row {
    const char *name;
    const char *variable;
    const char *fallback;
    const char *help;
};

/* The program's own. The first two are the operands of `umbp_master LISTEN METRICS_PORT`. */
static const struct own_row own_rows[] = {
    {"listen", "UMBP_MASTER_LISTEN", "0.0.0.0:50051",
     "addresses of the gRPC door, separated by commas: host:port, [v6]:port, unix:/path"},
    {"metrics-port", "UMBP_MASTER_METRICS_PORT", "9091",
     "port of /metrics, /healthz and /readyz; 0 serves none, \"any\" takes a free one"},
    {"metrics-host", "UMBP_MASTER_METRICS_HOST", "", "numeric address for that; empty: all"},
    {"cluster", "UMBP_POOL_CLUSTER", "umbp", "name of the cluster, told at the signpost"},
    {"fabric-listen", "UMBP_MASTER_FABRIC_LISTEN", "auto",
     "address of the door for our own nodes and clients; auto: the port after the first gRPC "
     "address; none"},
    {"fabric-advertise", "UMBP_MASTER_FABRIC_ADVERTISE", "",
     "host that clients are sent to for it; empty: the one where they asked"},
    {"fabric-provider", "UMBP_POOL_PROVIDER", "auto", "its network: auto, tcp or verbs"},
    {"hash-seed", "UMBP_INDEX_HASH_SEED", "0", "seed of the cluster's hashes of keys"},
    {"tls-certificate", "UMBP_MASTER_TLS_CERTIFICATE", "",
     "PEM file of the certificate chain; with it TCP connections must be TLS"},
    {"tls-key", "UMBP_MASTER_TLS_KEY", "", "PEM file of its private key"},
    {"tls-client-ca", "UMBP_MASTER_TLS_CLIENT_CA", "",
     "PEM file of the authority that clients' certificates must come from"},
    {"max-connections", "UMBP_MASTER_MAX_CONNECTIONS", "4096", "connections at a time"},
    {"max-message-bytes", "UMBP_MASTER_MAX_MESSAGE_BYTES", "64MiB", "largest gRPC message"},
    {"log-level", "UMBP_LOG_LEVEL", "info", "error, warn, info or debug"},
};

static const char *process_environment(const char *name) { return getenv(name); }

static enum umbp_status fail(struct masterd_options *options, const char *format, ...)
    PRINTF_LIKE(2, 3);
static enum umbp_status fail(struct masterd_options *options, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(options->error, sizeof options->error, format, arguments);
    va_end(arguments);
    return UMBP_INVALID_VALUE;
}

/* ------------------------------------------------------------------------- rows -------- */

/* "UMBP_HEARTBEAT_TTL_SEC" is --heartbeat-ttl-sec. */
static void name_of_variable(const char *variable, char *name_out, size_t bytes)
{
    snprintf(name_out, bytes, "%s", strncmp(variable, "UMBP_", 5) == 0 ? variable + 5 : variable);
    for (char *c = name_out; *c != '\0'; c++) {
        *c = (char)(*c == '_' ? '-' : tolower((unsigned char)*c));
    }
}

static void make_rows(struct masterd_options *options)
{
    struct master_option_row core;
    memset(options, 0, sizeof *options);
    for (size_t i = 0; i < ARRAY_COUNT(own_rows); i++) {
        struct masterd_row *row = &options->rows[options->row_count++];
        snprintf(row->name, sizeof row->name, "%s", own_rows[i].name);
        snprintf(row->variable, sizeof row->variable, "%s", own_rows[i].variable);
        snprintf(row->fallback, sizeof row->fallback, "%s", own_rows[i].fallback);
        row->help = own_rows[i].help;
        row->unit = "";
    }
    options->own_count = options->row_count;
    for (size_t i = 0; master_option_row(NULL, i, &core); i++) {
        ASSERT(options->row_count < MASTERD_ROWS_MAX);
        struct masterd_row *row = &options->rows[options->row_count++];
        name_of_variable(core.variable, row->name, sizeof row->name);
        snprintf(row->variable, sizeof row->variable, "%s", core.variable);
        snprintf(row->fallback, sizeof row->fallback, "%s", core.fallback);
        row->help = core.help;
        row->unit = core.unit;
    }
    for (size_t i = 0; i < options->row_count; i++) {
        memcpy(options->rows[i].value, options->rows[i].fallback, sizeof options->rows[i].value);
    }
}

/* '.', '-' and '_' are the same. */
static bool same_name(const char *a, const char *b, size_t b_bytes)
{
    size_t i = 0;
    for (; i < b_bytes && a[i] != '\0'; i++) {
        char c = b[i] == '.' || b[i] == '_' ? '-' : b[i];
        if (a[i] != c) {
            return false;
        }
    }
    return i == b_bytes && a[i] == '\0';
}

static struct masterd_row *find_row(struct masterd_options *options, const char *name, size_t bytes)
{
    for (size_t i = 0; i < options->row_count; i++) {
        if (same_name(options->rows[i].name, name, bytes)) {
            return &options->rows[i];
        }
    }
    return NULL;
}

static const char *nearest(const struct masterd_options *options, const char *name)
{
    const char *best = "";
    unsigned least = UINT32_MAX;
    for (size_t i = 0; i < options->row_count; i++) {
        unsigned distance = config_name_distance(name, options->rows[i].name);
        if (distance < least) {
            least = distance;
            best = options->rows[i].name;
        }
    }
    return best;
}

const char *masterd_option(const struct masterd_options *options, const char *name)
{
    for (size_t i = 0; i < options->own_count; i++) {
        if (strcmp(options->rows[i].name, name) == 0) {
            return options->rows[i].value;
        }
    }
    ASSERT(false);
    return "";
}

/* ----------------------------------------------------------------------- values -------- */

static bool parse_level(const char *text, enum umbp_log_level *level_out)
{
    static const struct {
        const char *name;
        enum umbp_log_level level;
    } levels[] = {
        {"error", UMBP_LOG_ERROR}, {"warn", UMBP_LOG_WARN},   {"warning", UMBP_LOG_WARN},
        {"info", UMBP_LOG_INFO},   {"debug", UMBP_LOG_DEBUG},
    };
    for (size_t i = 0; i < ARRAY_COUNT(levels); i++) {
        if (strcasecmp(levels[i].name, text) == 0) {
            *level_out = levels[i].level;
            return true;
        }
    }
    return false;
}

static bool parse_port(const char *text, uint16_t *port_out, bool *has_out)
{
    uint64_t number;
    *has_out = true;
    if (strcmp(text, "any") == 0) {
        *port_out = 0;
        return true;
    }
    if (text[0] == '-' && units_parse_count(text + 1, &number)) {
        number = 0; /* as published: not above 0 is off */
    } else if (!units_parse_count(text, &number) || number > UINT16_MAX) {
        return false;
    }
    *port_out = (uint16_t)number;
    *has_out = number > 0;
    return true;
}

/* Into the options' own fields. NULL, or what is wrong with it. */
static const char *apply_own(struct masterd_options *options, const char *name, const char *text)
{
    uint64_t number;
    if (strcmp(name, "metrics-port") == 0) {
        return parse_port(text, &options->metrics_port, &options->has_metrics)
                   ? NULL
                   : "not a port (0 to 65535, or any)";
    }
    if (strcmp(name, "hash-seed") == 0) {
        return units_parse_count(text, &options->hash_seed) ? NULL : "not a number";
    }
    if (strcmp(name, "max-connections") == 0) {
        if (!units_parse_count(text, &number) || number < 1 || number > 1000000) {
            return "not a number from 1 to 1000000";
        }
        options->max_connections = (uint32_t)number;
    } else if (strcmp(name, "max-message-bytes") == 0) {
        if (!units_parse_bytes(text, &number) || number < 64 * KIB || number > INT32_MAX) {
            return "not a size from 64KiB to 2047MiB";
        }
        options->max_message_bytes = (uint32_t)number;
    } else if (strcmp(name, "log-level") == 0) {
        return parse_level(text, &options->log_level) ? NULL : "none of error, warn, info, debug";
    } else if (strcmp(name, "cluster") == 0) {
        return text[0] != '\0' && strlen(text) <= PROTO_SIGNPOST_TEXT_MAX ? NULL
                                                                          : "not 1 to 255 bytes";
    } else if (strcmp(name, "listen") == 0) {
        return text[0] != '\0' ? NULL : "empty";
    }
    return NULL;
}

static enum umbp_status set_row(struct masterd_options *options, struct masterd_row *row,
                                const char *text, enum masterd_source source)
{
    const char *shown = source == MASTERD_FLAG ? "--" : "";
    const char *why = NULL;
    char wanted[128];
    size_t index = (size_t)(row - options->rows);
    if (strlen(text) >= sizeof row->value) {
        why = "too long";
    } else if (index < options->own_count) {
        why = apply_own(options, row->name, text);
    } else if (!master_option_check(index - options->own_count, text, wanted, sizeof wanted)) {
        return fail(options, "%s%s: \"%.80s\" is no value of it: %s", shown, row->name, text,
                    wanted);
    }
    if (why != NULL) {
        return fail(options, "%s%s: \"%.80s\" is %s", shown, row->name, text, why);
    }
    snprintf(row->value, sizeof row->value, "%s", text);
    row->source = source;
    return UMBP_OK;
}

/* ------------------------------------------------------------- file, environment ------- */

static int take_line(void *context, const char *section, const char *name, const char *value)
{
    struct masterd_options *options = context;
    char whole[128];
    (void)section; /* sections only group */
    if (options->error[0] != '\0') {
        return 0;
    }
    snprintf(whole, sizeof whole, "%s", name);
    struct masterd_row *row = find_row(options, whole, strlen(whole));
    if (row == NULL) {
        (void)fail(options, "there is no option \"%s\"; the nearest is %s", whole,
                   nearest(options, whole));
        return 0;
    }
    return set_row(options, row, value, MASTERD_FILE) == UMBP_OK;
}

static enum umbp_status read_file(struct masterd_options *options, const char *path)
{
    char why[sizeof options->error];
    int line = ini_parse(path, take_line, options);
    if (line == 0) {
        return UMBP_OK;
    }
    if (line == -1) {
        return fail(options, "can't read %s", path);
    }
    memcpy(why, options->error, sizeof why);
    return fail(options, "%.200s:%d: %.250s", path, line,
                why[0] != '\0' ? why : "not a line of the form name = value");
}

/* As published: unset or empty is nothing, a bad value the default with one warning. The core's
 * rows are checked and warned about by the core, in one go at the end. */
static void read_environment(struct masterd_options *options, const char *(*get)(const char *name))
{
    for (size_t i = 0; i < options->row_count; i++) {
        struct masterd_row *row = &options->rows[i];
        const char *text = get(row->variable);
        if (text == NULL || *text == '\0') {
            continue;
        }
        if (i >= options->own_count) {
            if (strlen(text) < sizeof row->value) {
                snprintf(row->value, sizeof row->value, "%s", text);
                row->source = MASTERD_ENVIRONMENT;
            }
        } else if (set_row(options, row, text, MASTERD_ENVIRONMENT) != UMBP_OK) {
            log_warn("bad_environment", "name=%s value=\"%.80s\" used=%s", row->variable, text,
                     row->value);
            options->error[0] = '\0';
            (void)apply_own(options, row->name, row->value);
        }
    }
}

/* ----------------------------------------------------------------- command line -------- */

struct flags {
    const char *config_path;
    const char *operands[2];
    size_t operand_count;
    struct {
        struct masterd_row *row;
        const char *value;
    } set[MASTERD_ROWS_MAX];
    size_t set_count;
};

static enum umbp_status take_flag(struct masterd_options *options, struct flags *flags, int count,
                                  char **arguments, int *at)
{
    const char *flag = arguments[*at] + 2;
    size_t bytes = strcspn(flag, "=");
    const char *value = flag[bytes] == '=' ? flag + bytes + 1 : NULL;
    if (same_name("help", flag, bytes) || same_name("version", flag, bytes)) {
        options->asks_for_help |= flag[0] == 'h';
        options->asks_for_version |= flag[0] == 'v';
        return UMBP_OK;
    }
    bool is_config = same_name("config", flag, bytes);
    struct masterd_row *row = is_config ? NULL : find_row(options, flag, bytes);
    if (!is_config && row == NULL) {
        return fail(options, "there is no flag --%.*s; the nearest is --%s",
                    (int)size_min(bytes, 100), flag, nearest(options, flag));
    }
    if (value == NULL) {
        if (*at + 1 >= count) {
            return fail(options, "--%.*s needs a value", (int)size_min(bytes, 100), flag);
        }
        value = arguments[++*at];
    }
    if (is_config) {
        flags->config_path = value;
        return UMBP_OK;
    }
    for (size_t i = 0; i < flags->set_count; i++) {
        if (flags->set[i].row == row) {
            return fail(options, "--%s is given twice", row->name);
        }
    }
    flags->set[flags->set_count].row = row;
    flags->set[flags->set_count++].value = value;
    return UMBP_OK;
}

static enum umbp_status take_arguments(struct masterd_options *options, struct flags *flags,
                                       int count, char **arguments)
{
    enum umbp_status status = UMBP_OK;
    for (int at = 0; status == UMBP_OK && at < count; at++) {
        if (strcmp(arguments[at], "-h") == 0) {
            options->asks_for_help = true;
        } else if (strncmp(arguments[at], "--", 2) == 0 && arguments[at][2] != '\0') {
            status = take_flag(options, flags, count, arguments, &at);
        } else if (flags->operand_count == ARRAY_COUNT(flags->operands)) {
            status = fail(options,
                          "\"%.100s\" is one argument too many; usage: umbp_master "
                          "[LISTEN [METRICS_PORT]] [--flag value ...]",
                          arguments[at]);
        } else {
            flags->operands[flags->operand_count++] = arguments[at];
        }
    }
    return status;
}

/* ------------------------------------------------------------------------ whole -------- */

static const char *get_row(void *context, const char *name)
{
    const struct masterd_options *options = context;
    for (size_t i = options->own_count; i < options->row_count; i++) {
        if (strcmp(options->rows[i].variable, name) == 0) {
            return options->rows[i].source != MASTERD_DEFAULT ? options->rows[i].value : NULL;
        }
    }
    return NULL;
}

static enum umbp_status split_addresses(struct masterd_options *options)
{
    char *at = options->listen_text;
    memcpy(options->listen_text, masterd_option(options, "listen"), sizeof options->listen_text);
    while (at != NULL) {
        char *comma = strchr(at, ',');
        if (comma != NULL) {
            *comma = '\0';
        }
        if (options->address_count == RPC_ADDRESSES_MAX) {
            return fail(options, "listen: more than %u addresses", RPC_ADDRESSES_MAX);
        }
        options->addresses[options->address_count++] = at;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return UMBP_OK;
}

/* What the core made of the environment's values is what is in force. */
static void take_core(struct masterd_options *options)
{
    struct master_option_row shown;
    master_options_default(&options->master);
    master_options_from_env(&options->master, get_row, options);
    for (size_t i = 0; master_option_row(&options->master, i, &shown); i++) {
        struct masterd_row *row = &options->rows[options->own_count + i];
        if (strcmp(shown.value, row->fallback) == 0 && strcmp(row->value, shown.value) != 0) {
            row->source = MASTERD_DEFAULT; /* it was a bad one */
        }
        snprintf(row->value, sizeof row->value, "%s", shown.value);
    }
}

enum umbp_status masterd_options_parse(struct masterd_options *options, int count, char **arguments,
                                       const char *(*get)(const char *name))
{
    struct flags flags = {0};
    make_rows(options);
    for (size_t i = 0; i < options->own_count; i++) {
        const char *why = apply_own(options, options->rows[i].name, options->rows[i].value);
        ASSERT(why == NULL);
    }
    enum umbp_status status = take_arguments(options, &flags, count, arguments);
    if (status != UMBP_OK || options->asks_for_help || options->asks_for_version) {
        return status;
    }
    if (flags.config_path != NULL) {
        status = read_file(options, flags.config_path);
    }
    if (status == UMBP_OK) {
        read_environment(options, get != NULL ? get : process_environment);
    }
    for (size_t i = 0; status == UMBP_OK && i < flags.operand_count; i++) {
        status = set_row(options, &options->rows[i], flags.operands[i], MASTERD_FLAG);
    }
    for (size_t i = 0; status == UMBP_OK && i < flags.set_count; i++) {
        status = set_row(options, flags.set[i].row, flags.set[i].value, MASTERD_FLAG);
    }
    if (status == UMBP_OK && (masterd_option(options, "tls-certificate")[0] == '\0') !=
                                 (masterd_option(options, "tls-key")[0] == '\0')) {
        status = fail(options, "tls-certificate and tls-key belong together");
    }
    if (status == UMBP_OK) {
        take_core(options);
        status = split_addresses(options);
    }
    return status;
}

void masterd_options_help(const struct masterd_options *options, const char *program)
{
    const char *slash = strrchr(program, '/');
    printf("usage: %s [LISTEN [METRICS_PORT]] [--flag value ...]\n\n"
           "The master of a pool: tells who has what and where there is room. It advises;\n"
           "nodes own their pages. Each flag is an environment variable too, and a line\n"
           "\"name = value\" of the file that --config names.\n\nFlags:\n",
           slash != NULL ? slash + 1 : program);
    for (size_t i = 0; i < options->row_count; i++) {
        const struct masterd_row *row = &options->rows[i];
        int column = printf("  --%s", row->name);
        printf("%*s%s%s%s%s%s\n%*s[%s]\n", column < HELP_COLUMN ? HELP_COLUMN - column : 1, "",
               row->help, row->fallback[0] != '\0' ? " (default " : "", row->fallback,
               row->fallback[0] != '\0' ? row->unit : "", row->fallback[0] != '\0' ? ")" : "",
               HELP_COLUMN, "", row->variable);
    }
}

static const char *value_of(const struct masterd_options *options, const char *variable)
{
    for (size_t i = 0; i < options->row_count; i++) {
        if (strcmp(options->rows[i].variable, variable) == 0) {
            return options->rows[i].value;
        }
    }
    return "?";
}

void masterd_options_log(const struct masterd_options *options)
{
    static const char *const sources[] = {"default", "file", "environment", "flag"};
    char changed[900];
    size_t at = 0;
    changed[0] = '\0';
    /* The names of the public master's line. */
    log_info("resolved_timing",
             "heartbeat_ttl=%ss reaper_interval=%ss max_missed=%s eviction.check_interval=%ss "
             "lease_duration=%ss heartbeat_interval_divisor=%s hit_index_ttl=%ss "
             "hit_index_gc_interval=%ss grpc_shutdown_deadline=%ss",
             value_of(options, "UMBP_HEARTBEAT_TTL_SEC"),
             value_of(options, "UMBP_REAPER_INTERVAL_SEC"),
             value_of(options, "UMBP_MAX_MISSED_HEARTBEATS"),
             value_of(options, "UMBP_EVICTION_CHECK_INTERVAL_SEC"),
             value_of(options, "UMBP_LEASE_DURATION_SEC"),
             value_of(options, "UMBP_HEARTBEAT_INTERVAL_DIVISOR"),
             value_of(options, "UMBP_HIT_INDEX_TTL_SEC"),
             value_of(options, "UMBP_HIT_INDEX_GC_INTERVAL_SEC"),
             value_of(options, "UMBP_GRPC_SHUTDOWN_DEADLINE_SEC"));
    log_info("resolved_route_put", "select_algo=%s node_affinity=%s",
             value_of(options, "UMBP_ROUTE_PUT_SELECT_ALGO"),
             value_of(options, "UMBP_ROUTE_PUT_NODE_AFFINITY"));
    for (size_t i = 0; i < options->row_count && at < sizeof changed; i++) {
        const struct masterd_row *row = &options->rows[i];
        if (row->source != MASTERD_DEFAULT) {
            int bytes = snprintf(changed + at, sizeof changed - at, "%s%s=\"%.100s\"(%s)",
                                 at > 0 ? " " : "", row->name, row->value, sources[row->source]);
            at += bytes > 0 ? (size_t)bytes : 0;
        }
    }
    log_info("options", "%s", changed[0] != '\0' ? changed : "all=default");
}
