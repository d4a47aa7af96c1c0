/* The files a command sees.
 *
 * The launcher keeps two mount namespaces: one with the host's files, and a template with what all
 * actions see. A sandbox takes hold of what it needs of the host while it is in the first, as
 * detached mounts; then it goes over to a copy of the template and attaches them. So the host's
 * files are never below its root, not even hidden, and there is nothing to unmount.
 *
 * Targets are resolved inside the new root, and never through a symbolic link.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "launcher.h"

#define MOUNTS_MAX 4096
#define LAYERS_MAX 64
#define FS_STRING_MAX 256

static int held[MOUNTS_MAX];

static int open_path(int at, const char *path, uint64_t resolve) {
    struct open_how_to how = {.flags = O_PATH | O_CLOEXEC, .resolve = resolve};
    return (int)syscall(NR_openat2, at, path, &how, sizeof how);
}

/* Takes hold of a directory or file of the host, with all that is mounted below it. */
static int hold(const char *source, uint32_t flags) {
    int place = open_path(AT_FDCWD, source, flags & BIND_NO_LINKS ? RESOLVE_NO_LINKS : 0);
    if (place < 0) die("opening %s", source);
    int fd = (int)syscall(NR_open_tree, place, "",
                          EMPTY_PATH | TREE_CLONE | TREE_RECURSIVE | TREE_CLOEXEC);
    if (fd < 0) die("taking hold of %s", source);
    close(place);
    struct mount_attributes attributes = {.set = MOUNT_NOSUID, .propagation = MS_PRIVATE};
    if (!(flags & BIND_WRITABLE)) attributes.set |= MOUNT_RDONLY;
    if (!(flags & BIND_DEVICES)) attributes.set |= MOUNT_NODEV;
    if (syscall(NR_mount_setattr, fd, "", EMPTY_PATH | TREE_RECURSIVE, &attributes,
                sizeof attributes) < 0)
        die("restricting the mount of %s", source);
    return fd;
}

static int make_detached(const char *type, const char *option, const char *value, int attributes) {
    int context = (int)syscall(NR_fsopen, type, FS_CLOEXEC);
    if (context < 0) die("opening a filesystem of type %s", type);
    if (option && syscall(NR_fsconfig, context, FS_SET_STRING, option, value, 0) < 0)
        die("setting %s of a filesystem of type %s", option, type);
    if (syscall(NR_fsconfig, context, FS_CREATE, NULL, NULL, 0) < 0)
        die("making a filesystem of type %s", type);
    int fd = (int)syscall(NR_fsmount, context, FS_CLOEXEC, attributes);
    if (fd < 0) die("mounting a filesystem of type %s", type);
    close(context);
    return fd;
}

/* Tells an overlay of layers, by the numbers of descriptors: their paths may hold colons, or be
 * longer than fsconfig takes, which is what `names` has room for. The caller keeps the `places` open
 * until the overlay is made: before Linux 6.5 it is only then that the kernel looks where names lead.
 */
static void set_layers(int context, const char *option, struct record *record, int *places,
                       uint32_t count) {
    char names[FS_STRING_MAX] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < count; i++) {
        const char *path = take_text(record);
        places[i] = open_path(AT_FDCWD, path, RESOLVE_NO_LINKS);
        if (places[i] < 0) die("opening %s", path);
        int more = snprintf(names + used, sizeof names - used, "%s%d", i ? ":" : "", places[i]);
        used += (size_t)more;
        if (used >= sizeof names) {
            errno = E2BIG;
            die("naming %u layers of an overlay", (unsigned)count);
        }
    }
    if (syscall(NR_fsconfig, context, FS_SET_STRING, option, names, 0) < 0)
        die("setting %s of an overlay", option);
}

/* `userxattr`: marks that a user namespace may make. `volatile`: its end must not wait for all of
 * the host's disk to be written. Moving a directory of the lower tree is EXDEV, as it is where the
 * mark for it needs privileges.
 */
static int make_overlay(struct record *record) {
    static const char *const FLAGS[] = {"userxattr", "volatile"};
    int context = (int)syscall(NR_fsopen, "overlay", FS_CLOEXEC);
    if (context < 0) die("opening a filesystem of type overlay");
    if (chdir("/proc/self/fd") < 0) die("entering the directory of descriptors");
    int places[LAYERS_MAX];
    uint32_t lowers = take_u32(record);
    if (lowers > LAYERS_MAX - 2) {
        errno = E2BIG;
        die("opening %u layers of an overlay", (unsigned)lowers);
    }
    set_layers(context, "lowerdir", record, places, lowers);
    set_layers(context, "upperdir", record, places + lowers, 1);
    set_layers(context, "workdir", record, places + lowers + 1, 1);
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
        if (syscall(NR_fsconfig, context, FS_SET_FLAG, FLAGS[i], NULL, 0) < 0)
            die("setting %s of an overlay", FLAGS[i]);
    if (syscall(NR_fsconfig, context, FS_CREATE, NULL, NULL, 0) < 0) die("making an overlay");
    for (uint32_t i = 0; i < lowers + 2; i++) close(places[i]);
    int fd = (int)syscall(NR_fsmount, context, FS_CLOEXEC, MOUNT_NOSUID | MOUNT_NODEV);
    if (fd < 0) die("mounting an overlay");
    close(context);
    return fd;
}

/* What has to be done among the host's files. A proc filesystem as well: the kernel makes one only
 * where another is in full view (mount_too_revealing in fs/namespace.c).
 */
static int prepare(struct record record) {
    char size[32];
    switch (record.op) {
        case OP_ROOT_TMPFS:
            snprintf(size, sizeof size, "%llu", (unsigned long long)take_u64(&record));
            return make_detached("tmpfs", "size", size, MOUNT_NOSUID | MOUNT_NODEV);
        case OP_ROOT_BIND:
            return hold(take_text(&record), BIND_WRITABLE);
        case OP_BIND: {
            uint32_t flags = take_u32(&record);
            return hold(take_text(&record), flags);
        }
        case OP_OVERLAY:
        case OP_ROOT_OVERLAY:
            return make_overlay(&record);
        case OP_PROC:
            return make_detached("proc", NULL, NULL,
                                 MOUNT_NOSUID | MOUNT_NODEV | MOUNT_NOEXEC | MOUNT_RDONLY);
        default:
            return -1;
    }
}

static int open_below(int at, const char *name) {
    return open_path(at, name, RESOLVE_INSIDE | RESOLVE_NO_LINKS | RESOLVE_NO_MAGIC);
}

static void make_node(int at, const char *name, bool is_directory, const char *path) {
    if (is_directory) {
        if (mkdirat(at, name, 0755) < 0) die("making a place for %s", path);
        return;
    }
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) die("making a place for %s", path);
    close(fd);
}

/* Opens a place below the root, which is made if it is not there. */
static int open_target(int root, const char *path, bool is_directory) {
    char copy[PATH_MAX];
    int at = path[1] ? open_below(root, path + 1) : dup(root);
    if (at >= 0) return at;
    if (errno != ENOENT || strlen(path) >= sizeof copy) die("opening %s in the sandbox", path);
    strcpy(copy, path);
    at = dup(root);
    char *save = NULL, *next;
    for (char *name = strtok_r(copy, "/", &save); name; name = next) {
        next = strtok_r(NULL, "/", &save);
        int below = open_below(at, name);
        if (below < 0 && errno == ENOENT) {
            make_node(at, name, next || is_directory, path);
            below = open_below(at, name);
        }
        if (below < 0) die("opening %s in the sandbox", path);
        close(at);
        at = below;
    }
    return at;
}

static void attach(int root, int fd, const char *path) {
    struct stat status;
    if (fstat(fd, &status) < 0) die("looking at what goes to %s", path);
    int target = open_target(root, path, S_ISDIR(status.st_mode));
    if (syscall(NR_move_mount, fd, "", target, "", MOVE_FROM_EMPTY | MOVE_TO_EMPTY) < 0)
        die("mounting %s in the sandbox", path);
    close(target);
    close(fd);
}

/* Gives Python a hold of a mount, which keeps that alone when the sandbox's others end with it. No
 * copy of the mount: the end of a detached one waits for the kernel's grace period.
 */
static void report_view(int root, const char *path) {
    int place = open_target(root, path, true);
    if (!report("M", 1, &place, 1)) die("handing over %s", path);
    close(place);
}

static void mount_here(int root, const char *path, const char *type, unsigned long flags,
                       const char *options) {
    int target = open_target(root, path, true);
    if (fchdir(target) < 0 || mount(type, ".", type, flags | MS_NOSUID, options) < 0)
        die("mounting %s in the sandbox", path);
    close(target);
}

/* Has a file of /proc read as empty, by a mount of the sandbox's own device, which nobody can change
 * either. Once /dev and /proc are there, neither path has a link in it.
 */
static void mask(const char *path) {
    if (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
        die("hiding %s", path);
}

static int open_parent(int root, const char *path, const char **name) {
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = (size_t)(slash - path);
    if (length >= sizeof parent) die("opening %s in the sandbox", path);
    memcpy(parent, path, length);
    parent[length] = 0;
    *name = slash + 1;
    return open_target(root, length ? parent : "/", true);
}

static void make_file(int root, const char *path, const char *data, size_t size) {
    const char *name;
    int parent = open_parent(root, path, &name);
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) die("writing %s", path);
    close(fd);
    close(parent);
}

static void make_link(int root, const char *content, const char *path) {
    const char *name;
    int parent = open_parent(root, path, &name);
    if (symlinkat(content, parent, name) < 0) die("making the link %s", path);
    close(parent);
}

static void make_tmpfs(int root, struct record *record) {
    char options[128];
    unsigned long long size = take_u64(record), inodes = take_u64(record);
    unsigned mode = take_u32(record);
    snprintf(options, sizeof options, "size=%llu,nr_inodes=%llu,mode=%o", size, inodes, mode);
    mount_here(root, take_text(record), "tmpfs", MS_NODEV, options);
}

static void make_directory(int root, struct record *record) {
    unsigned mode = take_u32(record);
    const char *name, *path = take_text(record);
    int parent = open_parent(root, path, &name);
    if (mkdirat(parent, name, mode) < 0 && errno != EEXIST) die("making %s", path);
    close(parent);
}

static void seal(int root, const char *path) {
    struct mount_attributes attributes = {.set = MOUNT_RDONLY};
    int place = open_target(root, path, true);
    if (syscall(NR_mount_setattr, place, "", EMPTY_PATH, &attributes, sizeof attributes) < 0)
        die("making %s read-only", path);
    close(place);
}

static void apply(int root, struct record record, int fd) {
    switch (record.op) {
        case OP_BIND:
            take_u32(&record);
            take_text(&record);
            attach(root, fd, take_text(&record));
            break;
        case OP_OVERLAY: {
            for (uint32_t layers = take_u32(&record) + 2; layers > 0; layers--) take_text(&record);
            const char *path = take_text(&record);
            attach(root, fd, path);
            report_view(root, path);
            break;
        }
        case OP_ROOT_OVERLAY:
            report_view(root, "/");
            break;
        case OP_PROC:
            attach(root, fd, take_text(&record));
            break;
        case OP_MASK:
            mask(take_text(&record));
            break;
        case OP_TMPFS:
            make_tmpfs(root, &record);
            break;
        case OP_DEVPTS:
            mount_here(root, take_text(&record), "devpts", MS_NOEXEC,
                       "newinstance,ptmxmode=0666,mode=0620,max=64");
            break;
        case OP_DIR:
            make_directory(root, &record);
            break;
        case OP_LINK: {
            const char *content = take_text(&record);
            make_link(root, content, take_text(&record));
            break;
        }
        case OP_FILE: {
            const char *path = take_text(&record);
            make_file(root, path, record.data, record.size);
            break;
        }
        case OP_SEAL:
            seal(root, take_text(&record));
            break;
        default:
            break;
    }
}

/* Makes a detached mount the root of this mount namespace, and lets go of the one before. */
static void change_root(int fd) {
    if (syscall(NR_move_mount, fd, "", AT_FDCWD, "/", MOVE_FROM_EMPTY) < 0 || fchdir(fd) < 0)
        die("mounting the root");
    if (syscall(SYS_pivot_root, ".", ".") < 0) die("changing the root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) die("leaving the root before");
    close(fd);
}

static bool is_root(enum op op) {
    return op == OP_ROOT_TMPFS || op == OP_ROOT_BIND || op == OP_ROOT_OVERLAY;
}

static bool is_held(enum op op) {
    return is_root(op) || op == OP_BIND || op == OP_OVERLAY || op == OP_PROC;
}

void mounts_enter(const struct view *view, struct document document) {
    struct record record;
    struct document again = document;
    int count = 0, root = -1;
    while (document_next(&document, &record)) {
        if (!is_held(record.op)) continue;
        if (count >= MOUNTS_MAX) {
            errno = 0;
            die("the sandbox has over %d mounts", MOUNTS_MAX);
        }
        held[count] = prepare(record);
        if (is_root(record.op)) root = held[count];
        count++;
    }
    if (view->template >= 0 && setns(view->template, CLONE_NEWNS) < 0)
        die("entering the template's mount namespace");
    if (unshare(CLONE_NEWNS) < 0) die("making a mount namespace");
    if (root >= 0) change_root(root);
    root = open_path(AT_FDCWD, "/", 0);
    if (root < 0) die("opening the root");
    for (int i = 0; document_next(&again, &record);)
        apply(root, record, is_held(record.op) ? held[i++] : -1);
    close(root);
    if (chdir("/") < 0) die("entering the root");
}
