/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fabric/fabric_host_priv.h"

#define HOST_IOVECS 32u

/* ----------------------------------------------------------------------------- the evidence --- */

static bool read_boot_id(uint8_t out[16])
{
    char text[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t bytes = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (bytes < 36) {
        return false;
    }
    struct fingerprint print = hash_key(text, 36, 0);
    memcpy(out, &print, 16);
    return true;
}

static uint64_t pid_namespace(void)
{
    struct stat info;
    return stat("/proc/self/ns/pid", &info) == 0 ? (uint64_t)info.st_ino : 0;
}

/* Shared, if that is to be had: a peer that maps them need not call the kernel after each pull. */
static bool words_make(struct host *host, size_t count)
{
    size_t page = 4096;
    size_t bytes = (count * sizeof(struct host_word) + page - 1) / page * page;
    void *shared = MAP_FAILED;
    host->words_bytes = bytes;
    host->words_fd = memfd_create("umbp-words", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (host->words_fd >= 0 && ftruncate(host->words_fd, (off_t)bytes) == 0 &&
        fcntl(host->words_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) {
        shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, host->words_fd, 0);
    }
    if (shared != MAP_FAILED) {
#ifdef F_SEAL_FUTURE_WRITE /* Linux 5.1: nobody else gets to write */
        (void)fcntl(host->words_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
#endif
        host->words = shared;
        return true;
    }
    if (host->words_fd >= 0) {
        close(host->words_fd);
        host->words_fd = -1;
    }
    host->words = mem_map(bytes);
    return host->words != NULL;
}

static void words_free(struct host *host)
{
    if (host->words_fd >= 0) {
        munmap(host->words, host->words_bytes);
        close(host->words_fd);
    } else {
        mem_unmap(host->words, host->words_bytes);
    }
    host->words = NULL;
}

enum umbp_status fabric_host_init(struct host *host, size_t words, unsigned threads, bool is_off)
{
    memset(host, 0, sizeof(*host));
    host->threads = threads;
    if (!words_make(host, words)) {
        return UMBP_NO_MEMORY;
    }
    mutex_init(&host->lock, RANK_FABRIC);
    condition_init(&host->wake);
    condition_init(&host->finished);
    list_init(&host->jobs);
    host->pid_namespace = pid_namespace();
    host->is_off = is_off || !read_boot_id(host->boot) || host->pid_namespace == 0;
    if (!host->is_off) {
        /* Where yama restricts it to children (scope 1), peers of the same user may read us. */
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    }
    return UMBP_OK;
}

void fabric_host_fini(struct host *host)
{
    if (!host->words) {
        return;
    }
    if (atomic_load_explicit(&host->workers_made, memory_order_acquire)) {
        mutex_lock(&host->lock);
        host->stop = true;
        condition_broadcast(&host->wake);
        mutex_unlock(&host->lock);
        for (unsigned i = 0; i < host->threads; i++) {
            pthread_join(host->workers[i], NULL);
        }
    }
    mem_free(host->workers);
    condition_fini(&host->finished);
    condition_fini(&host->wake);
    mutex_fini(&host->lock);
    words_free(host);
}

void fabric_host_evidence(struct host *host, size_t index, uint64_t nonce,
                          struct host_evidence *evidence_out)
{
    struct host_evidence evidence;
    memset(&evidence, 0, sizeof(evidence));
    if (!host->is_off) {
        struct host_word *word = &host->words[index];
        /* release: pairs with the peer's read of the word, which is the kernel's */
        atomic_store_explicit(&word->nonce, nonce, memory_order_release);
        memcpy(evidence.boot, host->boot, sizeof(evidence.boot));
        evidence.pid_namespace = host->pid_namespace;
        evidence.pid = (uint32_t)getpid();
        evidence.uid = (uint32_t)getuid();
        evidence.word = (uint64_t)(uintptr_t)word;
        evidence.nonce = nonce;
        evidence.epoch = atomic_load_explicit(&word->epoch, memory_order_acquire);
    }
    *evidence_out = evidence;
}

uint64_t fabric_host_raise(struct host *host, size_t index)
{
    /* seq_cst: what the caller does to the memory afterwards must not be seen before it */
    uint64_t epoch = atomic_fetch_add(&host->words[index].epoch, 1) + 1;
    atomic_thread_fence(memory_order_seq_cst); /* nor by who has the word mapped */
    return epoch;
}

static const char *map_find(const struct host_peer *peer, uint64_t remote, size_t bytes)
{
    unsigned count = atomic_load_explicit(&peer->map_count, memory_order_acquire);
    for (unsigned i = 0; i < count; i++) {
        const struct host_map *map = &peer->maps[i];
        if (remote >= map->base && bytes <= map->bytes &&
            remote - map->base <= map->bytes - bytes &&
            !atomic_load_explicit(&map->is_dropped, memory_order_acquire)) {
            return map->memory + (remote - map->base);
        }
    }
    return NULL;
}

/* The word as it is now, by the kernel and so of who has the pid now; or an error. */
static enum umbp_status word_read(const struct host_peer *peer, uint64_t value_out[2])
{
    struct iovec near = {value_out, 16};
    struct iovec far = {(void *)(uintptr_t)peer->word, 16};
    ssize_t got = process_vm_readv(peer->pid, &near, 1, &far, 1, 0);
    if (got == 16) {
        return UMBP_OK;
    }
    return got < 0 && errno == ESRCH ? UMBP_CLOSED : UMBP_IO;
}

/* The same out of a mapping, which is ten times as fast. It goes on saying what the peer said last
 * when that has died, or runs another program: enough for bytes that came out of mappings, too,
 * which are as it left them; not for what was read by pid. False: not mapped. */
static bool word_look(const struct host_peer *peer, uint64_t value_out[2])
{
    const struct host_word *mapped = (const void *)map_find(peer, peer->word, sizeof(*mapped));
    if (!mapped || (uintptr_t)mapped % sizeof(*mapped) != 0) {
        return false;
    }
    /* acquire: pairs with the owner's raising */
    value_out[0] = atomic_load_explicit(&mapped->nonce, memory_order_acquire);
    value_out[1] = atomic_load_explicit(&mapped->epoch, memory_order_acquire);
    return true;
}

static bool is_still_peer(const struct host_peer *peer)
{
    uint64_t value[2];
    return word_read(peer, value) == UMBP_OK && value[0] == peer->nonce;
}

void fabric_host_check(const struct host *host, const struct host_evidence *evidence,
                       struct host_peer *peer_out)
{
    memset(peer_out, 0, sizeof(*peer_out));
    if (host->is_off || evidence->word == 0 || evidence->pid == 0 ||
        evidence->pid > (uint32_t)INT32_MAX ||
        memcmp(evidence->boot, host->boot, sizeof(host->boot)) != 0 ||
        evidence->pid_namespace != host->pid_namespace || evidence->uid != (uint32_t)getuid()) {
        return;
    }
    peer_out->pid = (pid_t)evidence->pid;
    peer_out->word = evidence->word;
    peer_out->nonce = evidence->nonce;
    /* The nonce proves that this pid is who is at the other end of the connection. */
    peer_out->is_readable = is_still_peer(peer_out);
}

/* ------------------------------------------------------------------------------- the maps ----- */

void fabric_host_peer_fini(struct host_peer *peer)
{
    unsigned count = atomic_load_explicit(&peer->map_count, memory_order_acquire);
    for (unsigned i = 0; i < count; i++) {
        munmap((void *)(uintptr_t)peer->maps[i].memory, peer->maps[i].bytes);
    }
    memset(peer, 0, sizeof(*peer));
}

void fabric_host_map_add(struct host_peer *peer, uint64_t base, uint64_t bytes, int fd,
                         uint64_t offset, uint64_t key)
{
    unsigned count = atomic_load_explicit(&peer->map_count, memory_order_relaxed);
    if (!peer->is_readable || count == HOST_MAPS_MAX || fd < 0 || bytes == 0 ||
        offset % 4096 != 0 || base + bytes < base || offset + bytes < offset) {
        return;
    }
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)peer->pid, fd);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file < 0) {
        return;
    }
    /* It may not shrink under us: that would be a SIGBUS. Only memory files have seals. */
    int seals = fcntl(file, F_GET_SEALS);
    struct stat info;
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(file, &info) == 0 &&
        offset + bytes <= (uint64_t)info.st_size) {
        void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, (off_t)offset);
        /* Whose file it is was told by a pid: so was it the peer's when it was opened? */
        if (memory != MAP_FAILED && !is_still_peer(peer)) {
            munmap(memory, bytes);
        } else if (memory != MAP_FAILED) {
            struct host_map *map = &peer->maps[count];
            map->base = base;
            map->bytes = bytes;
            map->key = key;
            map->memory = memory;
            atomic_store_explicit(&map->is_dropped, false, memory_order_relaxed);
            /* release: pairs with map_find */
            atomic_store_explicit(&peer->map_count, count + 1, memory_order_release);
        }
    }
    close(file);
}

void fabric_host_map_drop(struct host_peer *peer, uint64_t key)
{
    unsigned count = atomic_load_explicit(&peer->map_count, memory_order_relaxed);
    for (unsigned i = 0; i < count; i++) {
        if (peer->maps[i].key == key) {
            /* The mapping itself stays until the connection ends: a copy may be using it. */
            atomic_store_explicit(&peer->maps[i].is_dropped, true, memory_order_release);
        }
    }
}

/* ------------------------------------------------------------------------------- the jobs ----- */

void fabric_host_job_init(struct host_job *job, struct host_peer *peer, uint64_t epoch,
                          const struct fabric_piece *pieces, size_t count,
                          void (*done)(struct host_job *job))
{
    memset(job, 0, sizeof(*job));
    list_init(&job->link);
    job->peer = peer;
    job->epoch = epoch;
    job->pieces = pieces;
    job->count = count;
    job->done = done;
    for (size_t i = 0; i < count; i++) {
        job->bytes += pieces[i].bytes;
    }
}

struct unit {
    size_t piece;
    size_t offset;
    size_t bytes;
};

/* Under lock. False: no work is left. */
static bool unit_take(struct host_job *job, struct unit *unit_out)
{
    if (atomic_load_explicit(&job->status, memory_order_relaxed) != UMBP_OK) {
        job->next_piece = job->count; /* one failed: the rest is not worth copying */
    }
    if (job->next_piece == job->count) {
        return false;
    }
    *unit_out = (struct unit){job->next_piece, job->next_offset, 0};
    size_t room = HOST_UNIT_BYTES;
    while (room > 0 && job->next_piece < job->count) {
        size_t left = job->pieces[job->next_piece].bytes - job->next_offset;
        size_t part = size_min(left, room);
        unit_out->bytes += part;
        room -= part;
        job->next_offset += part;
        if (part == left) {
            job->next_piece++;
            job->next_offset = 0;
        }
    }
    return true;
}

static enum umbp_status read_far(struct host_job *job, struct iovec *near, struct iovec *far,
                                 unsigned count, size_t bytes)
{
    if (count == 0) {
        return UMBP_OK;
    }
    ssize_t got = process_vm_readv(job->peer->pid, near, count, far, count, 0);
    if (got == (ssize_t)bytes) {
        return UMBP_OK;
    }
    return got < 0 && errno == ESRCH ? UMBP_CLOSED : UMBP_IO;
}

static enum umbp_status unit_copy(struct host_job *job, struct unit unit)
{
    struct iovec near[HOST_IOVECS];
    struct iovec far[HOST_IOVECS];
    unsigned count = 0;
    size_t gathered = 0;
    enum umbp_status status = UMBP_OK;
    mutex_assert_none_held();
    for (size_t i = unit.piece, offset = unit.offset; unit.bytes > 0 && !status; i++, offset = 0) {
        const struct fabric_piece *piece = &job->pieces[i];
        size_t bytes = size_min(piece->bytes - offset, unit.bytes);
        unit.bytes -= bytes;
        if (bytes == 0) {
            continue;
        }
        const char *mapped = map_find(job->peer, piece->remote + offset, bytes);
        if (mapped) {
            copy_bytes((char *)piece->local + offset, mapped, bytes);
            atomic_fetch_add_explicit(&job->mapped_bytes, bytes, memory_order_relaxed);
            continue;
        }
        near[count] = (struct iovec){(char *)piece->local + offset, bytes};
        far[count] = (struct iovec){(void *)(uintptr_t)(piece->remote + offset), bytes};
        gathered += bytes;
        if (++count == HOST_IOVECS) {
            status = read_far(job, near, far, count, gathered);
            count = 0;
            gathered = 0;
        }
    }
    return status ? status : read_far(job, near, far, count, gathered);
}

/* After all bytes: were they still the peer's to show? */
static void job_validate(struct host_job *job)
{
    uint64_t value[2];
    /* acquire: the bytes were read before the word is */
    atomic_thread_fence(memory_order_acquire);
    bool is_all_mapped =
        atomic_load_explicit(&job->mapped_bytes, memory_order_relaxed) == job->bytes;
    enum umbp_status status = UMBP_OK;
    if (!is_all_mapped || !word_look(job->peer, value)) {
        status = word_read(job->peer, value);
    }
    if (status == UMBP_OK && (value[0] != job->peer->nonce || value[1] != job->epoch)) {
        status = UMBP_STALE;
    }
    if (status != UMBP_OK) {
        atomic_store_explicit(&job->status, (int)status, memory_order_relaxed);
    }
}

/* Works on the job until nothing of it is left to take. Called and returns with the lock held. */
static void job_work(struct host *host, struct host_job *job)
{
    struct unit unit;
    job->active++;
    while (!job->run && unit_take(job, &unit)) {
        mutex_unlock(&host->lock);
        enum umbp_status status = unit_copy(job, unit);
        if (status) {
            atomic_store_explicit(&job->status, (int)status, memory_order_relaxed);
        }
        mutex_lock(&host->lock);
    }
    if (job->is_queued) {
        list_remove(&job->link);
        job->is_queued = false;
    }
    if (job->run) {
        mutex_unlock(&host->lock);
        job->run(job);
        mutex_lock(&host->lock);
    }
    bool is_last = --job->active == 0;
    if (!is_last) {
        return;
    }
    if (!job->done) {
        condition_broadcast(&host->finished);
        return;
    }
    mutex_unlock(&host->lock);
    if (!job->run && atomic_load_explicit(&job->status, memory_order_relaxed) == UMBP_OK) {
        job_validate(job);
    }
    job->done(job);
    mutex_lock(&host->lock);
}

static void *worker_run(void *context)
{
    struct host *host = context;
    mutex_lock(&host->lock);
    while (!host->stop) {
        if (list_is_empty(&host->jobs)) {
            /* An hour: waits have deadlines, and this one is only ever ended by a signal. */
            condition_wait(&host->wake, &host->lock,
                           clock_deadline_ns(clock_monotonic(), 3600 * 1000));
            continue;
        }
        job_work(host, CONTAINER_OF(host->jobs.next, struct host_job, link));
    }
    mutex_unlock(&host->lock);
    return NULL;
}

static enum umbp_status workers_make(struct host *host)
{
    mutex_lock(&host->lock);
    bool made = host->workers != NULL;
    if (!made) {
        host->workers = mem_calloc(host->threads, sizeof(pthread_t));
    }
    pthread_t *workers = host->workers;
    mutex_unlock(&host->lock);
    if (made || !workers) {
        return made ? UMBP_OK : UMBP_NO_MEMORY;
    }
    unsigned count = 0;
    while (count < host->threads &&
           !thread_create(&workers[count], "umbp-pull", false, worker_run, host)) {
        count++;
    }
    if (count == 0) {
        mutex_lock(&host->lock);
        host->workers = NULL;
        mutex_unlock(&host->lock);
        mem_free(workers);
        return UMBP_NO_MEMORY;
    }
    if (count < host->threads) {
        host->threads = count;
    }
    atomic_store_explicit(&host->workers_made, true, memory_order_release);
    return UMBP_OK;
}

enum umbp_status fabric_host_job_start(struct host *host, struct host_job *job)
{
    if (!atomic_load_explicit(&host->workers_made, memory_order_acquire)) {
        enum umbp_status status = workers_make(host);
        if (status) {
            return status;
        }
    }
    mutex_lock(&host->lock);
    list_insert_after(host->jobs.prev, &job->link);
    job->is_queued = true;
    if (job->bytes > HOST_UNIT_BYTES) {
        condition_broadcast(&host->wake);
    } else {
        condition_signal(&host->wake);
    }
    mutex_unlock(&host->lock);
    return UMBP_OK;
}

enum umbp_status fabric_host_job_wait(struct host *host, struct host_job *job)
{
    bool is_shared = job->bytes >= 2 * HOST_UNIT_BYTES && host->threads > 1;
    if (is_shared && !atomic_load_explicit(&host->workers_made, memory_order_acquire)) {
        is_shared = workers_make(host) == UMBP_OK;
    }
    mutex_lock(&host->lock);
    if (is_shared) {
        list_insert_after(host->jobs.prev, &job->link);
        job->is_queued = true;
        condition_signal(&host->wake);
    }
    job_work(host, job);
    while (job->active > 0) {
        condition_wait(&host->finished, &host->lock,
                       clock_deadline_ns(clock_monotonic(), 60 * 1000));
    }
    mutex_unlock(&host->lock);
    if (atomic_load_explicit(&job->status, memory_order_relaxed) == UMBP_OK) {
        job_validate(job);
    }
    return (enum umbp_status)atomic_load_explicit(&job->status, memory_order_relaxed);
}
