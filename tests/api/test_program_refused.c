/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a sandbox, a container or a file system may refuse, and the program does without. The
 * refusals are system call filters: they last for the process and all that it starts, so each test
 * adds one to those of the tests before.
 */
#include "support_program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static struct test_output output;
static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = test_dir_create();
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    test_output_free(&output);
    test_dir_remove(dir);
    return 0;
}

static void install(struct sock_filter *filter, unsigned short count)
{
    const struct sock_fprog program = {.len = count, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        printf("SKIP: no system call filters here\n");
        skip();
    }
}

/* The call `number` fails with `error`, if its argument `argument` has one of `bits` set. */
static void refuse(int number, unsigned argument, unsigned bits, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 (unsigned)offsetof(struct seccomp_data, args) + 8 * argument),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof filter[0]);
}

/* Every such call fails. */
static void refuse_all(int number, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof filter[0]);
}

static void run(const char *command, const char *operand, const void *input, size_t bytes)
{
    test_output_free(&output);
    test_program_run(&output,
                     (const char *const[]){command, "--ssd-dir", dir, "--ssd", "64MiB",
                                           "--op-timeout-ms", "5000", operand, NULL},
                     input, bytes, NULL);
    if (output.code != 0) {
        fail_msg("umbp %s exits with %d: %s%s", command, output.code, output.out, output.err);
    }
}

/* Stored, read back and verified; `warning` is said, or nothing is where it is NULL. */
static void it_works(const char *warning)
{
    static uint8_t value[3 << 20 | 123];
    test_fill(value, sizeof value, 5);
    run("put", "key", value, sizeof value);
#ifndef UMBP_HAVE_LIBURING
    /* A build without rings says so each time, whatever is refused. */
    warning = warning == NULL ? "using=posix" : warning;
#endif
    if (warning == NULL) {
        assert_string_equal(output.err, "");
    } else {
        assert_non_null(strstr(output.err, warning));
    }
    run("get", "key", NULL, 0);
    assert_int_equal(output.out_bytes, sizeof value);
    assert_memory_equal(output.out, value, sizeof value);
    run("fsck", NULL, NULL, 0);
}

static void it_works_where_buffers_can_not_be_registered(void **state)
{
    (void)state;
    refuse_all(SYS_io_uring_register, ENOMEM);
    it_works(NULL);
}

static void it_works_where_space_can_not_be_set_aside(void **state)
{
    (void)state;
    refuse_all(SYS_fallocate, EOPNOTSUPP);
    it_works(NULL);
}

static void it_works_where_direct_io_is_refused(void **state)
{
    (void)state;
    refuse(SYS_openat, 2, O_DIRECT, EINVAL);
    it_works("disk_buffered");
}

static void it_works_where_a_ring_can_be_made_and_not_used(void **state)
{
    (void)state;
    refuse_all(SYS_io_uring_enter, EPERM);
    it_works("using=posix");
}

static void it_works_where_no_ring_can_be_made(void **state)
{
    (void)state;
    refuse_all(SYS_io_uring_setup, EPERM);
    it_works("using=posix");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_works_where_buffers_can_not_be_registered),
        TEST(it_works_where_space_can_not_be_set_aside),
        TEST(it_works_where_direct_io_is_refused),
        TEST(it_works_where_a_ring_can_be_made_and_not_used),
        TEST(it_works_where_no_ring_can_be_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
