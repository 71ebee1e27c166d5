/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading another process of this host. What is known of it is a pid, and pids are given again: a
 * child takes its words away from where they were, as if another program had its pid by now, while
 * what was mapped before is there still.
 */
#include "support.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fabric/fabric_host_priv.h"

#define BYTES 8192u
#define NONCE 0x1234567890abcdefu
#define WORDS 4u
#define SLOT 2u

/* What the child shows. */
struct shown {
    struct host_evidence evidence;
    uint64_t words;
    uint64_t words_bytes;
    int words_fd;
    uint64_t shared; /* in a memfd */
    int shared_fd;
    uint64_t own; /* in its own memory */
};

struct child {
    pid_t pid;
    int in, out;
    struct shown shown;
};

static void say(int fd) { assert_int_equal(write(fd, "x", 1), 1); }

static bool hears(int fd)
{
    char letter;
    return read(fd, &letter, 1) == 1;
}

static int sealed_memory(void)
{
    int fd = memfd_create("umbp-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd >= 0 && ftruncate(fd, BYTES) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0 ? fd
                                                                                              : -1;
}

/* Shows, waits to be told, takes its words away, waits for the end: nothing here may fail a test.
 */
static void child_run(int in, int out)
{
    static struct host host;
    static uint8_t own[BYTES];
    struct shown shown = {.own = (uint64_t)(uintptr_t)own};
    if (fabric_host_init(&host, WORDS, 1, false) != UMBP_OK) {
        _exit(1);
    }
    fabric_host_evidence(&host, SLOT, NONCE, &shown.evidence);
    shown.words = (uint64_t)(uintptr_t)host.words;
    shown.words_bytes = host.words_bytes;
    shown.words_fd = host.words_fd;
    shown.shared_fd = sealed_memory();
    void *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shown.shared_fd, 0);
    shown.shared = (uint64_t)(uintptr_t)shared;
    memset(own, 'o', BYTES);
    if (shared != MAP_FAILED) {
        memset(shared, 's', BYTES);
    }
    if (shared == MAP_FAILED || write(out, &shown, sizeof(shown)) != sizeof(shown) || !hears(in) ||
        mmap(host.words, host.words_bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
        write(out, "w", 1) != 1 || !hears(in)) {
        _exit(1);
    }
    _exit(0);
}

static void child_start(struct child *child)
{
    int in[2];
    int out[2];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    child->pid = fork();
    assert_true(child->pid >= 0);
    if (child->pid == 0) {
        close(in[1]);
        close(out[0]);
        child_run(in[0], out[1]);
    }
    close(in[0]);
    close(out[1]);
    child->in = in[1];
    child->out = out[0];
    assert_int_equal(read(child->out, &child->shown, sizeof(child->shown)), sizeof(child->shown));
}

static void child_end(struct child *child)
{
    int how = 0;
    say(child->in);
    assert_int_equal(waitpid(child->pid, &how, 0), child->pid);
    assert_int_equal(how, 0);
    close(child->in);
    close(child->out);
}

static enum umbp_status pull(struct host *host, struct host_peer *peer, uint64_t remote,
                             uint8_t expected)
{
    uint8_t bytes[BYTES] = {0};
    struct fabric_piece piece = {.local = bytes, .remote = remote, .bytes = BYTES};
    struct host_job job;
    fabric_host_job_init(&job, peer, 0, &piece, 1, NULL);
    enum umbp_status status = fabric_host_job_wait(host, &job);
    if (status == UMBP_OK) {
        assert_int_equal(bytes[0], expected);
        assert_int_equal(bytes[BYTES - 1], expected);
    }
    return status;
}

static void bytes_read_by_pid_count_only_while_the_pid_is_the_peers(void **state)
{
    struct child child;
    struct host host;
    static struct host_peer peer;
    (void)state;

    child_start(&child);
    const struct shown *shown = &child.shown;
    assert_int_equal(fabric_host_init(&host, WORDS, 1, false), UMBP_OK);
    fabric_host_check(&host, &shown->evidence, &peer);
    assert_true(peer.is_readable);
    fabric_host_map_add(&peer, shown->words, shown->words_bytes, shown->words_fd, 0, 0);
    fabric_host_map_add(&peer, shown->shared, BYTES, shown->shared_fd, 0, 1);
    assert_int_equal(atomic_load(&peer.map_count), 2);
    assert_int_equal(pull(&host, &peer, shown->shared, 's'), UMBP_OK);
    assert_int_equal(pull(&host, &peer, shown->own, 'o'), UMBP_OK);

    say(child.in);
    assert_true(hears(child.out));
    assert_int_equal(pull(&host, &peer, shown->own, 'o'), UMBP_STALE);
    /* What was mapped while it was the peer is the peer's. */
    assert_int_equal(pull(&host, &peer, shown->shared, 's'), UMBP_OK);
    fabric_host_map_add(&peer, shown->shared, BYTES, shown->shared_fd, 0, 2);
    assert_int_equal(atomic_load(&peer.map_count), 2);
    child_end(&child);
    fabric_host_peer_fini(&peer);
    fabric_host_fini(&host);
}

static void an_epoch_that_was_raised_makes_a_pull_stale(void **state)
{
    static uint8_t own[BYTES];
    struct host host;
    static struct host_peer peer;
    struct host_evidence evidence;
    (void)state;

    for (unsigned is_mapped = 0; is_mapped < 2; is_mapped++) {
        int fd = sealed_memory();
        void *shared = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(shared, MAP_FAILED);
        uint64_t from = (uint64_t)(uintptr_t)(is_mapped ? shared : own);
        assert_int_equal(fabric_host_init(&host, WORDS, 1, false), UMBP_OK);
        fabric_host_evidence(&host, SLOT, NONCE, &evidence);
        fabric_host_check(&host, &evidence, &peer);
        assert_true(peer.is_readable);
        if (is_mapped) {
            assert_true(host.words_fd >= 0);
            fabric_host_map_add(&peer, (uint64_t)(uintptr_t)host.words, host.words_bytes,
                                host.words_fd, 0, 0);
            fabric_host_map_add(&peer, from, BYTES, fd, 0, 1);
            assert_int_equal(atomic_load(&peer.map_count), 2);
        }
        assert_int_equal(pull(&host, &peer, from, 0), UMBP_OK);
        assert_int_equal(fabric_host_raise(&host, SLOT), 1);
        assert_int_equal(pull(&host, &peer, from, 0), UMBP_STALE);
        fabric_host_peer_fini(&peer);
        fabric_host_fini(&host);
        munmap(shared, BYTES);
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_read_by_pid_count_only_while_the_pid_is_the_peers),
        cmocka_unit_test(an_epoch_that_was_raised_makes_a_pull_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
