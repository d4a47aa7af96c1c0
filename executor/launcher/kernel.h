/* Calls and constants that are newer than some C library or its headers (Linux 5.12 at most; what
 * is newer yet is asked for and may be refused).
 */
#ifndef ARMITAGE_KERNEL_H
#define ARMITAGE_KERNEL_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the launcher knows the system calls of x86_64 and aarch64 only"
#endif

/* The same numbers on every architecture: all are newer than their unification. */
enum {
    NR_open_tree = 428,
    NR_move_mount = 429,
    NR_fsopen = 430,
    NR_fsconfig = 431,
    NR_fsmount = 432,
    NR_clone3 = 435,
    NR_close_range = 436,
    NR_openat2 = 437,
    NR_mount_setattr = 442,
    NR_landlock_create_ruleset = 444,
    NR_landlock_add_rule = 445,
    NR_landlock_restrict_self = 446,
};

enum {
    TREE_CLONE = 1,
    TREE_RECURSIVE = 0x8000,
    TREE_CLOEXEC = 02000000,
    EMPTY_PATH = 0x1000,
    MOVE_FROM_EMPTY = 0x4,
    MOVE_TO_EMPTY = 0x40,
    FS_CLOEXEC = 1,
    FS_SET_FLAG = 0,
    FS_SET_STRING = 1,
    FS_CREATE = 6,
    MOUNT_RDONLY = 0x1,
    MOUNT_NOSUID = 0x2,
    MOUNT_NODEV = 0x4,
    MOUNT_NOEXEC = 0x8,
    RESOLVE_NO_MAGIC = 0x2,
    RESOLVE_NO_LINKS = 0x4,
    RESOLVE_INSIDE = 0x8,
};

struct mount_attributes {
    uint64_t set, clear, propagation, userns;
};

struct open_how_to {
    uint64_t flags, mode, resolve;
};

struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

#endif
