"""A filter of system calls (seccomp(2)) for bubblewrap's sandboxes: it denies what must not be
reached there, and what no namespace keeps away.

A session keyring goes from a process to all that it starts, and what is in it can be read by them:
the daemon's could hold somebody's Kerberos tickets. io_uring makes calls that no filter sees.
"""

from __future__ import annotations

import errno
from functools import cache

from executor.bpf import (
    ALLOW,
    ARCHITECTURE,
    ERRNO,
    JUMP_EQUAL,
    LOAD,
    NUMBER,
    RETURN,
    X32,
    instruction,
)

DENIED = (
    "add_key",
    "request_key",
    "keyctl",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
)

_IO_URING = (425, 426, 427)
_X86_64 = (248, 249, 250, *_IO_URING)
_NUMBERS = {
    0xC000003E: (*_X86_64, *(X32 + number for number in _X86_64)),
    0x40000003: (286, 287, 288, *_IO_URING),
    0xC00000B7: (217, 218, 219, *_IO_URING),
    0x40000028: (309, 310, 311, *_IO_URING),
}
"""By AUDIT_ARCH_*: x86_64 with its second numbering, i386, aarch64, arm."""


@cache
def program() -> bytes:
    """Answers the filter, as classic BPF: what is denied fails with ENOSYS."""
    code = [instruction(LOAD, ARCHITECTURE)]
    for architecture, numbers in _NUMBERS.items():
        code += [
            instruction(JUMP_EQUAL, architecture, 0, len(numbers) + 3),
            instruction(LOAD, NUMBER),
            *(
                instruction(JUMP_EQUAL, number, len(numbers) - place, 0)
                for place, number in enumerate(numbers)
            ),
            instruction(RETURN, ALLOW),
            instruction(RETURN, ERRNO | errno.ENOSYS),
        ]
    return b"".join([*code, instruction(RETURN, ALLOW)])
