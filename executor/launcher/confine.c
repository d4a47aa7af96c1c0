/* What a command may do, other than which system calls (filter.c): who it is, its limits, and that
 * it has no privileges and never gains any.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/securebits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "launcher.h"

void write_file(int directory, const char *path, const char *format, ...) {
    char text[128];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    int fd = openat(directory, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)size) != size) die("writing %s", path);
    close(fd);
}

void confine_ids(int self, struct ids ids) {
    /* Without CAP_SETGID outside, a map of groups is allowed only when setgroups(2) is not. */
    write_file(self, "setgroups", "deny");
    write_file(self, "uid_map", "%u %u 1", ids.uid, ids.outer_uid);
    write_file(self, "gid_map", "%u %u 1", ids.gid, ids.outer_gid);
}

void confine_limits(struct document document) {
    struct record record;
    while (document_next(&document, &record)) {
        if (record.op != OP_RLIMIT) continue;
        uint32_t which = take_u32(&record);
        uint64_t wanted = take_u64(&record);
        struct rlimit limit;
        if (getrlimit((int)which, &limit) < 0) die("reading limit %u", which);
        if (limit.rlim_max == RLIM_INFINITY || wanted < limit.rlim_max)
            limit.rlim_max = (rlim_t)wanted;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit((int)which, &limit) < 0) die("setting limit %u", which);
    }
}

/* Numbers of <linux/landlock.h> that are newer than some headers. */
enum {
    LANDLOCK_VERSION = 1,
    LANDLOCK_REFER = 1 << 13,    /* version 2 */
    LANDLOCK_TRUNCATE = 1 << 14, /* version 3 */
    LANDLOCK_SCOPES = 3,         /* version 6: abstract sockets, signals */
    OLDEST_LANDLOCK = 2,         /* Version 1 forbids to move files between directories. */
};

#define MAKE_NODES (LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)

static const uint64_t CHANGES =
    LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
    MAKE_NODES | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
    LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM |
    LANDLOCK_REFER;

int landlock_version(void) {
    long version = syscall(NR_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);
    return version < OLDEST_LANDLOCK ? 0 : (int)version;
}

static void allow_below(int rules, const char *path, uint64_t access) {
    struct landlock_path_beneath_attr rule = {.allowed_access = access};
    struct stat status;
    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0 || fstat(rule.parent_fd, &status) < 0) die("opening %s", path);
    if (!S_ISDIR(status.st_mode))
        rule.allowed_access &= LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_TRUNCATE;
    if (syscall(NR_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        die("allowing changes in %s", path);
    close(rule.parent_fd);
}

/* Only changes are ruled, not reading: what is mounted is there to be read, and a check of each
 * file that is opened for reading would cost builds more than it gives.
 */
void confine_landlock(struct document document) {
    int version = landlock_version();
    if (version == 0) return;
    struct {
        uint64_t files, network, scopes;
    } attributes = {.files = CHANGES | (version >= 3 ? LANDLOCK_TRUNCATE : 0),
                    .scopes = LANDLOCK_SCOPES};
    size_t size = version >= 6 ? sizeof attributes : sizeof attributes.files;
    int rules = (int)syscall(NR_landlock_create_ruleset, &attributes, size, 0);
    if (rules < 0) die("making Landlock rules");
    struct record record;
    while (document_next(&document, &record))
        if (record.op == OP_WRITABLE)
            allow_below(rules, take_text(&record), attributes.files & ~(uint64_t)MAKE_NODES);
    if (syscall(NR_landlock_restrict_self, rules, 0) < 0) die("applying Landlock rules");
    close(rules);
}

void confine_capabilities(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                     SECBIT_NO_CAP_AMBIENT_RAISE |
                                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED) < 0)
        die("locking the secure bits");
    for (unsigned long capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;)
        capability++;
    if (errno != EINVAL) die("dropping capabilities from the bounding set");
    if (syscall(SYS_capset, &header, none) < 0) die("dropping capabilities");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("forbidding new privileges");
}
