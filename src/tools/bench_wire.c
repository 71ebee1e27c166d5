/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The far process has a thread of its endpoint for our way, and a main thread that takes orders for
 * the two other ways from a socket pair: {what, bytes, rounds}, all it ever reads.
 */
#include "tools/bench_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "fabric/fabric.h"

#define PIECES_MAX 256u
#define BARE_BUFFER ((size_t)68 << 10)
#define BARE_BUFFERS 8u
#define WAIT_NS (30 * NS_PER_S)

enum order_kind {
    ORDER_STREAM = 1,
    ORDER_PING
};

struct order {
    uint64_t kind;
    uint64_t bytes;
    uint64_t rounds;
};

/* What the far side does for one call. */
struct wish {
    uint64_t what; /* 0: answer `bytes`; 1: write; 2: read */
    uint64_t bytes;
    uint64_t count;
    uint64_t stride;
    uint64_t where;
    struct fabric_key key;
};

/* One end of bare libfabric. */
struct bare {
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_pep *pep;
    struct fid_ep *ep;
    char *memory;
    uint64_t spin_ns;
};

/* Shared by both processes. */
struct board {
    char address[FABRIC_ADDRESS_MAX];
    uint16_t raw_port;
    uint16_t bare_port;
    uint64_t private_memory; /* the far side's, where they lie there */
    uint64_t shared_memory;
    _Atomic int ready; /* -1: it could not */
};

struct bench_wire {
    struct board *board;
    char *shared; /* memfd memory that both map */
    int shared_fd;
    char *memory;
    struct fabric *fabric;
    struct fabric_region *region;
    fabric_peer peer;
    uint64_t epoch;
    struct bare bare;
    int orders;
    int raw;
    int raw_listener;
    pid_t far;
    uint32_t spin_us;
    bool is_far;
};

static uint64_t now_ns(void) { return clock_now_ns(clock_monotonic()); }

static bool send_all(int fd, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t part = send(fd, at, bytes, MSG_NOSIGNAL);
        if (part <= 0) {
            return false;
        }
        at += part;
        bytes -= (size_t)part;
    }
    return true;
}

static bool receive_all(int fd, void *data, size_t bytes)
{
    char *at = data;
    while (bytes > 0) {
        ssize_t part = recv(fd, at, bytes, 0);
        if (part <= 0) {
            return false;
        }
        at += part;
        bytes -= (size_t)part;
    }
    return true;
}

/* ----------------------------------------------------------------------------- bare libfabric - */

static bool bare_open(struct bare *bare, uint16_t port, uint32_t spin_us)
{
    struct fi_info *hints = fi_allocinfo();
    char text[8];
    if (!hints) {
        return false;
    }
    bare->spin_ns = spin_us * NS_PER_US;
    snprintf(text, sizeof(text), "%u", port);
    hints->ep_attr->type = FI_EP_MSG;
    hints->caps = FI_MSG;
    hints->addr_format = FI_SOCKADDR_IN;
    hints->fabric_attr->prov_name = (char *)(uintptr_t) "tcp";
    int error =
        fi_getinfo(FI_VERSION(1, 17), "127.0.0.1", text, port ? 0 : FI_SOURCE, hints, &bare->info);
    hints->fabric_attr->prov_name = NULL;
    fi_freeinfo(hints);
    struct fi_eq_attr eq = {.size = 16, .wait_obj = FI_WAIT_FD};
    struct fi_cq_attr cq = {.size = 64, .format = FI_CQ_FORMAT_DATA, .wait_obj = FI_WAIT_FD};
    bare->memory = mem_map(BARE_BUFFER * (BARE_BUFFERS + 1));
    return !error && bare->memory && !fi_fabric(bare->info->fabric_attr, &bare->fabric, NULL) &&
           !fi_eq_open(bare->fabric, &eq, &bare->eq, NULL) &&
           !fi_domain(bare->fabric, bare->info, &bare->domain, NULL) &&
           !fi_cq_open(bare->domain, &cq, &bare->cq, NULL);
}

static bool bare_endpoint(struct bare *bare, struct fi_info *info)
{
    if (fi_endpoint(bare->domain, info, &bare->ep, NULL) ||
        fi_ep_bind(bare->ep, &bare->eq->fid, 0) ||
        fi_ep_bind(bare->ep, &bare->cq->fid, FI_TRANSMIT | FI_RECV) || fi_enable(bare->ep)) {
        return false;
    }
    for (uintptr_t i = 0; i < BARE_BUFFERS; i++) {
        if (fi_recv(bare->ep, bare->memory + i * BARE_BUFFER, BARE_BUFFER, NULL, 0, (void *)i)) {
            return false;
        }
    }
    return true;
}

/* Until it is connected. */
static bool bare_events(struct bare *bare)
{
    uint64_t until = now_ns() + WAIT_NS;
    while (now_ns() < until) {
        _Alignas(16) char buffer[1024];
        uint32_t event = 0;
        ssize_t bytes = fi_eq_read(bare->eq, &event, buffer, sizeof(buffer), 0);
        struct fi_eq_cm_entry *entry = (void *)buffer;
        if (bytes == -FI_EAGAIN) {
            sched_yield();
        } else if (bytes < 0) {
            return false;
        } else if (event == FI_CONNREQ) {
            if (!bare_endpoint(bare, entry->info) || fi_accept(bare->ep, NULL, 0)) {
                return false;
            }
            fi_freeinfo(entry->info);
        } else {
            return event == FI_CONNECTED;
        }
    }
    return false;
}

/* The next message, waited for the way an endpoint waits. */
static bool bare_receive(struct bare *bare)
{
    uint64_t quiet = now_ns();
    for (;;) {
        struct fi_cq_data_entry entry;
        ssize_t count = fi_cq_read(bare->cq, &entry, 1);
        if (count == 1 && entry.flags & FI_RECV) {
            uintptr_t i = (uintptr_t)entry.op_context;
            return fi_recv(bare->ep, bare->memory + i * BARE_BUFFER, BARE_BUFFER, NULL, 0,
                           (void *)i) == 0;
        }
        if (count == 1) {
            continue;
        }
        if (count != -FI_EAGAIN || now_ns() - quiet > WAIT_NS) {
            return false;
        }
        struct fid *fid = &bare->cq->fid;
        if (now_ns() - quiet >= bare->spin_ns && fi_trywait(bare->fabric, &fid, 1) == 0) {
            int fd = -1;
            (void)fi_control(fid, FI_GETWAIT, &fd);
            struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
            (void)poll(&poll_fd, 1, 1000);
        }
    }
}

static bool bare_send(struct bare *bare, size_t bytes)
{
    return fi_send(bare->ep, bare->memory + BARE_BUFFERS * BARE_BUFFER, bytes, NULL, 0, NULL) == 0;
}

static void bare_close(struct bare *bare)
{
    struct fid *fids[] = {
        bare->ep ? &bare->ep->fid : NULL, bare->pep ? &bare->pep->fid : NULL,
        bare->cq ? &bare->cq->fid : NULL, bare->domain ? &bare->domain->fid : NULL,
        bare->eq ? &bare->eq->fid : NULL, bare->fabric ? &bare->fabric->fid : NULL,
    };
    for (size_t i = 0; i < ARRAY_COUNT(fids); i++) {
        if (fids[i]) {
            fi_close(fids[i]);
        }
    }
    if (bare->info) {
        fi_freeinfo(bare->info);
    }
    if (bare->memory) {
        mem_unmap(bare->memory, BARE_BUFFER * (BARE_BUFFERS + 1));
    }
}

/* ------------------------------------------------------------------------------ the far side -- */

struct serving {
    struct bench_wire *wire;
    struct fabric_request *request;
    struct fabric_piece pieces[PIECES_MAX];
};

static void served(void *context, enum umbp_status status)
{
    struct serving *serving = context;
    fabric_answer(serving->wire->fabric, serving->request, status, NULL, 0);
    mem_free(serving);
}

static void serve(void *context, struct fabric_request *request)
{
    struct bench_wire *wire = context;
    struct wish wish;
    enum umbp_status status = UMBP_NO_MEMORY;
    if (request->bytes < sizeof(wish)) {
        fabric_answer(wire->fabric, request, UMBP_INVALID_VALUE, NULL, 0);
        return;
    }
    memcpy(&wish, request->data, sizeof(wish));
    if (wish.what == 0) {
        struct iovec part = {wire->memory, size_min(wish.bytes, FABRIC_EAGER_BYTES)};
        fabric_answer(wire->fabric, request, UMBP_OK, &part, 1);
        return;
    }
    struct serving *serving = mem_alloc(sizeof(*serving));
    if (serving) {
        serving->wire = wire;
        serving->request = request;
        for (size_t i = 0; i < wish.count && i < PIECES_MAX; i++) {
            serving->pieces[i] = (struct fabric_piece){
                .local = wire->memory + i * wish.stride,
                .region = wire->region,
                .remote = wish.where + i * wish.stride,
                .key = wish.key,
                .bytes = wish.bytes,
            };
        }
        status = (wish.what == 1 ? fabric_write
                                 : fabric_read)(wire->fabric, request->peer, serving->pieces,
                                                size_min(wish.count, PIECES_MAX), served, serving);
    }
    if (status) {
        mem_free(serving);
        fabric_answer(wire->fabric, request, status, NULL, 0);
    }
}

static bool open_fabric(struct bench_wire *wire)
{
    struct fabric_options options = {
        .struct_bytes = sizeof(options),
        .provider = "tcp",
        .listen = wire->is_far ? "127.0.0.1:0" : NULL,
        .spin_us = wire->spin_us ? wire->spin_us : UINT32_MAX,
    };
    struct fabric_handlers handlers = {.request = serve, .context = wire};
    struct fabric_region *shared;
    wire->memory = mem_map_huge(BENCH_WIRE_MEMORY);
    if (!wire->memory || fabric_open(&options, &handlers, NULL, 0, &wire->fabric)) {
        return false;
    }
    memset(wire->memory, wire->is_far ? 2 : 1, BENCH_WIRE_MEMORY);
    return fabric_region_create(wire->fabric, wire->memory, BENCH_WIRE_MEMORY,
                                FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                &wire->region) == UMBP_OK &&
           (!wire->is_far ||
            fabric_region_create(wire->fabric, wire->shared, BENCH_WIRE_MEMORY, FABRIC_REMOTE_READ,
                                 wire->shared_fd, 0, &shared) == UMBP_OK);
}

static bool obey(struct bench_wire *wire, const struct order *order, int raw)
{
    char byte = 0;
    if (order->kind == ORDER_STREAM) {
        size_t left = order->bytes * order->rounds;
        size_t at = 0;
        while (left > 0) {
            size_t part = size_min(order->bytes, left);
            if (!receive_all(raw, wire->memory + at, part)) {
                return false;
            }
            left -= part;
            at = at + 2 * part <= BENCH_WIRE_MEMORY ? at + part : 0;
        }
        return send_all(raw, &byte, 1);
    }
    for (uint64_t i = 0; i < order->rounds; i++) {
        if (!bare_receive(&wire->bare) || !bare_send(&wire->bare, order->bytes)) {
            return false;
        }
    }
    return true;
}

static bool far_prepare(struct bench_wire *wire)
{
    struct sockaddr_in name = {0};
    size_t bytes = sizeof(name);
    struct bare *bare = &wire->bare;
    if (!open_fabric(wire) || !bare_open(bare, 0, wire->spin_us) ||
        fi_passive_ep(bare->fabric, bare->info, &bare->pep, NULL) ||
        fi_pep_bind(bare->pep, &bare->eq->fid, 0) || fi_listen(bare->pep) ||
        fi_getname(&bare->pep->fid, &name, &bytes)) {
        return false;
    }
    memcpy(wire->board->address, fabric_address(wire->fabric), FABRIC_ADDRESS_MAX);
    wire->board->bare_port = ntohs(name.sin_port);
    wire->board->private_memory = (uint64_t)(uintptr_t)wire->memory;
    wire->board->shared_memory = (uint64_t)(uintptr_t)wire->shared;
    return true;
}

static void far_run(struct bench_wire *wire)
{
    struct order order;
    wire->is_far = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool ready = far_prepare(wire);
    atomic_store(&wire->board->ready, ready ? 1 : -1);
    int raw = ready ? accept(wire->raw_listener, NULL, NULL) : -1;
    if (raw >= 0 && bare_events(&wire->bare)) {
        int one = 1;
        setsockopt(raw, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        while (receive_all(wire->orders, &order, sizeof(order)) && obey(wire, &order, raw)) {
        }
    }
    _exit(0);
}

/* ----------------------------------------------------------------------------- the near side -- */

struct waiting {
    struct bench_wire *wire;
    struct fabric_latch latch;
    enum umbp_status status;
};

static void on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct waiting *waiting = context;
    waiting->status = status;
    waiting->wire->peer = peer;
    fabric_latch_down(waiting->wire->fabric, &waiting->latch);
}

static void on_reply(void *context, const struct fabric_reply *reply)
{
    struct waiting *waiting = context;
    waiting->status = reply->status;
    waiting->wire->epoch = reply->epoch;
    fabric_latch_down(waiting->wire->fabric, &waiting->latch);
}

static bool near_connect(struct bench_wire *wire)
{
    struct waiting waiting = {.wire = wire};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = wire->board->raw_port};
    int one = 1;
    wire->raw = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (wire->raw < 0 || connect(wire->raw, (struct sockaddr *)&to, sizeof(to)) != 0 ||
        setsockopt(wire->raw, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
        !bare_open(&wire->bare, wire->board->bare_port, wire->spin_us) ||
        !bare_endpoint(&wire->bare, wire->bare.info) ||
        fi_connect(wire->bare.ep, wire->bare.info->dest_addr, NULL, 0) ||
        !bare_events(&wire->bare) || !open_fabric(wire)) {
        return false;
    }
    fabric_latch_init(&waiting.latch, 1);
    return fabric_connect(wire->fabric, wire->board->address, fabric_now_ns(wire->fabric) + WAIT_NS,
                          on_connected, &waiting) == UMBP_OK &&
           fabric_wait(wire->fabric, &waiting.latch, fabric_now_ns(wire->fabric) + WAIT_NS) ==
               UMBP_OK &&
           waiting.status == UMBP_OK;
}

static bool make_shared(struct bench_wire *wire)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(name);
    wire->board =
        mmap(NULL, sizeof(*wire->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    wire->shared_fd = memfd_create("umbp-bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (wire->board == MAP_FAILED || wire->shared_fd < 0 ||
        ftruncate(wire->shared_fd, (off_t)BENCH_WIRE_MEMORY) != 0 ||
        fcntl(wire->shared_fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
        return false;
    }
    wire->shared =
        mmap(NULL, BENCH_WIRE_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, wire->shared_fd, 0);
    if (wire->shared == MAP_FAILED) {
        wire->shared = NULL;
        return false;
    }
    memset(wire->shared, 3, BENCH_WIRE_MEMORY);
    wire->raw_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (wire->raw_listener < 0 ||
        bind(wire->raw_listener, (struct sockaddr *)&name, sizeof(name)) != 0 ||
        listen(wire->raw_listener, 1) != 0 ||
        getsockname(wire->raw_listener, (struct sockaddr *)&name, &bytes) != 0) {
        return false;
    }
    wire->board->raw_port = name.sin_port;
    return true;
}

static bool make_all(struct bench_wire *wire)
{
    int pair[2];
    if (!make_shared(wire) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return false;
    }
    wire->far = fork();
    if (wire->far == 0) {
        close(pair[0]);
        wire->orders = pair[1];
        far_run(wire);
    }
    close(pair[1]);
    wire->orders = pair[0];
    uint64_t until = now_ns() + WAIT_NS;
    while (wire->far > 0 && atomic_load(&wire->board->ready) == 0 && now_ns() < until) {
        struct timespec pause = {0, 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    return wire->far > 0 && atomic_load(&wire->board->ready) == 1 && near_connect(wire);
}

enum umbp_status bench_wire_create(uint32_t spin_us, struct bench_wire **wire_out)
{
    struct bench_wire *wire = mem_zalloc(sizeof(*wire));
    if (!wire) {
        return UMBP_NO_MEMORY;
    }
    wire->spin_us = spin_us;
    wire->orders = wire->raw = wire->raw_listener = wire->shared_fd = -1;
    if (!make_all(wire)) {
        bench_wire_destroy(wire);
        return UMBP_IO;
    }
    *wire_out = wire;
    return UMBP_OK;
}

void bench_wire_destroy(struct bench_wire *wire)
{
    if (!wire) {
        return;
    }
    fabric_destroy(wire->fabric);
    bare_close(&wire->bare);
    int fds[] = {wire->orders, wire->raw, wire->raw_listener, wire->shared_fd};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (wire->far > 0) {
        kill(wire->far, SIGKILL);
        waitpid(wire->far, NULL, 0);
    }
    if (wire->memory) {
        mem_unmap(wire->memory, BENCH_WIRE_MEMORY);
    }
    if (wire->shared) {
        munmap(wire->shared, BENCH_WIRE_MEMORY);
    }
    if (wire->board && wire->board != MAP_FAILED) {
        munmap(wire->board, sizeof(*wire->board));
    }
    mem_free(wire);
}

enum umbp_status bench_wire_raw_stream(struct bench_wire *wire, size_t bytes, size_t count,
                                       uint64_t *ns_out)
{
    struct order order = {ORDER_STREAM, bytes, count};
    char byte;
    uint64_t start = now_ns();
    size_t at = 0;
    if (!send_all(wire->orders, &order, sizeof(order))) {
        return UMBP_IO;
    }
    for (size_t i = 0; i < count; i++) {
        if (!send_all(wire->raw, wire->memory + at, bytes)) {
            return UMBP_IO;
        }
        at = at + 2 * bytes <= BENCH_WIRE_MEMORY ? at + bytes : 0;
    }
    if (!receive_all(wire->raw, &byte, 1)) {
        return UMBP_IO;
    }
    *ns_out = now_ns() - start;
    return UMBP_OK;
}

enum umbp_status bench_wire_bare_ping(struct bench_wire *wire, size_t bytes, unsigned rounds,
                                      uint64_t *ns_out)
{
    struct order order = {ORDER_PING, bytes, rounds};
    if (!send_all(wire->orders, &order, sizeof(order))) {
        return UMBP_IO;
    }
    uint64_t start = now_ns();
    for (unsigned i = 0; i < rounds; i++) {
        if (!bare_send(&wire->bare, 64) || !bare_receive(&wire->bare)) {
            return UMBP_IO;
        }
    }
    *ns_out = now_ns() - start;
    return UMBP_OK;
}

static enum umbp_status ask(struct bench_wire *wire, const struct wish *wish)
{
    struct waiting waiting = {.wire = wire};
    struct iovec part = {(void *)(uintptr_t)wish, sizeof(*wish)};
    struct fabric_call call = {
        .peer = wire->peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = fabric_now_ns(wire->fabric) + WAIT_NS,
        .exposes_memory = true,
        .done = on_reply,
        .context = &waiting,
    };
    fabric_latch_init(&waiting.latch, 1);
    enum umbp_status status = fabric_call(wire->fabric, &call);
    while (!status &&
           fabric_wait(wire->fabric, &waiting.latch, fabric_now_ns(wire->fabric) + 2 * WAIT_NS)) {
    }
    return status ? status : waiting.status;
}

static enum umbp_status ask_often(struct bench_wire *wire, const struct wish *wish, unsigned rounds,
                                  uint64_t *ns_out)
{
    uint64_t start = now_ns();
    for (unsigned i = 0; i < rounds; i++) {
        enum umbp_status status = ask(wire, wish);
        if (status) {
            return status;
        }
    }
    *ns_out = now_ns() - start;
    return UMBP_OK;
}

enum umbp_status bench_wire_call(struct bench_wire *wire, size_t bytes, unsigned rounds,
                                 uint64_t *ns_out)
{
    struct wish wish = {.what = 0, .bytes = bytes};
    return ask_often(wire, &wish, rounds, ns_out);
}

enum umbp_status bench_wire_transfer(struct bench_wire *wire, bool write, size_t bytes,
                                     size_t count, size_t stride, unsigned rounds, uint64_t *ns_out)
{
    if (count > PIECES_MAX || stride < bytes || count * stride > BENCH_WIRE_MEMORY) {
        return UMBP_INVALID_VALUE;
    }
    struct wish wish = {
        .what = write ? 1 : 2,
        .bytes = bytes,
        .count = count,
        .stride = stride,
        .where = (uint64_t)(uintptr_t)wire->memory,
        .key = fabric_region_key(wire->fabric, wire->region),
    };
    return ask_often(wire, &wish, rounds, ns_out);
}

enum umbp_status bench_wire_pull(struct bench_wire *wire, bool mapped, size_t bytes, size_t count,
                                 uint64_t *ns_out)
{
    struct fabric_piece pieces[PIECES_MAX];
    struct wish wish = {0};
    if (count > PIECES_MAX || count * bytes > BENCH_WIRE_MEMORY) {
        return UMBP_INVALID_VALUE;
    }
    if (!(fabric_peer_flags(wire->fabric, wire->peer) & FABRIC_PEER_READABLE)) {
        return UMBP_UNSUPPORTED;
    }
    uint64_t where = mapped ? wire->board->shared_memory : wire->board->private_memory;
    for (size_t i = 0; i < count; i++) {
        pieces[i] = (struct fabric_piece){
            .local = wire->memory + i * bytes, .remote = where + i * bytes, .bytes = bytes};
    }
    enum umbp_status status = ask(wire, &wish); /* brings the epoch */
    uint64_t start = now_ns();
    if (!status) {
        status = fabric_pull_wait(wire->fabric, wire->peer, wire->epoch, pieces, count);
    }
    if (!status) {
        *ns_out = now_ns() - start;
    }
    return status;
}

void bench_wire_shared_copy(struct bench_wire *wire, size_t bytes, size_t count, uint64_t *ns_out)
{
    uint64_t start = now_ns();
    for (size_t i = 0; i < count && (i + 1) * bytes <= BENCH_WIRE_MEMORY; i++) {
        memcpy(wire->memory + i * bytes, wire->shared + i * bytes, bytes);
    }
    *ns_out = now_ns() - start;
}
