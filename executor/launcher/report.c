/* Messages to Python: one datagram each, its first byte the kind.
 *
 *   P u32 pid          + pidfd: the sandbox's first process
 *   M                  + the root of an overlay, once that is mounted
 *   R                  + listening sockets: all is made, the command starts (or is held)
 *   S                  the command is about to make its first socket, where that is noticed
 *   N u32 errno        the command could not be executed
 *   X u32 status, u64 user us, u64 system us, u64 peak KiB   the command ended
 *   E text             the sandbox could not be made
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

int control_fd = -1;

bool report(const void *message, size_t size, const int *fds, int count) {
    char space[CMSG_SPACE(sizeof(int) * LISTENERS_MAX)];
    struct iovec part = {(void *)message, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(space, 0, sizeof space);
        header.msg_control = space;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(control), fds, sizeof(int) * (size_t)count);
    }
    ssize_t sent;
    do {
        sent = sendmsg(control_fd, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

static void complain_of(const char *format, va_list arguments) {
    int why = errno;
    char text[1024] = "E";
    int used = vsnprintf(text + 1, sizeof text - 1, format, arguments);
    size_t size = used < 0 ? 1 : (size_t)used + 1;
    if (size >= sizeof text) size = sizeof text - 1;
    if (why != 0) {
        int more = snprintf(text + size, sizeof text - size, ": %s", strerror(why));
        size += more < 0 ? 0 : (size_t)more;
        if (size >= sizeof text) size = sizeof text - 1;
    }
    report(text, size, NULL, 0);
}

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    complain_of(format, arguments);
    va_end(arguments);
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    complain_of(format, arguments);
    va_end(arguments);
    _exit(1);
}
