/* Which system calls a command may use (docs/sandbox.md lists and explains them).
 *
 * Denied are calls that change what the sandbox is made of, or that reach parts of the kernel that
 * builds have no use for. What is newer than this list does not exist for a command.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "kernel.h"
#include "launcher.h"

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#else
#define NATIVE AUDIT_ARCH_AARCH64
#endif
#define NEWEST 469 /* file_setattr, Linux 6.17 */

#define NEW_NAMESPACES                                                                        \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
     CLONE_NEWNET)
#define NEW_TIME 0x80 /* CLONE_NEWTIME; of unshare only, it is part of the exit signal of clone */
#define PERSONALITIES 0x00040008u /* ADDR_NO_RANDOMIZE, PER_LINUX32 */
#define CONSOLE_SELECTION 0x541c /* TIOCLINUX */

/* Where a namespace is lent (pool.c), the calls held until the sandbox's first process has noticed:
 * those that make a socket, or that make a terminal speak PPP, whose channels have numbers in the
 * network namespace. Nothing else changes it for who has no capability over it and no device.
 */
#define HELD SECCOMP_RET_USER_NOTIF
/* Newer than some headers: Linux 5.19, and signals do not interrupt a call that was noticed; Linux
 * 6.6, and noticing does not wait for another processor.
 */
#define WAIT_KILLABLE (1u << 5)
#define SET_NOTICE_FLAGS _IOW('!', 4, uint64_t)
#define WAKE_HERE 1ul

#define LENGTH_MAX 512

static struct sock_filter program[LENGTH_MAX];
static unsigned short length;

static void add(unsigned short code, uint32_t value, unsigned char if_true, unsigned char if_false) {
    program[length++] = (struct sock_filter){code, if_true, if_false, value};
}

static void answer(uint32_t action) { add(BPF_RET | BPF_K, action, 0, 0); }

static void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0); }

/* Of an argument, the lower half: the kernel takes no more of those that are looked at here. */
static void load_argument(int index) {
    load(offsetof(struct seccomp_data, args) + sizeof(uint64_t) * (size_t)index);
}

static void answer_bits(int index, uint32_t bits) {
    load_argument(index);
    add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

static void check_clone(void) { answer_bits(0, NEW_NAMESPACES); }

static void check_unshare(void) { answer_bits(0, NEW_NAMESPACES | NEW_TIME); }

/* Limits of the sandbox's first process: it would be killed at one, as by somebody outside. */
static void check_prlimit(void) {
    load_argument(0);
    add(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

static void check_ioctl(void) {
    load_argument(1);
    add(BPF_JMP | BPF_JEQ | BPF_K, TIOCSETD, 0, 1);
    answer(HELD);
    add(BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 1, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, CONSOLE_SELECTION, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

/* 0xffffffff only asks. */
static void check_personality(void) {
    load_argument(0);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 2, 0);
    add(BPF_JMP | BPF_JSET | BPF_K, ~PERSONALITIES, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

/* An internet socket must be of TCP or UDP (or ping): other types and protocols load modules of the
 * kernel. With the type come flags above its lowest four bits.
 */
static void check_socket(void) {
    load_argument(0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 18, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 4, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 3, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 14);
    load_argument(2);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0 /* NETLINK_ROUTE */, 13, 12);
    load_argument(1);
    add(BPF_ALU | BPF_AND | BPF_K, 0xf, 0, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_DGRAM, 1, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_RAW, 0, 6);
    load_argument(2);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 5, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 4, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMP, 3, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 2, 0);
    answer(SECCOMP_RET_ERRNO | EPROTONOSUPPORT);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
    answer(HELD);
}

/* Makes a socket of any family before it learns that most have no pairs. */
static void check_socketpair(void) {
    load_argument(0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
    answer(HELD);
}

/* What is answered to calls with numbers from `first` up to the next rule's. */
struct rule {
    uint32_t first;
    uint32_t answer;
    void (*check)(void); /* Looks at the arguments, and answers itself. */
};

static struct rule calls[] = {
#define DENY(name, number, error) {number, SECCOMP_RET_ERRNO | (error), NULL},
#include "denied.def"
#undef DENY
    {SYS_clone, 0, check_clone},   {SYS_unshare, 0, check_unshare},
    {SYS_ioctl, 0, check_ioctl},   {SYS_personality, 0, check_personality},
    {SYS_socket, 0, check_socket}, {SYS_socketpair, 0, check_socketpair},
    {SYS_prlimit64, 0, check_prlimit},
};

enum { CALLS = sizeof calls / sizeof *calls };

static struct rule rules[2 * CALLS + 2];
static size_t rule_count;

static void add_rule(struct rule rule) {
    if (rule_count > 0 && rules[rule_count - 1].first == rule.first) rule_count--;
    struct rule *last = rule_count > 0 ? &rules[rule_count - 1] : NULL;
    if (last && !last->check && !rule.check && last->answer == rule.answer) return;
    rules[rule_count++] = rule;
}

static int by_number(const void *one, const void *other) {
    uint32_t a = ((const struct rule *)one)->first, b = ((const struct rule *)other)->first;
    return (a > b) - (a < b);
}

static void make_rules(void) {
    qsort(calls, CALLS, sizeof *calls, by_number);
    rule_count = 0;
    add_rule((struct rule){0, SECCOMP_RET_ALLOW, NULL});
    for (size_t i = 0; i < CALLS; i++) {
        add_rule(calls[i]);
        add_rule((struct rule){calls[i].first + 1, SECCOMP_RET_ALLOW, NULL});
    }
    /* x86_64's second numbering is up there as well. */
    add_rule((struct rule){NEWEST + 1, SECCOMP_RET_ERRNO | ENOSYS, NULL});
}

/* Halves the rules until one is left. A list of comparisons is slow to install: the kernel walks the
 * program for every number, to learn which calls are always allowed (seccomp_cache_prepare).
 */
static void decide(const struct rule *some, size_t count) {
    if (count == 1 && some->check) {
        some->check();
    } else if (count == 1) {
        answer(some->answer);
    } else {
        size_t half = count / 2;
        struct sock_filter *jump = &program[length];
        add(BPF_JMP | BPF_JGE | BPF_K, some[half].first, 0, 0);
        decide(some, half);
        ptrdiff_t over = &program[length] - jump - 1;
        if (over > UINT8_MAX) die("the filter of system calls is too long");
        jump->jt = (unsigned char)over;
        decide(some + half, count - half);
    }
}

void filter_build(void) {
    length = 0;
    load(offsetof(struct seccomp_data, arch));
    /* Programs for another architecture have other numbers for the same calls. */
    add(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 1, 0);
    answer(SECCOMP_RET_KILL_PROCESS);
    load(offsetof(struct seccomp_data, nr));
    make_rules();
    decide(rules, rule_count);
}

#define HOLDING (SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE)

static int install(unsigned flags) {
    struct sock_fprog filter = {length, program};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
}

static bool has_our_sizes(void) {
    struct seccomp_notif_sizes sizes;
    return syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0 &&
           sizes.seccomp_notif == sizeof(struct seccomp_notif) &&
           sizes.seccomp_notif_resp == sizeof(struct seccomp_notif_resp);
}

/* Tried by a process that ends with it: there can be none where we are under one already. */
bool filter_can_hold(void) {
    int status;
    pid_t pid = fork();
    if (pid == 0) _exit(has_our_sizes() && install(HOLDING) >= 0 ? 0 : 1);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

int filter_install(bool holds) {
    for (unsigned short i = 0; !holds && i < length; i++)
        if (program[i].code == (BPF_RET | BPF_K) && program[i].k == HELD)
            program[i].k = SECCOMP_RET_ALLOW;
    int listener = install(holds ? HOLDING : 0);
    if (listener < 0) die("installing the system call filter");
    if (!holds) return -1;
    ioctl(listener, SET_NOTICE_FLAGS, WAKE_HERE); /* Is but quicker. */
    return listener;
}

bool filter_notices(int listener, uint64_t *call) {
    struct seccomp_notif notice = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice) == 0) {
        *call = notice.id;
        return true;
    }
    if (errno != ENOENT) die("hearing of a system call"); /* Else its process was killed. */
    return false;
}

void filter_let_go(int listener, uint64_t call) {
    struct seccomp_notif_resp answer = {.id = call, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 && errno != ENOENT)
        die("letting a system call go");
}
