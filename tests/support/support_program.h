/* SPDX-License-Identifier: Apache-2.0 */
/* Running the built program, and finding files of the source tree. */
#ifndef TEST_SUPPORT_PROGRAM_H
#define TEST_SUPPORT_PROGRAM_H

#include "support.h"

struct test_output {
    int code;  /* the exit code; 1000 + n when signal n ended it */
    char *out; /* standard output, with a NUL behind it */
    size_t out_bytes;
    char *err;
    size_t err_bytes;
};

/* Run build/umbp (or what UMBP_TEST_PROGRAM names) with `arguments`, which end with NULL, and with
 * `input` as its standard input; NULL is none. It is killed after two minutes. Variables that begin
 * with UMBP_ are not passed on, but for those of `environment` ("NAME=value" ..., NULL), which may
 * be NULL. */
void test_program_run(struct test_output *output, const char *const *arguments, const void *input,
                      size_t input_bytes, const char *const *environment);
/* The same without input; once `condition` is true (within two minutes) it gets this signal. */
void test_program_signal(struct test_output *output, const char *const *arguments,
                         bool (*condition)(void *context), void *context, int signal_number);
void test_output_free(struct test_output *output);

/* run(&output, "put", "--ssd-dir", dir, "key") */
#define test_program(output, ...)                                                                  \
    test_program_run(output, (const char *const[]){__VA_ARGS__, NULL}, NULL, 0, NULL)

/* Where the program is; the caller frees it. */
char *test_program_path(void);

/* The last line of the text (a trailing newline does not count). Into `text`, not owned. */
const char *test_last_line(const char *text);
/* The number behind "name": in a line of JSON; fails the test when it is not there. */
double test_json_number(const char *json, const char *name);

/* A file of the source tree in malloc'ed memory, NUL behind it; NULL when it is not there. */
char *test_source_read(const char *relative);
/* Its path; NULL when it is not there. The caller frees it. */
char *test_source_path(const char *relative);

#endif
