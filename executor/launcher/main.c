/* Armitage's sandbox launcher: a server that makes one sandbox for each request on its socket.
 *
 * Python starts it once, with one end of a pair of sockets as its stdin, and sends it a template
 * (what all actions see). It then makes a user namespace and, in it, two mount namespaces: the
 * host's files, and the template. It stays small, so that forking it is cheap, and single-threaded.
 *
 * A request brings a document, the command's stdout and stderr, a control socket, and the directory
 * of a version 2 control group if there is one. Its answer is a process, told of on the control
 * socket; the rest is between that process and Python (sandbox.c). The document is read only there,
 * so that no request can harm another.
 *
 * When Python's end of the socket closes, it ends, and takes all sandboxes with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "launcher.h"

#define INTO_CGROUP 0x200000000ull
#define PIDFD 0x1000

enum { SERVER = 3, FDS_MAX = 5 };

struct request {
    int fds[FDS_MAX];
    int count;
};

/* Answers false at the end. */
static bool receive(struct request *request) {
    char byte, space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    struct iovec part = {&byte, 1};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = space,
                            .msg_controllen = sizeof space};
    ssize_t size;
    do {
        size = recvmsg(SERVER, &header, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size <= 0) return false;
    request->count = 0;
    struct cmsghdr *control = CMSG_FIRSTHDR(&header);
    if (control && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
        request->count = (int)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(request->fds, CMSG_DATA(control), sizeof(int) * (size_t)request->count);
    }
    return true;
}

static void wait_for_request(void) {
    struct pollfd server = {.fd = SERVER, .events = POLLIN};
    sigset_t none;
    sigemptyset(&none);
    while (ppoll(&server, 1, NULL, &none) < 0 && errno == EINTR) pool_take_back();
}

static void release(const struct request *request) {
    for (int i = 0; i < request->count; i++) close(request->fds[i]);
}

/* Answers 0 in the new process, as fork does. */
static long new_process(int group, int *pidfd) {
    struct clone_arguments arguments = {
        .flags = CLONE_NEWPID | PIDFD | (group >= 0 ? INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = group >= 0 ? (uint64_t)group : 0,
    };
    return syscall(NR_clone3, &arguments, sizeof arguments);
}

static bool report_process(long pid, int pidfd) {
    struct {
        char kind[4];
        uint32_t pid;
    } message = {"P", (uint32_t)pid};
    return report(&message, sizeof message, &pidfd, 1);
}

static void serve(const struct view *view, const struct request *request) {
    int pidfd = -1;
    control_fd = request->fds[3];
    struct lent lent = pool_lend();
    long pid = new_process(request->count > 4 ? request->fds[4] : -1, &pidfd);
    if (pid == 0) {
        close(SERVER);
        struct action action = {request->fds[0], request->fds[1], request->fds[2], lent};
        sandbox_run(view, &action);
    }
    if (pid < 0) {
        complain("making a process");
        return;
    }
    pool_lent_to(lent, (pid_t)pid);
    if (!report_process(pid, pidfd)) {
        /* Nobody could end it. */
        complain("handing over a process");
        kill((pid_t)pid, SIGKILL);
    }
    close(pidfd);
}

/* The kernel counts the descriptors that are under way in sockets for all processes of a user, also
 * in sandboxes, and lets nobody send any while there are more than his limit. The limit of commands
 * is lower than the hard one (executor.rlimits), so they cannot keep us from it.
 */
static void raise_open_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) die("reading the limit of open files");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) die("raising the limit of open files");
}

/* `self` is our directory of the host's /proc, which is not in view later. */
static int mount_namespace(int self) {
    int fd = openat(self, "ns/mnt", O_RDONLY | O_CLOEXEC);
    if (fd < 0) die("opening a mount namespace");
    return fd;
}

static struct ids template_ids(struct document document) {
    struct record record;
    while (document_next(&document, &record))
        if (record.op == OP_IDS) return take_ids(&record);
    errno = 0;
    die("the template does not say whose user namespace it is for");
}

/* Makes the user namespace and both mount namespaces. */
static struct view prepare(struct document document) {
    struct view view = {.template = -1};
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0) die("opening /proc");
    if (setgroups(0, NULL) < 0 && errno != EPERM) die("giving up groups");
    if (unshare(CLONE_NEWUSER) < 0) die("making a user namespace");
    confine_ids(self, template_ids(document));
    if (unshare(CLONE_NEWNS) < 0) die("making a mount namespace");
    /* What the host mounts later is seen here, what is mounted here is not seen on the host. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) die("leaving the host's mounts");
    view.host = mount_namespace(self);
    mounts_enter(&view, document);
    view.template = mount_namespace(self);
    if (setns(view.host, CLONE_NEWNS) < 0) die("going back to the host's files");
    close(self);
    return view;
}

static void set_up(void) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++) sigaction(number, &action, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    watch_children();
    umask(0);
    raise_open_files();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (dup3(0, SERVER, O_CLOEXEC) < 0 || null < 0 || dup2(null, 0) < 0)
        die("keeping the socket");
    if (syscall(NR_close_range, SERVER + 1, ~0U, 0) < 0) die("closing what was inherited");
}

int main(void) {
    struct request request;
    control_fd = 0;
    set_up();
    control_fd = SERVER;
    if (!receive(&request)) return 0;
    if (request.count != 1) return 2;
    struct view view = prepare(document_read(request.fds[0]));
    release(&request);
    filter_build();
    char version[] = {'K', PROTOCOL, (char)landlock_version(), pool_open()};
    report(version, sizeof version, NULL, 0);
    pool_fill();
    for (;;) {
        wait_for_request();
        if (!receive(&request)) return 0;
        pool_take_back();
        if (request.count >= 4) serve(&view, &request);
        release(&request);
        pool_fill();
    }
}
