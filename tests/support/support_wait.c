/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t test_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void test_sleep_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0) {
    }
}

bool test_wait_until(bool (*condition)(void *context), void *context, unsigned timeout_ms)
{
    uint64_t deadline_ns = test_now_ns() + (uint64_t)timeout_ms * 1000000;
    while (!condition(context)) {
        if (test_now_ns() >= deadline_ns) {
            return condition(context);
        }
        test_sleep_ms(1);
    }
    return true;
}

static unsigned count_entries(const char *path)
{
    unsigned count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) {
        perror(path);
        abort();
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

unsigned test_fd_count(void)
{
    return count_entries("/proc/self/fd") - 1; /* less the one that looks */
}

/* Workers that the kernel keeps for an io_uring show up as threads of ours for some seconds more.
 */
static bool is_ours(const char *task)
{
    char path[300];
    char name[32] = "";
    (void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false; /* has ended */
    }
    bool is_kernels = fgets(name, sizeof(name), file) != NULL && strncmp(name, "iou-", 4) == 0;
    fclose(file);
    return !is_kernels;
}

unsigned test_thread_count(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/task");
    if (dir == NULL) {
        perror("/proc/self/task");
        abort();
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += entry->d_name[0] != '.' && is_ours(entry->d_name);
    }
    closedir(dir);
    return count;
}

static bool threads_are_few(void *context) { return test_thread_count() <= *(unsigned *)context; }

bool test_threads_settle(unsigned count)
{
    return test_wait_until(threads_are_few, &count, TEST_WAIT_MS);
}

size_t test_resident_bytes(void)
{
    unsigned long total = 0;
    unsigned long resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &total, &resident) != 2) {
        abort();
    }
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BUILT_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BUILT_SLOW 1
#endif
#endif

bool test_is_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload != NULL && strstr(preload, "valgrind") != NULL;
}

bool test_is_slow(void)
{
#ifdef BUILT_SLOW
    return true;
#else
    return test_is_valgrind();
#endif
}
