/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment. A bad value never fails a program: it is warned about once, and the option stays
 * as it was. A variable that is set to nothing counts as not set.
 *
 * The role has a second source, as in the public C++ UMBP: where UMBP_ROLE is not set and nobody
 * chose a role, the launcher's local rank does, 0 leading and the others following. Such a guess
 * counts only where there is an SSD tier (config_role): every torchrun process has a rank, and one
 * without a shared directory is no follower of anything.
 */
#include "config/config_priv.h"

static const char *const rank_names[] = {
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
    "MPI_LOCALRANKID",
};

/* Which names have been warned about: "one warning per name and process" needs a process-wide
 * memory, and nothing else may lean on it. The last row is for the ranks. */
static _Atomic bool warned[CONFIG_OPTION_COUNT + 1][CONFIG_ENVIRONMENTS_MAX];
_Static_assert(ARRAY_COUNT(rank_names) <= CONFIG_ENVIRONMENTS_MAX, "the ranks share the table");

static void warn_once(size_t row, size_t column, const char *name, const char *text,
                      const char *option, const char *why)
{
    /* relaxed: only who was first matters, no data hangs on it */
    if (atomic_exchange_explicit(&warned[row][column], true, memory_order_relaxed)) {
        return;
    }
    log_warn("bad_environment", "name=%s value=\"%.80s\" option=%s reason=\"%s\" kept=unchanged",
             name, text, option, why);
}

static const char *environment_text(const char *name)
{
    const char *text = name != NULL ? getenv(name) : NULL;
    return text != NULL && *text != '\0' ? text : NULL;
}

/* Take the first of the option's variables that is set and good. True when one was set at all. */
static bool load_option(struct umbp_config *config, size_t id)
{
    const struct config_option *option = &config_options[id];
    bool was_set = false;
    for (size_t i = 0; i < CONFIG_ENVIRONMENTS_MAX; i++) {
        const struct config_environment *environment = &option->environment[i];
        const char *text = environment_text(environment->name);
        char meant[64];
        char why[CONFIG_ERROR_BYTES / 2];
        struct config_value value;
        if (text == NULL) {
            continue;
        }
        was_set = true;
        const char *taken =
            config_translate(environment->words, text, meant, sizeof meant) ? meant : text;
        if (config_value_parse(option, taken, &value, why, sizeof why) == UMBP_OK) {
            config_assign(config, id, &value);
            return true;
        }
        warn_once(id, i, environment->name, text, option->name, why);
    }
    return was_set;
}

static void guess_role(struct umbp_config *config)
{
    for (size_t i = 0; i < ARRAY_COUNT(rank_names); i++) {
        const char *text = environment_text(rank_names[i]);
        uint64_t rank;
        if (text == NULL) {
            continue;
        }
        if (!units_parse_count(text, &rank)) {
            warn_once(CONFIG_OPTION_COUNT, i, rank_names[i], text, "role", "not a rank");
            return;
        }
        const struct config_value value = {
            .number = rank == 0 ? STORE_LEADER : STORE_FOLLOWER,
            .origin = CONFIG_FROM_RANK,
        };
        config_assign(config, CONFIG_ROLE, &value);
        return;
    }
}

void umbp_config_load_env(struct umbp_config *config)
{
    if (config == NULL) {
        return;
    }
    config->error[0] = '\0';
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        bool was_set = load_option(config, i);
        if (i == CONFIG_ROLE && !was_set &&
            config->values[CONFIG_ROLE].origin != CONFIG_FROM_USER) {
            guess_role(config);
        }
    }
}
