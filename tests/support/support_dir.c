/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRS_MAX 64

/* The folders that are still there, and whose process they belong to (a forked child that ends must
 * not remove its parent's). */
static pthread_mutex_t dirs_lock = PTHREAD_MUTEX_INITIALIZER;
static char *dirs[DIRS_MAX];
static pid_t dirs_pid;

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void remove_leftovers(void)
{
    if (getpid() != dirs_pid) {
        return;
    }
    for (size_t i = 0; i < DIRS_MAX; i++) {
        if (dirs[i] != NULL) {
            remove_tree(dirs[i]);
            free(dirs[i]);
            dirs[i] = NULL;
        }
    }
}

char *test_path(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        abort();
    }
    return path;
}

char *test_dir_create(void)
{
    const char *base = getenv("TMPDIR");
    char *path = test_path(base != NULL && *base != '\0' ? base : "/tmp", "umbp-test-XXXXXX");
    if (mkdtemp(path) == NULL) {
        perror(path);
        abort();
    }
    pthread_mutex_lock(&dirs_lock);
    if (dirs_pid == 0) {
        dirs_pid = getpid();
        atexit(remove_leftovers);
    }
    for (size_t i = 0; i < DIRS_MAX; i++) {
        if (dirs[i] == NULL) {
            dirs[i] = path;
            break;
        }
    }
    pthread_mutex_unlock(&dirs_lock);
    return path;
}

void test_dir_remove(char *path)
{
    if (path == NULL) {
        return;
    }
    pthread_mutex_lock(&dirs_lock);
    for (size_t i = 0; i < DIRS_MAX; i++) {
        if (dirs[i] == path) {
            dirs[i] = NULL;
        }
    }
    pthread_mutex_unlock(&dirs_lock);
    remove_tree(path);
    free(path);
}
