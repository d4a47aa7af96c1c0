/* The network of a sandbox: a loopback interface, and the sockets on which the witness answers. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

#define BACKLOG 1024

bool network_raise_loopback(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_up = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    if (fd >= 0) close(fd);
    return is_up;
}

static void add(struct nlmsghdr *header, unsigned short type, uint32_t value) {
    struct rtattr *attribute = (struct rtattr *)((char *)header + NLMSG_ALIGN(header->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(sizeof value);
    memcpy(RTA_DATA(attribute), &value, sizeof value);
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

/* `ip route add local 0.0.0.0/0 dev lo`: every IPv4 address is then one of our own (executor.ports,
 * REDIRECTED).
 */
static void route_everything(void) {
    struct {
        struct nlmsghdr header;
        struct rtmsg route;
        char attributes[64];
    } request = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                   .nlmsg_type = RTM_NEWROUTE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
        .route = {.rtm_family = AF_INET,
                  .rtm_table = RT_TABLE_LOCAL,
                  .rtm_protocol = RTPROT_BOOT,
                  .rtm_scope = RT_SCOPE_HOST,
                  .rtm_type = RTN_LOCAL},
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[256];
    } answer;
    add(&request.header, RTA_OIF, if_nametoindex("lo"));
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || send(fd, &request, request.header.nlmsg_len, 0) < 0)
        die("asking for a route");
    ssize_t size = recv(fd, &answer, sizeof answer, 0);
    close(fd);
    if (size < (ssize_t)NLMSG_LENGTH(sizeof answer.error) ||
        answer.header.nlmsg_type != NLMSG_ERROR) {
        errno = EPROTO;
        die("adding a route");
    }
    errno = -answer.error.error;
    if (errno != 0) die("adding a route");
}

/* Sees every TCP packet of the namespace, also to ports where nobody listens. */
static int open_raw(void) {
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (fd < 0) die("opening a raw socket in the sandbox");
    return fd;
}

static int listen_on(uint32_t flags, uint32_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, type = flags & LISTEN_DATAGRAM ? SOCK_DGRAM : SOCK_STREAM;
    address.sin_addr.s_addr = htonl(flags & LISTEN_ANY ? INADDR_ANY : INADDR_LOOPBACK);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        (type == SOCK_STREAM && listen(fd, BACKLOG) < 0))
        die("listening on port %u in the sandbox", port);
    return fd;
}

bool network_is_own(struct document document) {
    struct record record;
    while (document_next(&document, &record))
        if (record.op == OP_OWN_NETWORK || record.op == OP_LISTEN || record.op == OP_REDIRECT)
            return true;
    return false;
}

int network_open(struct document document, int *fds, int limit) {
    struct record record;
    int count = 0;
    if (!network_raise_loopback()) die("raising the loopback interface");
    while (document_next(&document, &record)) {
        if (record.op == OP_REDIRECT) route_everything();
        if (record.op != OP_LISTEN) continue;
        if (count == limit) {
            errno = 0;
            die("over %d listening sockets", limit);
        }
        uint32_t flags = take_u32(&record);
        fds[count++] = flags & LISTEN_RAW ? open_raw() : listen_on(flags, take_u32(&record));
    }
    return count;
}
