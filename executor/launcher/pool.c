/* Network namespaces that one sandbox after the other gets: to make and free one is a quarter of what
 * a sandbox costs.
 *
 * Another sandbox gets one only if nothing can have been left in it, and so only if no command was
 * ever let make a socket there. No counter tells: sockets that are gone leave state behind, and a
 * socket can outlive its last descriptor. So the filter holds such calls (filter.c), the first process
 * of the sandbox lets them go, and after a regular end it says if there was none. Whatever else
 * becomes of a sandbox, its namespace is let go of.
 *
 * The namespaces belong to the launcher's user namespace, over which no command has a capability.
 * The launcher itself stays in the one that it made last, and makes no other socket there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"

enum { PLACES = 64 };

static struct {
    int network; /* -1: there is none. */
    pid_t user;  /* 0: nobody. */
} places[PLACES];
static volatile bool *as_new; /* Of each place; shared with the first processes of sandboxes. */

bool pool_open(void) {
    if (!filter_can_hold()) return false;
    for (int i = 0; i < PLACES; i++) places[i].network = -1;
    void *page = mmap(NULL, PLACES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) die("sharing memory with sandboxes");
    as_new = page;
    return true;
}

static int make(void) {
    if (unshare(CLONE_NEWNET) < 0 || !network_raise_loopback()) return -1;
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

void pool_fill(void) {
    int place = -1;
    if (!as_new) return;
    for (int i = 0; i < PLACES; i++) {
        if (places[i].network < 0) place = i;
        else if (places[i].user == 0) return;
    }
    if (place >= 0) places[place].network = make();
}

struct lent pool_lend(void) {
    for (int i = 0; as_new && i < PLACES; i++) {
        if (places[i].network < 0 || places[i].user != 0) continue;
        as_new[i] = false;
        return (struct lent){i, places[i].network, &as_new[i]};
    }
    return (struct lent){.network = -1};
}

void pool_lent_to(struct lent lent, pid_t user) {
    if (lent.network >= 0) places[lent.place].user = user;
}

/* A first process is reaped after all others of its sandbox, so nobody is in its namespace then. */
void pool_take_back(void) {
    for (pid_t ended; (ended = waitpid(-1, NULL, WNOHANG)) > 0;) {
        for (int i = 0; as_new && i < PLACES; i++) {
            if (places[i].user != ended) continue;
            places[i].user = 0;
            if (as_new[i]) continue;
            close(places[i].network);
            places[i].network = -1;
        }
    }
}
