/* SPDX-License-Identifier: Apache-2.0 */
/* The directory: super file, lock file, and what else lies there. */
#include <inttypes.h>
#include <unistd.h>

#include "tier_ssd/ssd_priv.h"

#define SUPER_NAME "umbp.super"
#define SUPER_TMP_NAME "umbp.super.tmp"
#define LOCK_NAME "umbp.lock"
#define SEGMENT_NAME_BYTES 20u /* 16 digits and ".seg" */
#define SEGMENTS_LISTED_MAX (UINT32_MAX / 16u)

void ssd_path(const char *directory, const char *name, char *path_out)
{
    (void)snprintf(path_out, SSD_PATH_BYTES, "%s/%s", directory, name);
}

/* ------------------------------------------------------------------------- listing ------- */

/* 0: not a segment's name. */
static uint32_t segment_id_of_name(const char *name)
{
    uint64_t id = 0;
    if (strlen(name) != SEGMENT_NAME_BYTES || strcmp(name + 16, ".seg") != 0) {
        return 0;
    }
    for (unsigned i = 0; i < 16; i++) {
        char c = name[i];
        if (c >= '0' && c <= '9') {
            id = id << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            id = id << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return 0;
        }
    }
    return id < UINT32_MAX ? (uint32_t)id : 0;
}

static void listing_add(struct ssd_listing *listing, uint32_t id)
{
    if (listing->count == listing->capacity) {
        size_t capacity = listing->capacity ? listing->capacity * 2 : 64;
        uint32_t *ids = mem_realloc(listing->ids, capacity * sizeof(*ids));
        if (!ids || capacity > SEGMENTS_LISTED_MAX) {
            listing->is_out_of_memory = true;
            if (ids) {
                listing->ids = ids;
            }
            return;
        }
        listing->ids = ids;
        listing->capacity = capacity;
    }
    listing->ids[listing->count++] = id;
}

void ssd_listing_foreign(struct ssd_listing *listing, const char *name)
{
    if (listing->foreign_files++ < SSD_FOREIGN_NAMES) {
        size_t used = strlen(listing->foreign_names);
        (void)snprintf(listing->foreign_names + used, sizeof(listing->foreign_names) - used, "%s%s",
                       used ? " " : "", name);
    }
}

static void listing_visit(void *context, const char *name, bool is_regular_file)
{
    struct ssd_listing *listing = context;
    uint32_t id = is_regular_file ? segment_id_of_name(name) : 0;
    if (id != 0) {
        listing_add(listing, id);
    } else if (is_regular_file && strcmp(name, SUPER_NAME) == 0) {
        listing->has_super = true;
    } else if (!is_regular_file ||
               (strcmp(name, SUPER_TMP_NAME) != 0 && strcmp(name, LOCK_NAME) != 0)) {
        ssd_listing_foreign(listing, name);
    }
}

static int id_compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

enum umbp_status ssd_listing_read(struct disk *disk, const char *directory,
                                  struct ssd_listing *listing_out)
{
    *listing_out = (struct ssd_listing){.ids = NULL};
    enum umbp_status status = disk_list(disk, directory, listing_visit, listing_out);
    if (status == UMBP_OK && listing_out->is_out_of_memory) {
        status = UMBP_NO_MEMORY;
    }
    if (status != UMBP_OK) {
        ssd_listing_fini(listing_out);
        return status;
    }
    if (listing_out->count > 1) {
        qsort(listing_out->ids, listing_out->count, sizeof(*listing_out->ids), id_compare);
    }
    return UMBP_OK;
}

void ssd_listing_fini(struct ssd_listing *listing)
{
    mem_free(listing->ids);
    listing->ids = NULL;
    listing->count = 0;
}

/* --------------------------------------------------------------------------- super ------- */

enum umbp_status ssd_super_read(struct disk *disk, const char *directory,
                                struct ssd_super *super_out, uint32_t *version_out)
{
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    uint8_t block[SSD_BLOCK_BYTES];
    size_t got = 0;
    ssd_path(directory, SUPER_NAME, path);
    enum umbp_status status = disk_open(disk, path, 0, &file);
    if (status != UMBP_OK) {
        return status;
    }
    status = disk_read_at(disk, file, block, sizeof(block), 0, &got);
    disk_close(disk, file);
    if (status != UMBP_OK) {
        return status;
    }
    return got == sizeof(block) ? ssd_super_decode(block, super_out, version_out) : UMBP_CORRUPT;
}

enum umbp_status ssd_super_write(struct disk *disk, const char *directory,
                                 const struct ssd_super *super)
{
    char tmp_path[SSD_PATH_BYTES];
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    uint8_t block[SSD_BLOCK_BYTES];
    mutex_assert_none_held();
    ssd_path(directory, SUPER_TMP_NAME, tmp_path);
    ssd_path(directory, SUPER_NAME, path);
    ssd_super_encode(super, block);
    enum umbp_status status =
        disk_open(disk, tmp_path, DISK_OPEN_WRITE | DISK_OPEN_CREATE | DISK_OPEN_TRUNCATE, &file);
    if (status != UMBP_OK) {
        return status;
    }
    status = disk_write_at(disk, file, block, sizeof(block), 0);
    if (status == UMBP_OK) {
        status = disk_sync_file(disk, file);
    }
    disk_close(disk, file);
    if (status == UMBP_OK) {
        status = disk_rename(disk, tmp_path, path);
    }
    if (status == UMBP_OK) {
        status = disk_sync_directory(disk, directory);
    }
    return status;
}

/* ---------------------------------------------------------------------------- lock ------- */

static uint64_t lock_read_pid(struct disk *disk, struct disk_file file)
{
    char text[24] = "";
    size_t got = 0;
    if (disk_read_at(disk, file, text, sizeof(text) - 1, 0, &got) != UMBP_OK) {
        return 0;
    }
    text[got] = '\0';
    text[strcspn(text, "\n")] = '\0';
    uint64_t pid;
    return units_parse_count(text, &pid) ? pid : 0;
}

enum umbp_status ssd_lock_take(struct disk *disk, const char *directory, struct disk_file *file_out,
                               uint64_t *pid_out)
{
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    ssd_path(directory, LOCK_NAME, path);
    enum umbp_status status = disk_open(disk, path, DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file);
    if (status != UMBP_OK) {
        return status;
    }
    status = disk_lock(disk, file);
    if (status == UMBP_OK) {
        char text[24];
        int bytes = snprintf(text, sizeof(text), "%" PRIu64 "\n", (uint64_t)getpid());
        status = disk_truncate(disk, file, 0);
        if (status == UMBP_OK) {
            status = disk_write_at(disk, file, text, (size_t)bytes, 0);
        }
    } else if (status == UMBP_LOCKED) {
        *pid_out = lock_read_pid(disk, file);
    }
    if (status != UMBP_OK) {
        disk_close(disk, file);
        return status;
    }
    *file_out = file;
    return UMBP_OK;
}
