/* Tries, inside a sandbox, what the filter of system calls denies; prints a line for each: what, the
 * error it met (0 for none), the error it must meet.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kernel.h"

static void told(const char *what, long result, int wanted) {
    printf("%s %d %d\n", what, result < 0 ? errno : 0, wanted);
    fflush(stdout);
}

static void try_call(const char *what, long number, int wanted) {
    errno = 0;
    told(what, syscall(number, 0, 0, 0, 0, 0, 0), wanted);
}

static void try_namespaces(void) {
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"mount", CLONE_NEWNS},  {"cgroup", CLONE_NEWCGROUP}, {"uts", CLONE_NEWUTS},
                 {"ipc", CLONE_NEWIPC},   {"user", CLONE_NEWUSER},     {"pid", CLONE_NEWPID},
                 {"net", CLONE_NEWNET},   {"time", 0x80}};
    char what[32];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(what, sizeof what, "unshare-%s", kinds[i].name);
        told(what, unshare(kinds[i].flag), EPERM);
        if (kinds[i].flag == 0x80) continue;
        snprintf(what, sizeof what, "clone-%s", kinds[i].name);
        long child = syscall(SYS_clone, kinds[i].flag, 0, 0, 0, 0);
        if (child == 0) _exit(0);
        told(what, child, EPERM);
    }
    told("unshare-files", unshare(CLONE_FILES), 0);
}

static void try_sockets(void) {
    static const struct {
        const char *name;
        int family, type, protocol, error;
    } kinds[] = {{"unix", AF_UNIX, SOCK_STREAM, 0, 0},
                 {"inet", AF_INET, SOCK_STREAM, 0, 0},
                 {"inet6", AF_INET6, SOCK_DGRAM, 0, 0},
                 {"netlink-route", AF_NETLINK, SOCK_RAW, 0, 0},
                 {"netlink-audit", AF_NETLINK, SOCK_RAW, 9, EAFNOSUPPORT},
                 {"netlink-netfilter", AF_NETLINK, SOCK_RAW, 12, EAFNOSUPPORT},
                 {"packet", AF_PACKET, SOCK_RAW, 0, EAFNOSUPPORT},
                 {"alg", 38, SOCK_SEQPACKET, 0, EAFNOSUPPORT},
                 {"vsock", 40, SOCK_STREAM, 0, EAFNOSUPPORT},
                 {"bluetooth", 31, SOCK_RAW, 0, EAFNOSUPPORT},
                 {"sctp", AF_INET, SOCK_STREAM, 132, EPROTONOSUPPORT},
                 {"sctp-by-type", AF_INET6, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, EPROTONOSUPPORT},
                 {"dccp-by-type", AF_INET, SOCK_DCCP, 0, EPROTONOSUPPORT},
                 {"mptcp", AF_INET, SOCK_STREAM, 262, EPROTONOSUPPORT},
                 {"tcp", AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP, 0},
                 {"udp", AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, IPPROTO_UDP, 0},
                 {"raw", AF_INET, SOCK_RAW, IPPROTO_TCP, EPERM}};
    char what[32];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(what, sizeof what, "socket-%s", kinds[i].name);
        int fd = socket(kinds[i].family, kinds[i].type, kinds[i].protocol);
        told(what, fd, kinds[i].error);
        if (fd >= 0) close(fd);
    }
    int pair[2];
    told("socketpair-unix", socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    told("socketpair-inet", socketpair(AF_INET, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
    told("socketpair-tipc", socketpair(30, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
    told("socketpair-vsock", socketpair(40, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
}

static void try_first_process(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {&byte, 1};
    told("ptrace-attach", ptrace(PTRACE_ATTACH, 1, 0, 0), EPERM);
    told("ptrace-seize", ptrace(PTRACE_SEIZE, 1, 0, 0), EPERM);
    told("process_vm_readv", process_vm_readv(1, &here, 1, &there, 1, 0), EPERM);
    told("process_vm_writev", process_vm_writev(1, &here, 1, &there, 1, 0), EPERM);
    struct rlimit none = {0, 0};
    told("prlimit", prlimit(1, RLIMIT_CPU, &none, NULL), EPERM);
    told("prlimit-high", syscall(SYS_prlimit64, 0xffffffff00000001ul, RLIMIT_CPU, &none, NULL), EPERM);
    told("prlimit-self", prlimit(0, RLIMIT_CORE, &none, NULL), 0);
    int pidfd = (int)syscall(434 /* pidfd_open */, 1, 0);
    told("pidfd_getfd", syscall(438 /* pidfd_getfd */, pidfd, 0, 0), EPERM);
}

int main(void) {
#define DENY(name, number, error) try_call(#name, number, error);
#include "denied.def"
#undef DENY
    try_call("newest+1", 470, ENOSYS);
#if defined(__x86_64__)
    try_call("x32-getpid", 0x40000000 + SYS_getpid, ENOSYS);
#endif
    try_namespaces();
    try_sockets();
    try_first_process();
    told("tiocsti", ioctl(0, TIOCSTI, "x"), EPERM);
    told("tiocsti-high", syscall(SYS_ioctl, 0, 0xffffffff00000000ul | TIOCSTI, "x"), EPERM);
    told("personality-query", personality(0xffffffff), 0);
    told("personality-no-randomize", personality(ADDR_NO_RANDOMIZE), 0);
    told("personality-read-implies-exec", personality(READ_IMPLIES_EXEC), EPERM);
    /* Landlock says EACCES before the want of a capability is looked at. */
    long made = mknod("c", S_IFCHR | 0666, makedev(1, 3));
    told("mknod-char", made, errno == EACCES ? EACCES : EPERM);
    made = mknod("b", S_IFBLK | 0666, makedev(8, 0));
    told("mknod-block", made, errno == EACCES ? EACCES : EPERM);
    told("mknod-fifo", mknod("f", S_IFIFO | 0666, 0), 0);
    return 0;
}
