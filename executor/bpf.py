"""Classic BPF over struct seccomp_data, the language of filters of system calls (seccomp(2))."""

from __future__ import annotations

import struct

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Where what LOAD takes is: of an argument, its lower half."""
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
X32 = 0x40000000
"""The first number of x86_64's second numbering."""


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Answers a struct sock_filter; the last two are how many instructions a jump leaves out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
