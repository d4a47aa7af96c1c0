"""The filter of system calls for bubblewrap's sandboxes, walked as the kernel does."""

import errno
import struct

import pytest

from executor.call_filter import program

ALLOW, DENY = 0x7FFF0000, 0x00050000 | errno.ENOSYS
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x40000000


def answer(architecture: int, number: int) -> int:
    """What a call is answered: seccomp_data begins with its number and the architecture."""
    code = list(struct.iter_unpack("=HBBI", program()))
    loaded, at = 0, 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x06:
            return int(value)
        if kind == 0x20:
            loaded = {0: number, 4: architecture}[value]
        else:
            assert kind == 0x15
            at += if_true if loaded == value else if_false


@pytest.mark.parametrize(
    ("architecture", "first"),
    [(X86_64, 248), (X86_64, X32 + 248), (I386, 286), (AARCH64, 217), (ARM, 309)],
)
def test_keyrings_are_denied_by_every_numbering(architecture: int, first: int) -> None:
    """add_key, request_key and keyctl follow each other on all."""
    answers = [answer(architecture, number) for number in range(first - 1, first + 4)]

    assert answers == [ALLOW, DENY, DENY, DENY, ALLOW]


@pytest.mark.parametrize("architecture", [X86_64, I386, AARCH64, ARM])
def test_io_uring_is_denied_and_all_else_is_not(architecture: int) -> None:
    denied = [number for number in range(500) if answer(architecture, number) == DENY]

    assert len(denied) == 6
    assert denied[3:] == [425, 426, 427]
    assert answer(X86_64, X32 + 426) == DENY


def test_architecture_without_these_numbers_is_let_through() -> None:
    assert answer(0xC00000F3, 250) == ALLOW
