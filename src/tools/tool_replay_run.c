/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run: each request as an engine would make it. How many blocks from the first on are held? Read
 * those and check every byte; store the rest, each with its depth.
 *
 * What the lookup saw may be gone when it is read (evicted in between, damaged on the SSD). From
 * the first block that fails on, the prefix is broken: the blocks count as misses and are stored
 * again.
 *
 * Making and checking contents is no part of the store: only the calls are timed.
 */
#include "tools/tool_replay.h"

#include <inttypes.h>
#include <time.h>

struct run {
    const struct replay_load *load;
    const struct replay_options *options;
    struct replay_result *result;
    struct umbp_client *client;
    struct replay_content content;
    struct tool_progress progress;
    uint64_t start_ns;
    uint64_t report_ns; /* when the next one is due */

    size_t batch_blocks; /* at most so many in one batch */
    uint8_t *stage;      /* batch_blocks values */
    size_t stage_bytes;
    char (*key_texts)[REPLAY_KEY_BYTES]; /* of the longest request */
    struct umbp_key *keys;
    struct umbp_get_item *gets; /* batch_blocks each */
    struct umbp_put_item *puts;
    enum umbp_status *statuses;

    char *why;
    size_t why_bytes;
};

static uint64_t now(void) { return clock_now_ns(clock_monotonic()); }

static enum umbp_status fail(struct run *run, const char *what, enum umbp_status status)
{
    snprintf(run->why, run->why_bytes, "%s: %s", what, umbp_status_text(status));
    return status;
}

static void phase_add(struct replay_phase *phase, uint64_t ns)
{
    histogram_record(&phase->latency, ns);
    phase->spent_ns += ns;
}

/* ------------------------------------------------------------------------ request ------- */

static void make_keys(struct run *run, const uint64_t *blocks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        replay_content_key(&run->content, blocks[i], run->key_texts[i]);
        run->keys[i] = (struct umbp_key){run->key_texts[i], REPLAY_KEY_BYTES};
    }
}

/* How many of the batch came whole and right before the first that did not. */
static size_t check_batch(struct run *run, const uint64_t *blocks, size_t count)
{
    struct replay_result *result = run->result;
    size_t good = 0;
    bool is_broken = false;
    for (size_t i = 0; i < count; i++) {
        bool is_right = false;
        if (run->statuses[i] == UMBP_OK) {
            result->bytes_get += run->options->block_bytes;
            is_right = replay_content_check(&run->content, blocks[i], run->gets[i].data);
            result->corrupt += !is_right;
            result->stray_hits += is_broken || !is_right;
        }
        is_broken = is_broken || !is_right;
        good += !is_broken;
    }
    return good;
}

/* Read the first `count` blocks. *good_out: how many of them were delivered, from the first on. */
static enum umbp_status read_prefix(struct run *run, const uint64_t *blocks, size_t count,
                                    size_t *good_out)
{
    uint64_t spent_ns = 0;
    size_t good = 0;
    for (size_t done = 0; done < count && good == done;) {
        size_t batch = size_min(count - done, run->batch_blocks);
        for (size_t i = 0; i < batch; i++) {
            run->gets[i] = (struct umbp_get_item){
                .key = run->keys[done + i],
                .data = run->stage + i * run->options->block_bytes,
                .bytes = run->options->block_bytes,
            };
        }
        uint64_t begin_ns = now();
        enum umbp_status status = umbp_batch_get(run->client, run->gets, batch, run->statuses);
        spent_ns += now() - begin_ns;
        if (status != UMBP_OK) {
            return fail(run, "batch get", status);
        }
        good += check_batch(run, blocks + done, batch);
        done += batch;
    }
    if (count > 0) {
        phase_add(&run->result->get, spent_ns);
    }
    *good_out = good;
    return UMBP_OK;
}

static void count_puts(struct run *run, size_t count)
{
    struct replay_result *result = run->result;
    for (size_t i = 0; i < count; i++) {
        if (run->statuses[i] == UMBP_OK) {
            result->puts_stored++;
            result->bytes_put += run->options->block_bytes;
        } else if (run->statuses[i] == UMBP_ALREADY_EXISTS) {
            result->puts_known++;
        } else if (result->puts_failed++ == 0) {
            result->put_failure = run->statuses[i];
        }
    }
}

/* Store the blocks from `first` on. */
static enum umbp_status write_rest(struct run *run, const uint64_t *blocks, size_t first,
                                   size_t count)
{
    uint64_t spent_ns = 0;
    for (size_t done = first; done < count;) {
        size_t batch = size_min(count - done, run->batch_blocks);
        for (size_t i = 0; i < batch; i++) {
            uint8_t *data = run->stage + i * run->options->block_bytes;
            replay_content_fill(&run->content, blocks[done + i], data);
            run->puts[i] = (struct umbp_put_item){
                .key = run->keys[done + i],
                .data = data,
                .bytes = run->options->block_bytes,
                .depth = (uint32_t)(done + i),
            };
        }
        uint64_t begin_ns = now();
        enum umbp_status status = umbp_batch_put(run->client, run->puts, batch, run->statuses);
        spent_ns += now() - begin_ns;
        if (status != UMBP_OK) {
            return fail(run, "batch put", status);
        }
        count_puts(run, batch);
        done += batch;
    }
    if (first < count) {
        phase_add(&run->result->put, spent_ns);
    }
    return UMBP_OK;
}

static enum umbp_status run_request(struct run *run, const struct replay_request *request)
{
    const uint64_t *blocks = run->load->blocks + request->first;
    size_t seen = 0;
    size_t good = 0;

    make_keys(run, blocks, request->count);
    uint64_t begin_ns = now();
    enum umbp_status status =
        umbp_batch_exists_consecutive(run->client, run->keys, request->count, &seen);
    phase_add(&run->result->lookup, now() - begin_ns);
    if (status != UMBP_OK) {
        return fail(run, "batch exists", status);
    }
    status = read_prefix(run, blocks, seen, &good);
    if (status == UMBP_OK) {
        status = write_rest(run, blocks, good, request->count);
    }
    run->result->requests++;
    run->result->blocks += request->count;
    run->result->prefix_hits += good;
    run->result->lost += seen - good;
    return status;
}

/* ----------------------------------------------------------------------- the whole ------ */

static bool is_stopped(const struct run *run)
{
    return run->options->stop != NULL && *run->options->stop != 0;
}

static void show_progress(struct run *run, size_t done)
{
    const struct replay_result *result = run->result;
    char left_text[32] = "?";
    if (!run->options->shows_progress || !tool_progress_is_due(&run->progress)) {
        return;
    }
    uint64_t spent_ns = now() - run->start_ns;
    double seconds = (double)spent_ns / 1e9;
    double share = run->load->block_count > 0
                       ? (double)result->blocks / (double)run->load->block_count
                       : (double)done / (double)run->load->request_count;
    if (run->options->speed > 0) {
        const struct replay_request *last = &run->load->requests[run->load->request_count - 1];
        share = seconds * 1000.0 * run->options->speed / (double)(last->timestamp_ms + 1);
    }
    if (share > 0) {
        snprintf(left_text, sizeof left_text, "%.0f s",
                 share < 1 ? seconds / share - seconds : 0.0);
    }
    tool_progress_show(&run->progress, "%zu of %zu requests, hit ratio %.3f, %.2f GB/s, %s left",
                       done, run->load->request_count, replay_hit_ratio(result),
                       (double)(result->bytes_get + result->bytes_put) / 1e9 / seconds, left_text);
}

static void report_so_far(struct run *run)
{
    const struct replay_options *options = run->options;
    if (options->report_ms == 0 || now() < run->report_ns) {
        return;
    }
    run->report_ns = now() + options->report_ms * NS_PER_MS;
    options->report(run->result);
}

/* With a speed, wait until the request is due; in slices, so that a stop is seen. */
static void wait_until_due(struct run *run, const struct replay_request *request, size_t done)
{
    if (run->options->speed <= 0) {
        return;
    }
    uint64_t due_ns =
        run->start_ns + (uint64_t)((double)request->timestamp_ms * 1e6 / run->options->speed);
    for (uint64_t at_ns = now(); at_ns < due_ns && !is_stopped(run); at_ns = now()) {
        uint64_t slice_ns = u64_min(due_ns - at_ns, NS_PER_S / 10);
        const struct timespec slice = {.tv_nsec = (long)slice_ns};
        (void)nanosleep(&slice, NULL);
        show_progress(run, done);
    }
}

static enum umbp_status run_requests(struct run *run)
{
    enum umbp_status status = UMBP_OK;
    run->start_ns = now();
    tool_progress_init(&run->progress);
    for (size_t i = 0; status == UMBP_OK && i < run->load->request_count; i++) {
        wait_until_due(run, &run->load->requests[i], i);
        if (is_stopped(run)) {
            run->result->was_stopped = true;
            break;
        }
        status = run_request(run, &run->load->requests[i]);
        show_progress(run, i + 1);
        report_so_far(run);
    }
    run->result->wall_ns = now() - run->start_ns;
    tool_progress_end(&run->progress);
    return status;
}

/* The counters of the run: what they are at its end less what they were at its beginning. */
static enum umbp_status take_stats(struct run *run, const struct umbp_stat_value *before,
                                   size_t before_count)
{
    struct replay_result *result = run->result;
    enum umbp_status status =
        umbp_stats(run->client, result->stats, REPLAY_STATS_MAX, &result->stat_count);
    if (status != UMBP_OK) {
        return fail(run, "statistics", status);
    }
    result->stat_count = size_min(result->stat_count, REPLAY_STATS_MAX);
    for (size_t i = 0; i < size_min(before_count, result->stat_count); i++) {
        if (result->stats[i].is_counter && strcmp(result->stats[i].name, before[i].name) == 0) {
            result->stats[i].value -= before[i].value;
        }
    }
    return UMBP_OK;
}

static enum umbp_status run_client(struct run *run)
{
    struct umbp_stat_value before[REPLAY_STATS_MAX];
    size_t before_count = 0;
    enum umbp_status status = umbp_stats(run->client, before, REPLAY_STATS_MAX, &before_count);
    if (status != UMBP_OK) {
        return fail(run, "statistics", status);
    }
    before_count = size_min(before_count, REPLAY_STATS_MAX);
    status = run_requests(run);
    if (status == UMBP_OK) {
        run->result->flush = umbp_flush(run->client, 0); /* copies that are under way count too */
        status = take_stats(run, before, before_count);
    }
    return status;
}

static enum umbp_status prepare(struct run *run)
{
    size_t block_bytes = run->options->block_bytes;
    size_t most = run->options->stage_bytes != 0 ? run->options->stage_bytes : REPLAY_STAGE_BYTES;
    size_t longest = size_max(replay_load_longest(run->load), 1);
    run->batch_blocks = size_max(size_min(most / block_bytes, longest), 1);
    run->stage_bytes = run->batch_blocks * block_bytes;
    run->stage = mem_map(run->stage_bytes);
    run->key_texts = mem_calloc(longest, sizeof *run->key_texts);
    run->keys = mem_calloc(longest, sizeof *run->keys);
    run->gets = mem_calloc(run->batch_blocks, sizeof *run->gets);
    run->puts = mem_calloc(run->batch_blocks, sizeof *run->puts);
    run->statuses = mem_calloc(run->batch_blocks, sizeof *run->statuses);
    if (run->stage == NULL || run->key_texts == NULL || run->keys == NULL || run->gets == NULL ||
        run->puts == NULL || run->statuses == NULL) {
        return fail(run, "memory for the requests", UMBP_NO_MEMORY);
    }
    memset(run->stage, 0, run->stage_bytes); /* no page fault in what is timed */
    enum umbp_status status = replay_content_init(&run->content, run->options->seed, block_bytes);
    return status == UMBP_OK ? UMBP_OK : fail(run, "memory for the contents", status);
}

static void release(struct run *run)
{
    replay_content_fini(&run->content);
    mem_free(run->statuses);
    mem_free(run->puts);
    mem_free(run->gets);
    mem_free(run->keys);
    mem_free(run->key_texts);
    if (run->stage != NULL) {
        mem_unmap(run->stage, run->stage_bytes);
    }
}

enum umbp_status replay_run(const struct replay_load *load, const struct replay_options *options,
                            struct replay_result *result_out, char *why_out, size_t why_bytes)
{
    struct run run = {
        .load = load,
        .options = options,
        .result = result_out,
        .why = why_out,
        .why_bytes = why_bytes,
    };
    memset(result_out, 0, sizeof *result_out);
    histogram_init(&result_out->lookup.latency);
    histogram_init(&result_out->get.latency);
    histogram_init(&result_out->put.latency);

    enum umbp_status status = prepare(&run);
    if (status == UMBP_OK) {
        status = umbp_client_create(options->config, &run.client, why_out, why_bytes);
    }
    if (status == UMBP_OK) {
        status = run_client(&run);
        enum umbp_status closed = umbp_client_close(run.client, 0);
        if (status == UMBP_OK && closed != UMBP_OK) {
            status = fail(&run, "closing", closed);
        }
        umbp_client_destroy(run.client);
    }
    release(&run);
    return status;
}

uint64_t replay_stat(const struct replay_result *result, const char *name)
{
    for (size_t i = 0; i < result->stat_count; i++) {
        if (strcmp(result->stats[i].name, name) == 0) {
            return result->stats[i].value;
        }
    }
    return 0;
}

double replay_hit_ratio(const struct replay_result *result)
{
    return result->blocks > 0 ? (double)result->prefix_hits / (double)result->blocks : 0.0;
}
