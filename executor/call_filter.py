"""A filter of system calls (seccomp(2)) for bubblewrap's sandboxes: it denies what must not be
reached there, and what no namespace keeps away.

A session keyring goes from a process to all that it starts, and what is in it can be read by them:
the daemon's could hold somebody's Kerberos tickets. io_uring makes calls that no filter sees.
"""

from __future__ import annotations

import errno
import struct

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
_X32 = 0x40000000
_NUMBERS = {
    0xC000003E: (*_X86_64, *(_X32 + number for number in _X86_64)),
    0x40000003: (286, 287, 288, *_IO_URING),
    0xC00000B7: (217, 218, 219, *_IO_URING),
    0x40000028: (309, 310, 311, *_IO_URING),
}
"""By AUDIT_ARCH_*: x86_64 with its second numbering, i386, aarch64, arm."""
_ARCHITECTURE, _NUMBER = 4, 0
"""Where struct seccomp_data has them."""
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def program() -> bytes:
    """Answers the filter, as classic BPF: what is denied fails with ENOSYS."""
    code = [_instruction(_LOAD, _ARCHITECTURE)]
    for architecture, numbers in _NUMBERS.items():
        code += [
            _instruction(_JUMP_EQUAL, architecture, 0, len(numbers) + 3),
            _instruction(_LOAD, _NUMBER),
            *(
                _instruction(_JUMP_EQUAL, number, len(numbers) - place, 0)
                for place, number in enumerate(numbers)
            ),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _ERRNO | errno.ENOSYS),
        ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
