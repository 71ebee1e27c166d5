/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds each file of the corpus folders named on the command line to a fuzz target, so that every
 * build with every compiler keeps what fuzzing once found. A folder that is not there is empty.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define INPUT_BYTES_MAX (16u << 20)

static int replay_file(const char *path, uint8_t *buffer)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    size_t bytes = fread(buffer, 1, INPUT_BYTES_MAX, file);
    fclose(file);
    /* An exact-size block, so that a sanitizer sees a read past the end. */
    uint8_t *input = malloc(bytes > 0 ? bytes : 1);
    if (input == NULL) {
        return -1;
    }
    memcpy(input, buffer, bytes);
    LLVMFuzzerTestOneInput(input, bytes);
    free(input);
    return 0;
}

static int replay_folder(const char *folder, uint8_t *buffer, unsigned *count)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return errno == ENOENT ? 0 : -1;
    }
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(dir)) != NULL;) {
        char path[PATH_MAX];
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        rc = replay_file(path, buffer);
        ++*count;
    }
    closedir(dir);
    return rc;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    int rc = 0;
    uint8_t *buffer = calloc(1, INPUT_BYTES_MAX);
    if (buffer == NULL) {
        return 1;
    }
    LLVMFuzzerTestOneInput(buffer, 0);
    for (int i = 1; i < argc && rc == 0; i++) {
        rc = replay_folder(argv[i], buffer, &count);
    }
    free(buffer);
    printf("%u inputs replayed\n", count);
    return rc == 0 ? 0 : 1;
}
