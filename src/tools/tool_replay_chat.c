/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The generated workload: a multi-turn chat service (docs/replay.md says the same for users).
 *
 *   sessions   begin as a Poisson process, one in ARRIVAL_US on average
 *   system     each session takes one of SYSTEM_PROMPTS system prompts, by Zipf's law (exponent 1),
 *              of 2 to 12 blocks each; its blocks are shared by all sessions that took it
 *   turns      a session has a geometric number of turns, TURNS on average. A turn's prompt is all
 *              that was said so far, the user's new blocks (geometric; now and then a document of 8
 *              to 64 blocks), and a last block that is not full, so that it is never seen again.
 *   answer     the model's answer adds blocks (geometric) to what was said so far
 *   pauses     between turns: exponential, THINK_US on average, one in ten ten times as long
 *   end        after the last turn, or when the prompt would grow beyond PROMPT_BLOCKS_MAX
 *
 * Only single multiplications, additions and comparisons of IEEE doubles are used, whose results go
 * into integers (so that nothing can be fused), and no library function of the platform: a seed
 * gives the same load everywhere.
 */
#include "tools/tool_replay.h"

#define ARRIVAL_US 1500e3
#define THINK_US 40000e3
#define LONG_PAUSE_SHARE 0.1
#define LONG_PAUSE_FACTOR 10u
#define TURNS 5.0
#define USER_BLOCKS 2.0
#define ANSWER_BLOCKS 2.0
#define DOCUMENT_SHARE 0.12
#define DOCUMENT_BLOCKS_LEAST 8u
#define DOCUMENT_BLOCKS_MOST 64u
#define SYSTEM_PROMPTS 64u
#define SYSTEM_BLOCKS_LEAST 2u
#define SYSTEM_BLOCKS_MOST 12u
#define PROMPT_BLOCKS_MAX 512u
#define SESSIONS_MAX 65536u /* at once; with these rates some hundreds are */

struct session {
    uint64_t next_us;
    uint64_t number; /* breaks ties */
    uint32_t block_count;
    uint64_t blocks[PROMPT_BLOCKS_MAX];
};

struct chat {
    struct rng rng;
    uint64_t next_block;
    uint64_t next_session;
    uint64_t arrival_us;
    uint64_t system_first[SYSTEM_PROMPTS]; /* block ids; consecutive */
    uint32_t system_blocks[SYSTEM_PROMPTS];
    double system_weight[SYSTEM_PROMPTS]; /* cumulative */
    /* A binary heap of the sessions that will be back, the next one first. */
    struct session **heap;
    size_t heap_count;
    size_t heap_capacity;
};

/* ------------------------------------------------------------------------- random ------- */

/* Exponential with mean 1, by comparisons alone (von Neumann 1951). */
static double draw_exponential(struct rng *rng)
{
    for (double whole = 0;; whole += 1) {
        double first = rng_unit(rng);
        double last = first;
        unsigned run = 1;
        for (;;) {
            double next = rng_unit(rng);
            if (next > last) {
                break;
            }
            last = next;
            run++;
        }
        if (run % 2 == 1) {
            return whole + first;
        }
    }
}

/* Exponential with this mean. */
static uint64_t draw_us(struct rng *rng, double mean_us)
{
    return (uint64_t)(draw_exponential(rng) * mean_us);
}

/* 1, 2, ...: geometric with this mean. */
static uint32_t draw_geometric(struct rng *rng, double mean)
{
    uint32_t count = 1;
    while (count < PROMPT_BLOCKS_MAX && rng_unit(rng) * mean > 1.0) {
        count++;
    }
    return count;
}

static uint32_t draw_between(struct rng *rng, uint32_t least, uint32_t most)
{
    return least + (uint32_t)rng_below(rng, most - least + 1);
}

static size_t draw_system(struct chat *chat)
{
    double at = rng_unit(&chat->rng) * chat->system_weight[SYSTEM_PROMPTS - 1];
    size_t index = 0;
    while (index + 1 < SYSTEM_PROMPTS && chat->system_weight[index] <= at) {
        index++;
    }
    return index;
}

/* --------------------------------------------------------------------------- heap ------- */

static bool is_before(const struct session *a, const struct session *b)
{
    return a->next_us < b->next_us || (a->next_us == b->next_us && a->number < b->number);
}

static bool heap_push(struct chat *chat, struct session *session)
{
    if (chat->heap_count == chat->heap_capacity) {
        size_t capacity = chat->heap_capacity == 0 ? 256 : chat->heap_capacity * 2;
        void *grown = capacity > SESSIONS_MAX
                          ? NULL
                          : mem_realloc(chat->heap, capacity * sizeof(struct session *));
        if (grown == NULL) {
            return false;
        }
        chat->heap = grown;
        chat->heap_capacity = capacity;
    }
    size_t at = chat->heap_count++;
    while (at > 0 && is_before(session, chat->heap[(at - 1) / 2])) {
        chat->heap[at] = chat->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    chat->heap[at] = session;
    return true;
}

static struct session *heap_pop(struct chat *chat)
{
    struct session *first = chat->heap[0];
    struct session *last = chat->heap[--chat->heap_count];
    size_t at = 0;
    for (size_t child; (child = at * 2 + 1) < chat->heap_count; at = child) {
        if (child + 1 < chat->heap_count && is_before(chat->heap[child + 1], chat->heap[child])) {
            child++;
        }
        if (!is_before(chat->heap[child], last)) {
            break;
        }
        chat->heap[at] = chat->heap[child];
    }
    chat->heap[at] = last;
    return first;
}

/* ----------------------------------------------------------------------- sessions ------- */

static void chat_init(struct chat *chat, uint64_t seed)
{
    *chat = (struct chat){0};
    rng_init(&chat->rng, seed);
    double sum = 0;
    for (size_t i = 0; i < SYSTEM_PROMPTS; i++) {
        chat->system_first[i] = chat->next_block;
        chat->system_blocks[i] = draw_between(&chat->rng, SYSTEM_BLOCKS_LEAST, SYSTEM_BLOCKS_MOST);
        chat->next_block += chat->system_blocks[i];
        sum += 1.0 / (double)(i + 1);
        chat->system_weight[i] = sum;
    }
    chat->arrival_us = draw_us(&chat->rng, ARRIVAL_US);
}

static void chat_fini(struct chat *chat)
{
    for (size_t i = 0; i < chat->heap_count; i++) {
        mem_free(chat->heap[i]);
    }
    mem_free(chat->heap);
}

/* False when they don't fit any more. */
static bool say(struct chat *chat, struct session *session, uint32_t count)
{
    if (session->block_count + count >= PROMPT_BLOCKS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        session->blocks[session->block_count++] = chat->next_block++;
    }
    return true;
}

static struct session *session_begin(struct chat *chat)
{
    struct session *session = mem_alloc(sizeof *session);
    if (session == NULL) {
        return NULL;
    }
    size_t system = draw_system(chat);
    session->next_us = chat->arrival_us;
    session->number = chat->next_session++;
    session->block_count = chat->system_blocks[system];
    for (uint32_t i = 0; i < session->block_count; i++) {
        session->blocks[i] = chat->system_first[system] + i;
    }
    chat->arrival_us += draw_us(&chat->rng, ARRIVAL_US);
    return session;
}

/* One turn: the request is added to the load. *again_out: the session will be back. */
static bool session_turn(struct chat *chat, struct session *session, struct replay_load *load,
                         bool *again_out)
{
    struct rng *rng = &chat->rng;
    uint32_t user = draw_geometric(rng, USER_BLOCKS);
    if (rng_unit(rng) < DOCUMENT_SHARE) {
        user += draw_between(rng, DOCUMENT_BLOCKS_LEAST, DOCUMENT_BLOCKS_MOST);
    }
    *again_out = false;
    if (!say(chat, session, user)) {
        return true; /* the conversation is too long; it ends without this turn */
    }
    session->blocks[session->block_count] = chat->next_block++; /* the one that is not full */
    if (!replay_load_add(load, session->next_us / 1000, session->blocks,
                         session->block_count + 1)) {
        return false;
    }
    uint64_t pause_us = draw_us(rng, THINK_US);
    if (rng_unit(rng) < LONG_PAUSE_SHARE) {
        pause_us *= LONG_PAUSE_FACTOR;
    }
    session->next_us += pause_us;
    *again_out =
        say(chat, session, draw_geometric(rng, ANSWER_BLOCKS)) && rng_unit(rng) * TURNS > 1.0;
    return true;
}

enum umbp_status replay_load_chat(uint64_t seed, uint64_t limit, struct replay_load *load_out)
{
    struct replay_load load = {0};
    struct chat chat;
    bool is_good = true;

    chat_init(&chat, seed);
    while (is_good && load.request_count < limit) {
        bool again = false;
        bool is_new = chat.heap_count == 0 || chat.arrival_us < chat.heap[0]->next_us;
        struct session *session = is_new ? session_begin(&chat) : heap_pop(&chat);
        is_good = session != NULL && session_turn(&chat, session, &load, &again);
        if (is_good && again) {
            is_good = heap_push(&chat, session);
            session = is_good ? NULL : session;
        }
        mem_free(session);
    }
    chat_fini(&chat);
    if (!is_good) {
        replay_load_fini(&load);
        return UMBP_NO_MEMORY;
    }
    *load_out = load;
    return UMBP_OK;
}
