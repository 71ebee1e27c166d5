/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry. A series is found by a hash of its family and its labels as text; all series are in
 * one array, in no order, and in one open-addressed table of indices into it.
 *
 * Writing: for each family the array is walked in pieces; a piece's numbers are copied under the
 * lock, the text is made outside of it. Labels and families never change once made and stay until
 * they are swept, and a sweep waits until nobody writes. A family goes with its last series, so
 * names that a reporter made up keep others out only for as long as it goes on reporting them.
 */
#include "metrics/metrics_priv.h"

#include <math.h>

#define PIECE 64u
#define NONE UINT32_MAX
#define SAMPLES_MAX 9007199254740992.0 /* 2^53: beyond it a double does not count */

struct histogram_state {
    uint64_t count;
    double sum;
    uint64_t buckets[]; /* as many as the family has bounds */
};

struct series {
    uint64_t hash;
    uint64_t reported_ns;
    char *labels;
    struct histogram_state *histogram; /* or NULL: */
    double value;
    uint32_t family;
};

struct family {
    char name[METRICS_NAME_BYTES_MAX + 1];
    char help[METRICS_HELP_BYTES_MAX + 1];
    enum metrics_type type;
    uint32_t bound_count;
    double bounds[METRICS_BOUNDS_MAX];
};

struct metrics_registry {
    const struct clock_source *clock;
    uint32_t series_max;
    uint32_t table_mask;
    struct mutex guard; /* rank leaf: everything below */
    struct family *families;
    uint32_t family_count;
    struct series *series;
    uint32_t series_count;
    uint32_t *table;
    unsigned writers;
    _Atomic uint64_t dropped;
};

enum umbp_status metrics_registry_create(uint32_t series_max, const struct clock_source *clock,
                                         struct metrics_registry **registry_out)
{
    struct metrics_registry *registry = mem_zalloc(sizeof *registry);
    if (registry == NULL) {
        return UMBP_NO_MEMORY;
    }
    uint32_t table = 16;
    while (table < 2 * series_max) {
        table *= 2;
    }
    mutex_init(&registry->guard, RANK_LEAF);
    registry->clock = clock != NULL ? clock : clock_monotonic();
    registry->series_max = series_max;
    registry->table_mask = table - 1;
    registry->families = mem_calloc(METRICS_FAMILIES_MAX, sizeof registry->families[0]);
    registry->series = mem_calloc(series_max, sizeof registry->series[0]);
    registry->table = mem_alloc(table * sizeof registry->table[0]);
    if (registry->families == NULL || registry->series == NULL || registry->table == NULL) {
        metrics_registry_destroy(registry);
        return UMBP_NO_MEMORY;
    }
    memset(registry->table, 0xff, table * sizeof registry->table[0]);
    *registry_out = registry;
    return UMBP_OK;
}

static void free_series(struct series *series)
{
    mem_free(series->labels);
    mem_free(series->histogram);
}

void metrics_registry_destroy(struct metrics_registry *registry)
{
    if (registry == NULL) {
        return;
    }
    for (uint32_t i = 0; i < registry->series_count; i++) {
        free_series(&registry->series[i]);
    }
    mem_free(registry->table);
    mem_free(registry->series);
    mem_free(registry->families);
    mutex_fini(&registry->guard);
    mem_free(registry);
}

/* ---------------------------------------------------------------- what is valid -------- */

static bool is_name(struct metrics_words words, size_t most, bool colon)
{
    for (size_t i = 0; i < words.bytes; i++) {
        char c = words.data[i];
        bool is_letter =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c == ':' && colon);
        if (!is_letter && (i == 0 || c < '0' || c > '9')) {
            return false;
        }
    }
    return words.bytes > 0 && words.bytes <= most;
}

static bool histogram_is_valid(const struct metrics_sample *sample)
{
    uint64_t before = 0;
    if (sample->bound_count == 0 || sample->bound_count > METRICS_BOUNDS_MAX ||
        !isfinite(sample->sum)) {
        return false;
    }
    for (size_t i = 0; i < sample->bound_count; i++) {
        if (!isfinite(sample->bounds[i]) || (i > 0 && sample->bounds[i] <= sample->bounds[i - 1]) ||
            sample->bucket_counts[i] < before) {
            return false;
        }
        before = sample->bucket_counts[i];
    }
    return sample->count >= before && (double)sample->count < SAMPLES_MAX;
}

static bool is_valid(const struct metrics_sample *sample)
{
    if (!is_name(sample->name, METRICS_NAME_BYTES_MAX, true) ||
        sample->label_count > METRICS_LABELS_MAX) {
        return false;
    }
    for (size_t i = 0; i < sample->label_count; i++) {
        if (!is_name(sample->labels[i].name, METRICS_LABEL_BYTES_MAX, false) ||
            sample->labels[i].value.bytes > METRICS_LABEL_BYTES_MAX) {
            return false;
        }
    }
    switch (sample->type) {
    case METRICS_COUNTER:
        return isfinite(sample->value) && sample->value >= 0;
    case METRICS_GAUGE:
        return true;
    case METRICS_HISTOGRAM:
        return histogram_is_valid(sample);
    }
    return false;
}

/* ------------------------------------------------------------------- reporting --------- */

static bool same_bounds(const struct family *family, const struct metrics_sample *sample)
{
    return family->type != METRICS_HISTOGRAM ||
           (family->bound_count == sample->bound_count &&
            memcmp(family->bounds, sample->bounds, sample->bound_count * sizeof(double)) == 0);
}

/* Under the lock. NONE: no room, or `*fits_out` false: one that is different. */
static uint32_t find_family(struct metrics_registry *registry, const struct metrics_sample *sample,
                            bool *fits_out)
{
    *fits_out = true;
    for (uint32_t i = 0; i < registry->family_count; i++) {
        const struct family *family = &registry->families[i];
        if (strlen(family->name) == sample->name.bytes &&
            memcmp(family->name, sample->name.data, sample->name.bytes) == 0) {
            *fits_out = family->type == sample->type && same_bounds(family, sample);
            return *fits_out ? i : NONE;
        }
    }
    if (registry->family_count == METRICS_FAMILIES_MAX) {
        return NONE;
    }
    struct family *family = &registry->families[registry->family_count];
    size_t help = size_min(sample->help.bytes, METRICS_HELP_BYTES_MAX);
    while (help < sample->help.bytes && help > 0 &&
           ((unsigned char)sample->help.data[help] & 0xc0) == 0x80) {
        help--; /* not through the middle of a character */
    }
    memset(family, 0, sizeof *family);
    memcpy(family->name, sample->name.data, sample->name.bytes);
    if (help > 0) {
        memcpy(family->help, sample->help.data, help);
    }
    family->type = sample->type;
    if (sample->type == METRICS_HISTOGRAM) {
        family->bound_count = (uint32_t)sample->bound_count;
        memcpy(family->bounds, sample->bounds, sample->bound_count * sizeof(double));
    }
    return registry->family_count++;
}

/* Under the lock: the series' place in the table, or the free one where it would go. */
static uint32_t *find_place(struct metrics_registry *registry, uint64_t hash, uint32_t family,
                            const char *labels)
{
    for (uint32_t at = (uint32_t)hash;; at++) {
        uint32_t *place = &registry->table[at & registry->table_mask];
        const struct series *series = &registry->series[*place == NONE ? 0 : *place];
        if (*place == NONE || (series->hash == hash && series->family == family &&
                               strcmp(series->labels, labels) == 0)) {
            return place;
        }
    }
}

static struct series *add_series(struct metrics_registry *registry, uint32_t *place, uint64_t hash,
                                 uint32_t family, const char *labels)
{
    if (registry->series_count == registry->series_max) {
        return NULL;
    }
    struct series series = {.hash = hash, .family = family, .labels = mem_strdup(labels)};
    if (registry->families[family].type == METRICS_HISTOGRAM) {
        series.histogram = mem_zalloc(sizeof *series.histogram +
                                      registry->families[family].bound_count * sizeof(uint64_t));
        if (series.histogram == NULL) {
            mem_free(series.labels);
            return NULL;
        }
    }
    if (series.labels == NULL) {
        free_series(&series);
        return NULL;
    }
    *place = registry->series_count;
    registry->series[registry->series_count] = series;
    return &registry->series[registry->series_count++];
}

/* False, and nothing changes: the sum would be one that does not count any more. */
static bool update(struct series *series, const struct metrics_sample *sample)
{
    switch (sample->type) {
    case METRICS_COUNTER:
        if (!isfinite(series->value + sample->value)) {
            return false;
        }
        series->value += sample->value;
        break;
    case METRICS_GAUGE:
        series->value = sample->value;
        break;
    case METRICS_HISTOGRAM:
        if ((double)(series->histogram->count + sample->count) >= SAMPLES_MAX ||
            !isfinite(series->histogram->sum + sample->sum)) {
            return false;
        }
        for (size_t i = 0; i < sample->bound_count; i++) {
            series->histogram->buckets[i] += sample->bucket_counts[i];
        }
        series->histogram->count += sample->count;
        series->histogram->sum += sample->sum;
        break;
    }
    return true;
}

/* The labels without repeated names, as text. */
static enum umbp_status make_labels(const struct metrics_sample *sample,
                                    struct metrics_text **text_out, const char **labels_out,
                                    size_t *bytes_out)
{
    struct metrics_label labels[METRICS_LABELS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < sample->label_count; i++) {
        bool is_new = true;
        for (size_t k = 0; is_new && k < count; k++) {
            is_new =
                labels[k].name.bytes != sample->labels[i].name.bytes ||
                memcmp(labels[k].name.data, sample->labels[i].name.data, labels[k].name.bytes) != 0;
        }
        if (is_new) {
            labels[count++] = sample->labels[i];
        }
    }
    enum umbp_status status = metrics_text_create(METRICS_SERIES_BYTES_MAX, text_out);
    if (status != UMBP_OK) {
        return status;
    }
    metrics_format_labels(*text_out, labels, count);
    status = metrics_text_end(*text_out, labels_out, bytes_out);
    if (status != UMBP_OK) {
        metrics_text_destroy(*text_out);
    }
    return status;
}

static enum umbp_status drop(struct metrics_registry *registry, enum umbp_status status)
{
    atomic_fetch_add_explicit(&registry->dropped, 1, memory_order_relaxed);
    return status;
}

enum umbp_status metrics_registry_report(struct metrics_registry *registry,
                                         const struct metrics_sample *sample)
{
    struct metrics_text *text;
    const char *labels;
    size_t bytes;
    if (!is_valid(sample)) {
        return drop(registry, UMBP_INVALID_VALUE);
    }
    enum umbp_status status = make_labels(sample, &text, &labels, &bytes);
    if (status != UMBP_OK) {
        return drop(registry, status);
    }
    uint64_t now = clock_now_ns(registry->clock);
    bool fits = true;
    mutex_lock(&registry->guard);
    uint32_t family = find_family(registry, sample, &fits);
    struct series *series = NULL;
    bool is_taken = false;
    if (family != NONE) {
        uint64_t hash = hash_bytes(labels, bytes, family);
        uint32_t *place = find_place(registry, hash, family, labels);
        series = *place != NONE ? &registry->series[*place]
                                : add_series(registry, place, hash, family, labels);
    }
    if (series != NULL) {
        is_taken = update(series, sample);
        series->reported_ns = now;
    }
    mutex_unlock(&registry->guard);
    metrics_text_destroy(text);
    return is_taken ? UMBP_OK : drop(registry, fits ? UMBP_LIMIT : UMBP_INVALID_VALUE);
}

static void rebuild(struct metrics_registry *registry)
{
    memset(registry->table, 0xff, ((size_t)registry->table_mask + 1) * sizeof registry->table[0]);
    for (uint32_t i = 0; i < registry->series_count; i++) {
        const struct series *series = &registry->series[i];
        *find_place(registry, series->hash, series->family, series->labels) = i;
    }
}

/* Families without a series make room for others. Under the lock, while nobody writes. */
static void sweep_families(struct metrics_registry *registry)
{
    bool is_used[METRICS_FAMILIES_MAX] = {false};
    uint32_t moved_to[METRICS_FAMILIES_MAX];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < registry->series_count; i++) {
        is_used[registry->series[i].family] = true;
    }
    for (uint32_t i = 0; i < registry->family_count; i++) {
        moved_to[i] = kept;
        if (is_used[i] && i != kept) {
            registry->families[kept] = registry->families[i];
        }
        kept += is_used[i];
    }
    if (kept < registry->family_count) {
        registry->family_count = kept;
        for (uint32_t i = 0; i < registry->series_count; i++) {
            struct series *series = &registry->series[i];
            series->family = moved_to[series->family];
            series->hash = hash_bytes(series->labels, strlen(series->labels), series->family);
        }
        rebuild(registry);
    }
}

void metrics_registry_sweep(struct metrics_registry *registry, uint64_t idle_ms)
{
    uint64_t now = clock_now_ns(registry->clock);
    mutex_lock(&registry->guard);
    uint32_t kept = 0;
    for (uint32_t i = 0; registry->writers == 0 && i < registry->series_count; i++) {
        struct series *series = &registry->series[i];
        if (now > series->reported_ns && now - series->reported_ns > idle_ms * NS_PER_MS) {
            free_series(series);
        } else {
            registry->series[kept++] = *series;
        }
    }
    if (registry->writers == 0 && kept < registry->series_count) {
        registry->series_count = kept;
        rebuild(registry);
    }
    if (registry->writers == 0) {
        sweep_families(registry);
    }
    mutex_unlock(&registry->guard);
}

uint64_t metrics_registry_dropped(const struct metrics_registry *registry)
{
    return atomic_load_explicit(&registry->dropped, memory_order_relaxed);
}

/* ------------------------------------------------------------------- writing ----------- */

struct copied {
    const char *labels; /* stays while a writer is there */
    double value;
    uint64_t count;
    uint64_t buckets[METRICS_BOUNDS_MAX];
};

static void write_one(struct metrics_text *text, const struct family *family,
                      const struct copied *one)
{
    if (family->type != METRICS_HISTOGRAM) {
        metrics_text_made(text, "", one->labels, "", one->value);
        return;
    }
    for (uint32_t i = 0; i < family->bound_count; i++) {
        char bound[48];
        snprintf(bound, sizeof bound, "le=\"%.9g\"", family->bounds[i]);
        metrics_text_made(text, "_bucket", one->labels, bound, (double)one->buckets[i]);
    }
    metrics_text_made(text, "_bucket", one->labels, "le=\"+Inf\"", (double)one->count);
    metrics_text_made(text, "_sum", one->labels, "", one->value);
    metrics_text_made(text, "_count", one->labels, "", (double)one->count);
}

/* Copies up to PIECE series of the family, from *at on; *at moves. */
static size_t copy_piece(struct metrics_registry *registry, uint32_t family, uint32_t *at,
                         struct copied *piece)
{
    size_t count = 0;
    mutex_lock(&registry->guard);
    for (; *at < registry->series_count && count < PIECE; (*at)++) {
        const struct series *series = &registry->series[*at];
        if (series->family != family) {
            continue;
        }
        struct copied *one = &piece[count++];
        *one = (struct copied){.labels = series->labels, .value = series->value};
        if (series->histogram != NULL) {
            one->count = series->histogram->count;
            one->value = series->histogram->sum;
            memcpy(one->buckets, series->histogram->buckets,
                   registry->families[family].bound_count * sizeof one->buckets[0]);
        }
    }
    mutex_unlock(&registry->guard);
    return count;
}

void metrics_registry_write(struct metrics_registry *registry, struct metrics_text *text)
{
    struct copied *piece = mem_calloc(PIECE, sizeof *piece);
    if (piece == NULL) {
        return;
    }
    mutex_lock(&registry->guard);
    registry->writers++;
    uint32_t families = registry->family_count;
    mutex_unlock(&registry->guard);
    for (uint32_t i = 0; i < families; i++) {
        /* A family does not change once it is there. */
        const struct family *family = &registry->families[i];
        bool has_begun = false;
        bool is_taken = false;
        uint32_t at = 0;
        for (size_t count; !is_taken && (count = copy_piece(registry, i, &at, piece)) > 0;) {
            if (!has_begun) {
                has_begun = true;
                is_taken = !metrics_text_family(text, metrics_words_of(family->name), family->type,
                                                metrics_words_of(family->help));
            }
            for (size_t k = 0; !is_taken && k < count; k++) {
                write_one(text, family, &piece[k]);
            }
        }
    }
    mutex_lock(&registry->guard);
    registry->writers--;
    mutex_unlock(&registry->guard);
    mem_free(piece);
}
