/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pulls run on the host's workers and never touch the provider. `pulls` of a peer keeps its slot
 * and its maps: who pulls first counts up and then looks at the handle; who ends the connection
 * first takes the handle away and then looks at the count (both sequentially consistent).
 */
#include "fabric/fabric_ofi_priv.h"

static struct peer *pull_begin(struct ofi *ofi, fabric_peer handle, enum umbp_status *status_out)
{
    struct peer *peer = fabric_ofi_peer_up(ofi, handle);
    if (!peer) {
        *status_out = UMBP_CLOSED;
        return NULL;
    }
    atomic_fetch_add(&peer->pulls, 1);
    if (atomic_load(&peer->up_handle) != handle) {
        *status_out = UMBP_CLOSED;
    } else if (!(atomic_load(&peer->flags) & FABRIC_PEER_READABLE)) {
        *status_out = UMBP_UNSUPPORTED;
    } else {
        return peer;
    }
    atomic_fetch_sub(&peer->pulls, 1);
    fabric_ofi_nudge(peer);
    return NULL;
}

static void pull_end(struct peer *peer)
{
    if (atomic_fetch_sub(&peer->pulls, 1) == 1 && atomic_load(&peer->up_handle) == 0) {
        fabric_ofi_nudge(peer); /* its end may be waiting for us */
    }
}

static void count_pull(struct ofi *ofi, const struct host_job *job, enum umbp_status status)
{
    if (status == UMBP_OK) {
        atomic_fetch_add(&ofi->pulled_bytes, job->bytes);
        atomic_fetch_add(&ofi->mapped_bytes, atomic_load(&job->mapped_bytes));
    } else if (status == UMBP_STALE) {
        atomic_fetch_add(&ofi->stale_pulls, 1);
    }
}

static void pull_run(struct ofi *ofi, struct submission *submission)
{
    struct pull *pull = CONTAINER_OF(submission, struct pull, submission);
    /* The callback has to come from a pass, and we may be on a submitter's thread. */
    list_insert_after(ofi->dead_pulls.prev, &pull->job.link);
}

void fabric_ofi_pulls_finish(struct ofi *ofi)
{
    while (!list_is_empty(&ofi->dead_pulls)) {
        struct pull *pull = CONTAINER_OF(ofi->dead_pulls.next, struct pull, job.link);
        struct peer *peer = pull->peer;
        enum umbp_status status = (enum umbp_status)atomic_load(&pull->job.status);
        fabric_done *done = pull->done;
        void *context = pull->done_context;
        list_remove(&pull->job.link);
        count_pull(ofi, &pull->job, status);
        mutex_lock(&ofi->lock);
        pull->next = ofi->pulls_free;
        ofi->pulls_free = pull;
        mutex_unlock(&ofi->lock);
        done(context, status);
        pull_end(peer);
    }
}

static void pull_done(struct host_job *job)
{
    struct pull *pull = CONTAINER_OF(job, struct pull, job);
    struct ofi *ofi = pull->ofi;
    fabric_ofi_submit(ofi, &pull->submission);
}

enum umbp_status fabric_ofi_pull(struct fabric *fabric, fabric_peer handle, uint64_t epoch,
                                 const struct fabric_piece *pieces, size_t count, fabric_done *done,
                                 void *context)
{
    struct ofi *ofi = ofi_of(fabric);
    enum umbp_status status = UMBP_OK;
    struct peer *peer = pull_begin(ofi, handle, &status);
    if (!peer) {
        return status;
    }
    mutex_lock(&ofi->lock);
    struct pull *pull = ofi->pulls_free;
    if (pull) {
        ofi->pulls_free = pull->next;
    }
    mutex_unlock(&ofi->lock);
    if (!pull) {
        pull_end(peer);
        atomic_fetch_add(&ofi->busy, 1);
        return UMBP_BUSY;
    }
    pull->ofi = ofi;
    pull->peer = peer;
    pull->done = done;
    pull->done_context = context;
    pull->submission.run = pull_run;
    fabric_host_job_init(&pull->job, &peer->host, epoch, pieces, count, pull_done);
    status = fabric_host_job_start(&ofi->host, &pull->job);
    if (status) {
        mutex_lock(&ofi->lock);
        pull->next = ofi->pulls_free;
        ofi->pulls_free = pull;
        mutex_unlock(&ofi->lock);
        pull_end(peer);
    }
    return status;
}

enum umbp_status fabric_ofi_pull_wait(struct fabric *fabric, fabric_peer handle, uint64_t epoch,
                                      const struct fabric_piece *pieces, size_t count)
{
    struct ofi *ofi = ofi_of(fabric);
    enum umbp_status status = UMBP_OK;
    ASSERT(!fabric_ofi_on_loop(ofi));
    struct peer *peer = pull_begin(ofi, handle, &status);
    if (!peer) {
        return status;
    }
    struct host_job job;
    fabric_host_job_init(&job, &peer->host, epoch, pieces, count, NULL);
    status = fabric_host_job_wait(&ofi->host, &job);
    count_pull(ofi, &job, status);
    pull_end(peer);
    return status;
}
