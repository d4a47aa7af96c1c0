/* The first process of a sandbox: it makes the sandbox around itself, gives up every privilege,
 * starts the command, reaps what the command leaves behind, and reports.
 *
 * Being the first of its process namespace, it takes all others with it when it ends: with the
 * command, or when Python lets go of the control socket. The command cannot get at it: signals from
 * inside do not reach it, and it is not dumpable, by rights that belong to a namespace outside.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "launcher.h"

enum { LOWEST_FREE = 3 };

struct command {
    char **arguments;
    char **variables;
    const char *directory;
    struct ids ids;
    bool has_ids;
    bool is_held;
};

extern char **environ;

static struct command read_command(struct document document) {
    struct command command = {.directory = "/"};
    struct document again = document;
    struct record record;
    size_t arguments = 0, variables = 0;
    while (document_next(&document, &record)) {
        arguments += record.op == OP_ARGUMENT;
        variables += record.op == OP_VARIABLE;
    }
    command.arguments = calloc(arguments + 1, sizeof(char *));
    command.variables = calloc(variables + 1, sizeof(char *));
    if (!command.arguments || !command.variables) die("reading the command");
    arguments = variables = 0;
    while (document_next(&again, &record)) {
        if (record.op == OP_ARGUMENT) {
            command.arguments[arguments++] = (char *)take_text(&record);
        } else if (record.op == OP_VARIABLE) {
            command.variables[variables++] = (char *)take_text(&record);
        } else if (record.op == OP_DIRECTORY) {
            command.directory = take_text(&record);
        } else if (record.op == OP_HOLD) {
            command.is_held = true;
        } else if (record.op == OP_IDS) {
            command.ids = take_ids(&record);
            command.has_ids = true;
        }
    }
    if (!arguments || !command.has_ids) {
        errno = 0;
        die("the launcher was given no command, or nobody to run it as");
    }
    return command;
}

/* Writing 0 to `tasks` moves just the caller, for which the kernel need not wait as it does for
 * others (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
 */
static void enter_groups(struct document document) {
    struct record record;
    while (document_next(&document, &record))
        if (record.op == OP_GROUP) write_file(AT_FDCWD, take_text(&record), "0");
}

static void set_hostname(struct document document) {
    struct record record;
    while (document_next(&document, &record)) {
        if (record.op != OP_HOSTNAME) continue;
        const char *name = take_text(&record);
        if (sethostname(name, strlen(name)) < 0) die("setting the host name");
    }
}

/* A user namespace of the command's own, in which it may be whom it likes, and which owns nothing:
 * the mounts and the network belong to the launcher's.
 */
static void become(int self, int settings, struct ids ids) {
    if (unshare(CLONE_NEWUSER) < 0) die("making a user namespace");
    confine_ids(self, ids);
    write_file(settings, "user/max_user_namespaces", "0");
    /* A user has 128 by default, and all sandboxes are one user. */
    write_file(settings, "user/max_inotify_instances", "16");
}

/* An input root may hold directories named like our own descriptors below /proc, some of which lead
 * to the host's files.
 */
static void enter_directory(const char *path) {
    struct open_how_to how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                              .resolve = RESOLVE_NO_MAGIC};
    int fd = (int)syscall(NR_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd < 0 || fchdir(fd) < 0) die("entering the working directory");
    close(fd);
}

static void ignore(int number) { (void)number; }

static void die_with_parent(void) {
    struct pollfd control = {.fd = control_fd};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) die("tying the sandbox to the launcher");
    if (prctl(PR_SET_DUMPABLE, 0) < 0) die("hiding the sandbox's first process");
    if (poll(&control, 1, 0) > 0 && control.revents & (POLLHUP | POLLERR)) _exit(1);
}

static void wait_for_release(void) {
    char byte;
    ssize_t size;
    do {
        size = read(control_fd, &byte, 1);
    } while (size < 0 && errno == EINTR);
    if (size != 1) _exit(1);
}

static void report_ready(const int *listeners, int count) {
    if (!report("R", 1, listeners, count)) die("handing over the sandbox's sockets");
}

/* Answers the command's process; that of exec's failure comes back in `failed`. */
static pid_t start(const struct command *command, int input, const struct action *action,
                   volatile int *failed) {
    environ = command->variables; /* Its PATH is where the command is looked for. */
    pid_t pid = vfork();
    if (pid != 0) return pid;
    sigset_t none;
    sigemptyset(&none);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* exec closes all of ours, being O_CLOEXEC; one that somebody forgets to open so might lead out. */
    if (setsid() < 0 || dup2(input, 0) < 0 || dup2(action->output, 1) < 0 ||
        dup2(action->error, 2) < 0 || syscall(NR_close_range, LOWEST_FREE, ~0U, 0) < 0) {
        *failed = errno;
        _exit(1);
    }
    umask(022);
    execvp(command->arguments[0], command->arguments);
    *failed = errno;
    _exit(1);
}

struct __attribute__((packed)) ending {
    char kind;
    uint32_t status;
    uint64_t user_us, system_us, peak_kib, read_blocks, written_blocks;
};

static uint64_t microseconds(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

static void report_end(int status) {
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    struct ending ending = {'X',
                            (uint32_t)status,
                            microseconds(usage.ru_utime),
                            microseconds(usage.ru_stime),
                            (uint64_t)usage.ru_maxrss,
                            (uint64_t)usage.ru_inblock,
                            (uint64_t)usage.ru_oublock};
    report(&ending, sizeof ending, NULL, 0);
}

/* `listener` tells of calls that the filter holds; -1 where it holds none. */
static _Noreturn void wait_for(pid_t command, int listener, volatile bool *as_new) {
    struct pollfd watched[] = {{.fd = control_fd}, {.fd = listener, .events = POLLIN}};
    bool is_touched = listener < 0;
    sigset_t none;
    sigemptyset(&none);
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended == command) {
            /* No call is let go any more. */
            if (!is_touched) *as_new = true;
            report_end(status);
            _exit(0);
        }
        if (ended > 0 || ppoll(watched, 2, NULL, &none) <= 0) continue;
        /* Nothing to read is expected: only that Python is gone. */
        if (watched[0].revents) _exit(1);
        uint64_t call;
        if (filter_notices(listener, &call)) {
            if (!is_touched) report("S", 1, NULL, 0);
            is_touched = true;
            filter_let_go(listener, call);
        }
    }
}

void watch_children(void) {
    struct sigaction action = {.sa_handler = ignore};
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &child, NULL) < 0 || sigaction(SIGCHLD, &action, NULL) < 0)
        die("watching for the end of processes");
}

/* No file of the command's is kept alive by us. `other` may be -1. */
static void close_but(int one, int other) {
    unsigned low = (unsigned)(other < 0 || one < other ? one : other);
    unsigned high = (unsigned)(one < other ? other : one);
    if (low > LOWEST_FREE) syscall(NR_close_range, LOWEST_FREE, low - 1, 0);
    if (high > low + 1) syscall(NR_close_range, low + 1, high - 1, 0);
    syscall(NR_close_range, high + 1, ~0U, 0);
}

static void report_failed_exec(int why) {
    struct {
        char kind[4];
        uint32_t error;
    } message = {"N", (uint32_t)why};
    report(&message, sizeof message, NULL, 0);
    _exit(0);
}

void sandbox_run(const struct view *view, const struct action *action) {
    struct document document = document_read(action->document);
    struct command command = read_command(document);
    int listeners[LISTENERS_MAX];

    bool is_lent = action->lent.network >= 0 && !network_is_own(document);
    if (action->lent.network >= 0 && !is_lent) *action->lent.as_new = true; /* Nobody enters it. */
    enter_groups(document);
    if (unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | (is_lent ? 0 : CLONE_NEWNET)) < 0)
        die("making network, ipc, uts and cgroup namespaces");
    if (is_lent && setns(action->lent.network, CLONE_NEWNET) < 0)
        die("entering a network namespace");
    set_hostname(document);
    int count = is_lent ? 0 : network_open(document, listeners, LISTENERS_MAX);
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int settings = open("/proc/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0 || settings < 0) die("opening /proc");
    mounts_enter(view, document);
    become(self, settings, command.ids);
    close(self);
    close(settings);
    enter_directory(command.directory);
    int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0) die("opening /dev/null");
    confine_landlock(document);
    confine_capabilities();
    int listener = filter_install(is_lent);
    die_with_parent();
    report_ready(listeners, count);
    if (command.is_held) wait_for_release();
    /* Not before: with the command's limit of open files the sockets might not be sent (main.c). */
    confine_limits(document);

    volatile int failed = 0;
    pid_t pid = start(&command, input, action, &failed);
    if (pid < 0) die("starting a process");
    if (failed != 0) report_failed_exec(failed);
    close_but(control_fd, listener);
    wait_for(pid, listener, action->lent.as_new);
}
