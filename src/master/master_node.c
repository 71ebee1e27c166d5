/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members: who they are, how they come and go.
 *
 * A node's record has two halves with a lock each: what beats change (sequence, epochs; the node's
 * own lock, held for as long as a beat is applied) and what everybody reads (id, addresses, state;
 * the members' lock, held for moments). To change membership both are taken, the node's first; and
 * since the record was found before its lock was had, it is looked up again.
 *
 * Nothing that a node held is taken out of the tables when it goes: its view is switched off, in
 * one store, and a new life of the record begins a new epoch. What is left is swept by the tick.
 */
#include "master/master_priv.h"

/* -------------------------------------------------------------------------------- text --- */

bool text_is_valid(struct master_text text, bool may_be_empty)
{
    if (text.bytes > MASTER_TEXT_BYTES_MAX || (!text.bytes && !may_be_empty)) {
        return false;
    }
    for (size_t i = 0; i < text.bytes; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c < 0x20 || c == 0x7F) {
            return false;
        }
    }
    return true;
}

static bool text_is(struct master_text a, struct master_text b)
{
    return a.bytes == b.bytes && !memcmp(a.data, b.data, a.bytes);
}

static struct master_text text_copy(struct master_text text, char **at)
{
    struct master_text copy = {*at, text.bytes};
    memcpy(*at, text.data, text.bytes);
    *at += text.bytes;
    return copy;
}

static struct node_text *text_of(const struct master_registration *registration)
{
    const struct master_text addresses[] = {registration->node_address, registration->peer_address,
                                            registration->fabric_address};
    size_t bytes = registration->id.bytes + registration->engine_bytes;
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        bytes += addresses[i].bytes;
    }
    for (size_t i = 0; i < registration->tag_count; i++) {
        bytes += registration->tags[i].bytes;
    }
    struct node_text *text = mem_zalloc(sizeof(*text) + bytes);
    if (!text) {
        return NULL;
    }
    char *at = text->bytes;
    struct master_text engine = {registration->engine, registration->engine_bytes};
    if (!engine.bytes) {
        engine.data = "";
    }
    text->engine = text_copy(engine, &at).data;
    text->engine_bytes = engine.bytes;
    text->id = text_copy(registration->id, &at);
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        struct master_text address = addresses[i];
        if (!address.bytes) {
            address.data = "";
        }
        text->addresses[i] = text_copy(address, &at);
    }
    text->tag_count = registration->tag_count;
    for (size_t i = 0; i < registration->tag_count; i++) {
        text->tags[i] = registration->tags[i].bytes ? text_copy(registration->tags[i], &at)
                                                    : (struct master_text){"", 0};
    }
    return text;
}

static bool addresses_differ(const struct node_text *a, const struct node_text *b)
{
    for (size_t i = 0; i < ARRAY_COUNT(a->addresses); i++) {
        if (!text_is(a->addresses[i], b->addresses[i])) {
            return true;
        }
    }
    return a->engine_bytes != b->engine_bytes || memcmp(a->engine, b->engine, a->engine_bytes) != 0;
}

/* --------------------------------------------------------------------------------- map --- */

static uint32_t map_home(const struct master *master, struct master_text id)
{
    return (uint32_t)hash_bytes(id.data, id.bytes, master->incarnation) & master->map_mask;
}

/* The record of an id, or NULL. Under the members' lock. */
static struct node *map_find(const struct master *master, struct master_text id)
{
    for (uint32_t at = map_home(master, id);; at = (at + 1) & master->map_mask) {
        if (!master->map[at]) {
            return NULL;
        }
        struct node *node = &master->nodes[master->map[at] - 1];
        if (text_is(node->text->id, id)) {
            return node;
        }
    }
}

static void map_add(struct master *master, const struct node *node)
{
    uint32_t at = map_home(master, node->text->id);
    while (master->map[at]) {
        at = (at + 1) & master->map_mask;
    }
    master->map[at] = (uint16_t)(node_index(master, node) + 1);
}

/* Rare: the map is made again from the records in use. */
static void map_remake(struct master *master)
{
    memset(master->map, 0, (master->map_mask + 1) * sizeof(*master->map));
    for (uint32_t i = 0; i < master->nodes_used; i++) {
        if (master->nodes[i].state != MASTER_NODE_UNKNOWN) {
            map_add(master, &master->nodes[i]);
        }
    }
}

struct node *node_lock_by_id(struct master *master, struct master_text id)
{
    if (!text_is_valid(id, false)) {
        return NULL;
    }
    for (;;) {
        mutex_lock(&master->members_lock);
        struct node *node = map_find(master, id);
        mutex_unlock(&master->members_lock);
        if (!node) {
            return NULL;
        }
        mutex_lock(&node->lock);
        mutex_lock(&master->members_lock);
        bool is_still = map_find(master, id) == node;
        mutex_unlock(&master->members_lock);
        /* A record changes its id only under its own lock. */
        if (is_still) {
            return node;
        }
        mutex_unlock(&node->lock);
    }
}

struct node *node_lock_index(struct master *master, uint32_t index)
{
    struct node *node = &master->nodes[index];
    mutex_lock(&node->lock);
    return node;
}

/* ------------------------------------------------------------------------------ epochs --- */

/* Epochs that are in use. */
static uint32_t epochs_span(const struct epochs *epochs)
{
    uint32_t oldest = atomic_load_explicit(&epochs->oldest, memory_order_relaxed);
    return (epochs->now - oldest) & EPOCH_MASK;
}

static bool epochs_are_used_up(const struct epochs *epochs)
{
    return epochs_span(epochs) >= EPOCH_MASK - 1;
}

bool epochs_next(struct master *master, struct epochs *epochs, bool forget)
{
    uint32_t span = epochs_span(epochs);
    if (epochs_are_used_up(epochs)) {
        atomic_store_explicit(&master->sweep_wanted, true, memory_order_release);
        return false;
    }
    epochs->now = (epochs->now + 1) & EPOCH_MASK;
    if (forget || span >= EPOCH_MASK - 64) {
        /* The second: a node that began thousands of full syncs and finished none. */
        epochs->first = epochs->now;
        atomic_store_explicit(&master->sweep_wanted, true, memory_order_release);
    }
    return true;
}

bool node_forget(struct master *master, struct node *node)
{
    bool are_used_up = epochs_are_used_up(&node->epochs);
    for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
        are_used_up |= epochs_are_used_up(&node->external[tier]);
    }
    if (are_used_up) {
        atomic_store_explicit(&master->sweep_wanted, true, memory_order_release);
        return false;
    }
    (void)epochs_next(master, &node->epochs, true);
    for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
        (void)epochs_next(master, &node->external[tier], true);
    }
    return true;
}

void node_publish_view(struct master *master, struct node *node, bool alive)
{
    uint32_t index = node_index(master, node);
    /* Release: whoever sees the view sees the record's state before it. */
    atomic_store_explicit(&master->views[index],
                          view_of(node->handle, alive, node->epochs.first, node->epochs.now) |
                              (node->is_lost ? VIEW_LOST : 0),
                          memory_order_release);
    for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
        const struct epochs *epochs = &node->external[tier];
        atomic_store_explicit(&master->external_views[index * MASTER_TIERS + tier],
                              view_of(node->handle, alive, epochs->first, epochs->now),
                              memory_order_release);
    }
}

/* Everything that was said of or by the node is out of view. Both locks. */
static void node_switch_off(struct master *master, struct node *node, enum master_node_state state)
{
    node->state = state;
    node->is_lost = false;
    node->is_syncing = false;
    node->wants_sync = true;
    node->has_key_counts = false;
    node->expired_ns = now_ns(master);
    memset(node->keys, 0, sizeof(node->keys));
    put_node_gone(master, node_index(master, node));
    node_publish_view(master, node, false);
    atomic_store_explicit(&master->sweep_wanted, true, memory_order_release);
}

/* ---------------------------------------------------------------------------- register --- */

uint64_t master_expiry_ns(const struct master *master)
{
    return master->options.heartbeat_ttl_sec * master->options.max_missed_heartbeats * NS_PER_S;
}

static bool is_silent(const struct master *master, const struct node *node)
{
    uint64_t last = atomic_load_explicit(&node->last_beat_ns, memory_order_relaxed);
    uint64_t now = now_ns(master);
    return now > last && now - last > master_expiry_ns(master);
}

static enum umbp_status check_registration(const struct master_registration *registration)
{
    const struct master_text texts[] = {registration->node_address, registration->peer_address,
                                        registration->fabric_address};
    if (registration->id.bytes > MASTER_TEXT_BYTES_MAX ||
        registration->tag_count > MASTER_TAGS_MAX ||
        registration->engine_bytes > MASTER_ENGINE_BYTES_MAX) {
        return UMBP_LIMIT;
    }
    if (!text_is_valid(registration->id, false)) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t i = 0; i < ARRAY_COUNT(texts) + registration->tag_count; i++) {
        struct master_text text =
            i < ARRAY_COUNT(texts) ? texts[i] : registration->tags[i - ARRAY_COUNT(texts)];
        if (text.bytes > MASTER_TEXT_BYTES_MAX) {
            return UMBP_LIMIT;
        }
        if (!text_is_valid(text, true)) {
            return UMBP_INVALID_VALUE;
        }
    }
    return UMBP_OK;
}

/* The record for an id that has none: a free one, a new one, or that of the node expired longest.
 * NULL: all are alive. */
static struct node *choose_record(const struct master *master)
{
    struct node *best = NULL;
    for (uint32_t i = 0; i < master->nodes_used; i++) {
        struct node *node = &master->nodes[i];
        if (node->state == MASTER_NODE_UNKNOWN) {
            return node;
        }
        if (node->state == MASTER_NODE_EXPIRED && (!best || node->expired_ns < best->expired_ns)) {
            best = node;
        }
    }
    return master->nodes_used < master->options.nodes_max ? &master->nodes[master->nodes_used]
                                                          : best;
}

static struct node *find_or_choose(const struct master *master, struct master_text id)
{
    struct node *node = map_find(master, id);
    return node ? node : choose_record(master);
}

static void zero_counters(struct node *node)
{
    for (uint32_t i = 0; i < NODE_COUNTS; i++) {
        atomic_store_explicit(&node->counts[i], 0, memory_order_relaxed);
    }
}

/* The record becomes this node's, in a new life. Both locks. False: no epoch is free yet. */
static bool begin_life(struct master *master, struct node *node, struct node_text *text,
                       bool is_other, bool is_public)
{
    if (!node_forget(master, node)) {
        return false;
    }
    bool was_free = node->state == MASTER_NODE_UNKNOWN;
    bool was_known = !was_free && !is_other;
    if (is_other) {
        zero_counters(node);
        memset(node->capacities, 0, sizeof(node->capacities));
    }
    mem_free(node->text);
    node->text = text;
    node->state = MASTER_NODE_ALIVE;
    node->acked_sequence = 0;
    node->is_syncing = false;
    node->has_done_sync = false;
    node->is_incomplete = false;
    node->has_key_counts = false;
    /* A public node that is new begins with nothing; ours always list what they hold. */
    node->wants_sync = !is_public || was_known;
    memset(node->keys, 0, sizeof(node->keys));
    if (was_free) {
        map_add(master, node);
    } else if (is_other) {
        map_remake(master);
    }
    return true;
}

static void renew_handle(struct master *master, struct node *node)
{
    const uint32_t limit = UINT32_MAX >> HANDLE_INDEX_BITS;
    node->generation = node->generation == limit ? 1 : node->generation + 1;
    node->handle = node->generation << HANDLE_INDEX_BITS | node_index(master, node);
}

static void take_registration(struct master *master, struct node *node,
                              const struct master_registration *registration)
{
    node->incarnation = registration->incarnation;
    node->wants_keys = registration->wants_keys;
    node->is_lost = false;
    if (registration->has_capacities) {
        memcpy(node->capacities, registration->capacities, sizeof(node->capacities));
    }
    atomic_store_explicit(&node->last_beat_ns, now_ns(master), memory_order_relaxed);
    put_node_here(master, node);
    node_publish_view(master, node, true);
}

/* Under both locks, with a record that is the id's or may become it. Takes `*text` when it uses it.
 */
static enum umbp_status register_locked(struct master *master, struct node *node,
                                        const struct master_registration *registration,
                                        struct node_text **text)
{
    bool is_mine = node->state != MASTER_NODE_UNKNOWN && text_is(node->text->id, registration->id);
    bool is_alive = is_mine && node->state == MASTER_NODE_ALIVE;
    bool is_retry =
        is_alive && registration->incarnation && registration->incarnation == node->incarnation;

    if (is_alive && !is_retry && !node->is_lost && !is_silent(master, node)) {
        count(master, COUNT_REFUSED_DOUBLE, 1);
        return UMBP_BUSY;
    }
    if (node_index(master, node) == master->nodes_used) {
        master->nodes_used++;
    }
    if (is_retry) {
        bool is_moved = addresses_differ(node->text, *text);
        struct node_text *old = node->text;
        node->text = *text;
        *text = old;
        if (is_moved) {
            renew_handle(master, node);
        }
    } else {
        struct node_text *mine = *text;
        if (!begin_life(master, node, mine, !is_mine, !registration->incarnation)) {
            return UMBP_LIMIT;
        }
        *text = NULL;
        renew_handle(master, node);
    }
    take_registration(master, node, registration);
    return UMBP_OK;
}

static uint64_t interval_ms(const struct master *master)
{
    return u64_max(1, master->options.heartbeat_ttl_sec * 1000 /
                          master->options.heartbeat_interval_divisor);
}

static void tell_refusal(struct master *master, const struct master_registration *registration,
                         enum umbp_status status)
{
    uint64_t held_back;
    if (log_limit_pass(&master->refusals, 1000, &held_back)) {
        log_warn("node_refused", "id=\"%.*s\" incarnation=%llu reason=\"%s\" not_shown=%llu",
                 (int)registration->id.bytes, registration->id.data,
                 (unsigned long long)registration->incarnation,
                 status == UMBP_BUSY ? "a live node has this id" : umbp_status_text(status),
                 (unsigned long long)held_back);
    }
}

enum umbp_status master_register(struct master *master,
                                 const struct master_registration *registration,
                                 struct master_registered *registered_out)
{
    enum umbp_status status = check_registration(registration);
    if (status != UMBP_OK) {
        return status;
    }
    struct node_text *text = text_of(registration);
    if (!text) {
        return UMBP_NO_MEMORY;
    }
    for (;;) {
        mutex_lock(&master->members_lock);
        struct node *node = find_or_choose(master, registration->id);
        mutex_unlock(&master->members_lock);
        if (!node) {
            status = UMBP_LIMIT;
            break;
        }
        mutex_lock(&node->lock);
        mutex_lock(&master->members_lock);
        bool is_still = find_or_choose(master, registration->id) == node;
        if (is_still) {
            status = register_locked(master, node, registration, &text);
        }
        if (is_still && status == UMBP_OK) {
            *registered_out = (struct master_registered){
                .node = node->handle,
                .heartbeat_interval_ms = interval_ms(master),
                .acked_sequence = node->acked_sequence,
                .wants_full_sync = node->wants_sync,
            };
        }
        mutex_unlock(&master->members_lock);
        mutex_unlock(&node->lock);
        if (is_still) {
            break;
        }
    }
    mem_free(text);
    if (status == UMBP_OK) {
        log_info("node_registered", "id=\"%.*s\" node=%u incarnation=%llu",
                 (int)registration->id.bytes, registration->id.data, registered_out->node,
                 (unsigned long long)registration->incarnation);
    } else {
        tell_refusal(master, registration, status);
    }
    return status;
}

enum umbp_status master_unregister(struct master *master, struct master_text id,
                                   uint64_t incarnation)
{
    enum umbp_status status = UMBP_OK;
    struct node *node = node_lock_by_id(master, id);
    if (!node) {
        return UMBP_OK;
    }
    mutex_lock(&master->members_lock);
    if (incarnation && node->incarnation && incarnation != node->incarnation) {
        status = UMBP_STALE;
    } else {
        node_switch_off(master, node, MASTER_NODE_UNKNOWN);
        map_remake(master);
    }
    mutex_unlock(&master->members_lock);
    mutex_unlock(&node->lock);
    if (status == UMBP_OK) {
        log_info("node_unregistered", "id=\"%.*s\"", (int)id.bytes, id.data);
    }
    return status;
}

void master_node_lost(struct master *master, struct master_text id, uint64_t incarnation)
{
    if (!text_is_valid(id, false)) {
        return;
    }
    mutex_lock(&master->members_lock);
    struct node *node = map_find(master, id);
    if (node && node->state == MASTER_NODE_ALIVE && node->incarnation == incarnation) {
        node->is_lost = true;
        /* Not by node_publish_view: a beat may be holding the node's lock for long, and the view
         * changes under the members' lock only. */
        atomic_fetch_or_explicit(&master->views[node_index(master, node)], VIEW_LOST,
                                 memory_order_release);
        put_node_gone(master, node_index(master, node));
    }
    mutex_unlock(&master->members_lock);
}

/* ------------------------------------------------------------------------------ expiry --- */

/* Both locks. True when it expired. */
static bool expire_locked(struct master *master, struct node *node)
{
    if (node->state != MASTER_NODE_ALIVE || !is_silent(master, node)) {
        return false;
    }
    node_switch_off(master, node, MASTER_NODE_EXPIRED);
    count(master, COUNT_EXPIRED, 1);
    return true;
}

static void forget_locked(struct master *master, struct node *node)
{
    uint64_t now = now_ns(master);
    if (node->state == MASTER_NODE_EXPIRED &&
        now - node->expired_ns > master->options.forget_after_sec * NS_PER_S) {
        node->state = MASTER_NODE_UNKNOWN;
        map_remake(master);
    }
}

void node_expire_due(struct master *master)
{
    mutex_lock(&master->members_lock);
    uint32_t used = master->nodes_used;
    mutex_unlock(&master->members_lock);
    for (uint32_t i = 0; i < used; i++) {
        struct node *node = &master->nodes[i];
        char id[MASTER_TEXT_BYTES_MAX + 1];
        /* Without the locks: it is looked at again with them. */
        if (!is_silent(master, node)) {
            continue;
        }
        mutex_lock(&node->lock);
        mutex_lock(&master->members_lock);
        bool has_expired = expire_locked(master, node);
        if (has_expired) {
            snprintf(id, sizeof(id), "%.*s", (int)node->text->id.bytes, node->text->id.data);
        }
        forget_locked(master, node);
        mutex_unlock(&master->members_lock);
        mutex_unlock(&node->lock);
        if (has_expired) {
            log_warn("node_expired", "id=\"%s\" silent_s=%llu", id,
                     (unsigned long long)(master_expiry_ns(master) / NS_PER_S));
        }
    }
}

/* ------------------------------------------------------------------------------- reads --- */

static void text_out(struct master_text text, char *out)
{
    memcpy(out, text.data, text.bytes);
    out[text.bytes] = '\0';
}

static void addresses_out(const struct node *node, struct master_addresses *out)
{
    out->node = node->handle;
    out->incarnation = node->incarnation;
    text_out(node->text->id, out->id);
    text_out(node->text->addresses[0], out->node_address);
    text_out(node->text->addresses[1], out->peer_address);
    text_out(node->text->addresses[2], out->fabric_address);
}

uint32_t master_node_find(struct master *master, struct master_text id)
{
    uint32_t handle = MASTER_NODE_NONE;
    if (!text_is_valid(id, false)) {
        return handle;
    }
    mutex_lock(&master->members_lock);
    const struct node *node = map_find(master, id);
    if (node && node->state == MASTER_NODE_ALIVE) {
        handle = node->handle;
    }
    mutex_unlock(&master->members_lock);
    return handle;
}

/* Under the members' lock. */
static const struct node *living(const struct master *master, uint32_t handle)
{
    const struct node *node = &master->nodes[handle_index(handle)];
    return handle && handle_index(handle) < master->nodes_used && node->handle == handle &&
                   node->state == MASTER_NODE_ALIVE
               ? node
               : NULL;
}

enum umbp_status master_node_addresses(struct master *master, uint32_t handle,
                                       struct master_addresses *out)
{
    enum umbp_status status = UMBP_STALE;
    mutex_lock(&master->members_lock);
    const struct node *node = living(master, handle);
    if (node) {
        addresses_out(node, out);
        status = UMBP_OK;
    }
    mutex_unlock(&master->members_lock);
    return status;
}

size_t master_node_engine(struct master *master, uint32_t handle, void *engine_out, size_t capacity)
{
    size_t bytes = 0;
    mutex_lock(&master->members_lock);
    const struct node *node = living(master, handle);
    if (node) {
        bytes = node->text->engine_bytes;
        if (bytes && bytes <= capacity) {
            memcpy(engine_out, node->text->engine, bytes);
        }
    }
    mutex_unlock(&master->members_lock);
    return bytes;
}

size_t master_nodes(struct master *master, uint32_t *nodes_out, size_t capacity)
{
    size_t found = 0;
    mutex_lock(&master->members_lock);
    for (uint32_t i = 0; i < master->nodes_used; i++) {
        if (master->nodes[i].state == MASTER_NODE_ALIVE) {
            if (found < capacity) {
                nodes_out[found] = master->nodes[i].handle;
            }
            found++;
        }
    }
    mutex_unlock(&master->members_lock);
    return found;
}

enum umbp_status master_node_info(struct master *master, struct master_text id,
                                  struct master_node_info *out)
{
    struct node *node = node_lock_by_id(master, id);
    if (!node) {
        return UMBP_NOT_FOUND;
    }
    memset(out, 0, sizeof(*out));
    mutex_lock(&master->members_lock);
    addresses_out(node, &out->addresses);
    out->state = node->state;
    uint64_t last = atomic_load_explicit(&node->last_beat_ns, memory_order_relaxed);
    out->silent_ms = (u64_max(now_ns(master), last) - last) / NS_PER_MS;
    memcpy(out->capacities, node->capacities, sizeof(out->capacities));
    out->tag_count = (uint32_t)node->text->tag_count;
    for (size_t i = 0; i < node->text->tag_count; i++) {
        text_out(node->text->tags[i], out->tags[i]);
    }
    mutex_unlock(&master->members_lock);
    out->is_syncing = node->is_syncing || node->wants_sync;
    out->acked_sequence = node->acked_sequence;
    memcpy(out->keys, node->keys, sizeof(out->keys));
    mutex_unlock(&node->lock);
    return UMBP_OK;
}
