/* The sandbox launcher: see main.c for how it works, docs/sandbox.md for what it promises. */
#ifndef ARMITAGE_LAUNCHER_H
#define ARMITAGE_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL 6 /* of documents and messages; executor/launcher/server.py has the same */

/* ---- document.c: what Python asks for (executor/launcher/document.py writes it) ---- */

enum op {
    OP_ROOT_TMPFS = 1, /* u64 size; the root is made anew, and not a copy of the template */
    OP_ROOT_BIND,      /* source; the same, from a directory of the host */
    OP_BIND,           /* u32 flags, source, target */
    OP_TMPFS,          /* u64 size, u64 inodes, u32 mode, target */
    OP_PROC,           /* target */
    OP_DEVPTS,         /* target */
    OP_DIR,            /* u32 mode, target */
    OP_LINK,           /* content, path */
    OP_FILE,           /* path, bytes: written into the new root */
    OP_MASK,           /* path: nothing is to be seen there */
    OP_SEAL,           /* path of a mount, which becomes read-only */
    OP_LISTEN,         /* u32 flags, u32 port */
    OP_REDIRECT,       /* every IPv4 address leads to this network namespace */
    OP_GROUP,          /* path of a version 1 `tasks` file to enter */
    OP_IDS,            /* u32 uid, u32 gid, u32 outer uid, u32 outer gid */
    OP_HOSTNAME,
    OP_RLIMIT, /* u32 which, u64 value */
    OP_WRITABLE, /* path below which Landlock allows changes */
    OP_ARGUMENT,
    OP_VARIABLE, /* NAME=value */
    OP_DIRECTORY, /* working directory */
    OP_HOLD, /* wait for a byte on the control socket before the command starts */
    OP_OVERLAY, /* u32 count, lowers, upper, work, target: the lowers as they are, as one, with
                   what changes kept in upper */
    OP_ROOT_OVERLAY, /* u32 count, lowers, upper, work; the same, as the root */
    OP_OWN_NETWORK, /* the network namespace is made anew, and nobody gets it afterwards */
};

enum bind_flag { BIND_WRITABLE = 1, BIND_DEVICES = 2, BIND_NO_LINKS = 4 };
enum listen_flag { LISTEN_ANY = 1, LISTEN_DATAGRAM = 2, LISTEN_RAW = 4 };

struct record {
    enum op op;
    const char *data;
    uint32_t size;
};

struct document {
    const char *data;
    size_t size;
    size_t at;
};

/* Reads the whole document behind a descriptor. Dies when it cannot. */
struct document document_read(int fd);
/* Gives the next record; false at the end. Dies on a malformed one. */
bool document_next(struct document *document, struct record *record);
/* Take fields off the front of a record's data. Die when it is too short. */
uint32_t take_u32(struct record *record);
uint64_t take_u64(struct record *record);
const char *take_text(struct record *record);

struct ids {
    uint32_t uid, gid, outer_uid, outer_gid;
};

struct ids take_ids(struct record *record);

/* ---- report.c: what Python is told, on the control socket of an action ---- */

extern int control_fd;
/* Sends one message with descriptors; answers whether it was sent, and why not in errno. */
bool report(const void *message, size_t size, const int *fds, int count);
/* Says what failed and why (errno). */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, and ends this process. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- mounts.c ---- */

struct view {
    int host;     /* mount namespace with the host's files */
    int template; /* mount namespace that has what every action sees; -1 while it is made */
};

/* Leaves the caller in a mount namespace that shows what the document says, and nothing else. */
void mounts_enter(const struct view *view, struct document document);

/* ---- network.c ---- */

/* Answers whether it could, and why not in errno. */
bool network_raise_loopback(void);
/* Whether a document asks for a network namespace that no other sandbox gets. */
bool network_is_own(struct document document);
/* Opens what the document says in a new network namespace; answers how many descriptors. */
int network_open(struct document document, int *fds, int limit);

/* ---- confine.c ---- */

/* Writes a short text to a file below a directory. Dies when it cannot. */
void write_file(int directory, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Maps one user and group into the user namespace that the caller has made; `self` is its directory
 * below /proc. */
void confine_ids(int self, struct ids ids);
void confine_limits(struct document document);
/* The version of Landlock that is of use here; 0 for none. */
int landlock_version(void);
void confine_landlock(struct document document);
void confine_capabilities(void);

/* ---- filter.c ---- */

void filter_build(void);
/* Whether a filter can hold calls here. */
bool filter_can_hold(void);
/* Installs the filter. One that holds lets no call go by which something could come to be in the
 * network namespace before we do; answers the descriptor that tells of such calls, else -1.
 */
int filter_install(bool holds);
/* Answers whether a call is held, and which. */
bool filter_notices(int listener, uint64_t *call);
void filter_let_go(int listener, uint64_t call);

/* ---- pool.c ---- */

/* A network namespace that a sandbox may get. */
struct lent {
    int place;
    int network;           /* -1: there is none for it. */
    volatile bool *as_new; /* For its first process to say that the namespace is as it was. */
};

/* Answers whether namespaces are used again here. Before it, and where not, there is none to lend. */
bool pool_open(void);
/* Sees to it that there is one to lend, if it can be. */
void pool_fill(void);
struct lent pool_lend(void);
void pool_lent_to(struct lent lent, pid_t user);
/* Reaps all children that have ended. */
void pool_take_back(void);

/* ---- sandbox.c ---- */

struct action {
    int document;
    int output;
    int error;
    struct lent lent;
};

/* Has the end of a child interrupt a ppoll(2) that lets it, and nothing else. */
void watch_children(void);

/* Is the first process of a sandbox: makes it, runs the command, reports. */
_Noreturn void sandbox_run(const struct view *view, const struct action *action);

#define LISTENERS_MAX 64

#endif
