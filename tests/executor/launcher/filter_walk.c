/* Walks the filter of system calls as the kernel does, for every number, without arguments; prints
 * each number that is answered otherwise than the list says, and the longest walk.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>

#include "filter.c"

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    _exit(1);
}

static unsigned longest;

static uint32_t walk(uint32_t arch, uint32_t number) {
    uint32_t value = 0;
    unsigned steps = 0;
    for (const struct sock_filter *at = program;; at++) {
        bool is_true = false;
        if (++steps > longest) longest = steps;
        switch (at->code) {
            case BPF_LD | BPF_W | BPF_ABS:
                value = at->k == offsetof(struct seccomp_data, arch) ? arch
                        : at->k == offsetof(struct seccomp_data, nr) ? number
                                                                     : 0;
                continue;
            case BPF_ALU | BPF_AND | BPF_K:
                value &= at->k;
                continue;
            case BPF_RET | BPF_K:
                return at->k;
            case BPF_JMP | BPF_JEQ | BPF_K:
                is_true = value == at->k;
                break;
            case BPF_JMP | BPF_JGE | BPF_K:
                is_true = value >= at->k;
                break;
            case BPF_JMP | BPF_JSET | BPF_K:
                is_true = value & at->k;
                break;
            default:
                die("instruction %x is not known\n", at->code);
        }
        at += is_true ? at->jt : at->jf;
    }
}

static uint32_t wanted(uint32_t number) {
    static const struct {
        uint32_t number, error;
    } denied[] = {
#define DENY(name, number, error) {number, error},
#include "denied.def"
#undef DENY
        {SYS_socket, EAFNOSUPPORT}, {SYS_socketpair, EAFNOSUPPORT}, /* of family 0 */
    };
    for (size_t i = 0; i < sizeof denied / sizeof *denied; i++)
        if (denied[i].number == number) return SECCOMP_RET_ERRNO | denied[i].error;
    return number > NEWEST ? SECCOMP_RET_ERRNO | ENOSYS : SECCOMP_RET_ALLOW;
}

static void compare(uint32_t number) {
    uint32_t met = walk(NATIVE, number);
    if (met != wanted(number)) printf("wrong %u: %x, not %x\n", number, met, wanted(number));
    if (walk(NATIVE ^ 1, number) != SECCOMP_RET_KILL_PROCESS) printf("foreign %u\n", number);
}

int main(void) {
    filter_build();
    for (uint32_t number = 0; number < 4096; number++) {
        compare(number);
        compare(0x40000000u + number);
        compare(UINT32_MAX - number);
    }
    printf("longest %u\n", longest);
    return 0;
}
