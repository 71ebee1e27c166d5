/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics as Prometheus reads them: a registry of series that others report (metrics_registry_*), a
 * writer of the text format (metrics_text_*), and an HTTP server for it (metrics_http_*).
 *
 * The registry is bounded by families, series and labels, never by calls; what is over a limit or
 * not valid is dropped and counted. Its lock is held for the look-up and addition of one sample, or
 * for the copy of a few series; never while text is made.
 *
 * Threads: registry and HTTP server from any thread; a text belongs to one.
 * Ownership: everything passed in is borrowed until return.
 */
#ifndef METRICS_METRICS_H
#define METRICS_METRICS_H

#include "base/base.h"

#define METRICS_NAME_BYTES_MAX 128u
#define METRICS_HELP_BYTES_MAX 256u
#define METRICS_LABELS_MAX 40u
#define METRICS_LABEL_BYTES_MAX 255u   /* a name, a value */
#define METRICS_SERIES_BYTES_MAX 2048u /* all labels of a series, as text */
#define METRICS_BOUNDS_MAX 64u
#define METRICS_FAMILIES_MAX 256u

enum metrics_type {
    METRICS_COUNTER = 0,
    METRICS_GAUGE = 1,
    METRICS_HISTOGRAM = 2,
};

/* Text that need not end in 0. */
struct metrics_words {
    const char *data;
    size_t bytes;
};
static inline struct metrics_words metrics_words_of(const char *text)
{
    return (struct metrics_words){text, strlen(text)};
}
struct metrics_label {
    struct metrics_words name;
    struct metrics_words value;
};

/* ----------------------------------------------------------------------------- text ------ */

struct metrics_text;
MUST_USE enum umbp_status metrics_text_create(size_t bytes_max, struct metrics_text **text_out);
void metrics_text_destroy(struct metrics_text *text);
/* Begin a family. False when one of that name was there already (all of a name stand together):
 * then leave out its series too. */
bool metrics_text_family(struct metrics_text *text, struct metrics_words name,
                         enum metrics_type type, struct metrics_words help);
/* One series of the family that was begun. `suffix`: "", "_sum" ...; `more` is a label as text
 * ("le=\"5\"") that goes behind the others, or "". */
void metrics_text_value(struct metrics_text *text, const char *suffix,
                        const struct metrics_label *labels, size_t label_count, const char *more,
                        double value);
/* All of it, with a NUL behind. UMBP_LIMIT or UMBP_NO_MEMORY if some is missing. */
MUST_USE enum umbp_status metrics_text_end(struct metrics_text *text, const char **data_out,
                                           size_t *bytes_out);

/* ------------------------------------------------------------------------- registry ------ */

struct metrics_sample {
    struct metrics_words name;
    struct metrics_words help;
    enum metrics_type type;
    /* Of two with one name the first counts, so that a reporter can't pass for another. */
    const struct metrics_label *labels;
    size_t label_count;
    double value; /* a counter's increase; a gauge's value */
    /* A histogram's increase: bucket_counts[i] observations were <= bounds[i]. */
    const double *bounds;
    const uint64_t *bucket_counts;
    size_t bound_count;
    uint64_t count;
    double sum;
};

struct metrics_registry;
MUST_USE enum umbp_status metrics_registry_create(uint32_t series_max,
                                                  const struct clock_source *clock,
                                                  struct metrics_registry **registry_out);
void metrics_registry_destroy(struct metrics_registry *registry);
/* UMBP_INVALID_VALUE: not a sample that makes sense, or one that does not fit its family.
 * UMBP_LIMIT: no room for another series or name, or a sum that would not count any more (a
 * histogram's 2^53). Both are counted. */
enum umbp_status metrics_registry_report(struct metrics_registry *registry,
                                         const struct metrics_sample *sample);
/* Forget series that nobody reported for `idle_ms`, and names that have none left. Does nothing
 * while a text is being written. */
void metrics_registry_sweep(struct metrics_registry *registry, uint64_t idle_ms);
/* Write all of it; families that the text has already are left out. */
void metrics_registry_write(struct metrics_registry *registry, struct metrics_text *text);
uint64_t metrics_registry_dropped(const struct metrics_registry *registry);

/* ----------------------------------------------------------------------------- HTTP ------ */

/*
 * GET /metrics (what `write` writes), /healthz (200 while the process runs) and /readyz (200 when
 * `is_ready` says so, else 503). Threads of its own, at most METRICS_HTTP_CONNECTIONS_MAX clients,
 * each with a deadline.
 */
#define METRICS_HTTP_CONNECTIONS_MAX 64u
#define METRICS_HTTP_TEXT_BYTES_MAX (64u * 1024u * 1024u)

struct metrics_http_options {
    const char *host; /* a numeric address; NULL: all */
    uint16_t port;    /* 0: any free one */
    void (*write)(void *context, struct metrics_text *text);
    bool (*is_ready)(void *context);
    void *context;
};
struct metrics_http;
MUST_USE enum umbp_status metrics_http_create(const struct metrics_http_options *options,
                                              struct metrics_http **http_out, char *error_out,
                                              size_t error_bytes);
uint16_t metrics_http_port(const struct metrics_http *http);
void metrics_http_destroy(struct metrics_http *http); /* takes NULL */

#endif
