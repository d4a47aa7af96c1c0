"""What a worker process gives up before it touches a program that it is handed.

WebAssembly itself confines the program. This is for the day on which a hole is found in the engine:
whoever is through it finds a process that cannot open files outside the scratch space, make
sockets, start programs, become more, or look into others.

Each is taken where the kernel has it, and what was taken is told: it is part of the profile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Mapping
from pathlib import Path

from executor.bpf import (
    ALLOW,
    ARCHITECTURE,
    ERRNO,
    FIRST_ARGUMENT,
    JUMP_AT_LEAST,
    JUMP_EQUAL,
    JUMP_SET,
    KILL,
    LOAD,
    NUMBER,
    RETURN,
    X32,
    instruction,
)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
"""The same on every architecture."""
_LANDLOCK_VERSION = 1
_LANDLOCK_PATH_BENEATH = 1
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""Access rights to files, by the version of Landlock that brought them (linux/landlock.h)."""
_NOT_IN_SCRATCH = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11
"""To execute; to make character devices, sockets, fifos and block devices."""
_TCP = {4: 1 << 0 | 1 << 1}
_SCOPES = {6: 1 << 0 | 1 << 1}
"""No abstract sockets, no signals to processes outside."""

_DENIED = {
    "x86_64": {
        "socket": 41, "connect": 42, "bind": 49, "listen": 50, "socketpair": 53, "fork": 57,
        "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "rt_sigqueueinfo": 129,
        "personality": 135, "pivot_root": 155, "chroot": 161,
        "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
        "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "kexec_load": 246, "tkill": 200,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "rt_tgsigqueueinfo": 297, "perf_event_open": 298,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320,
        "bpf": 321, "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424,
        "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsmount": 432, "pidfd_open": 434, "pidfd_getfd": 438,
        "process_madvise": 440, "mount_setattr": 442,
    },
    "aarch64": {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "quotactl": 60, "acct": 89,
        "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105,
        "delete_module": 106, "ptrace": 117, "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138,
        "reboot": 142, "sethostname": 161,
        "setdomainname": 162, "socket": 198, "socketpair": 199,
        "bind": 200, "listen": 201, "connect": 203,
        "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221, "swapon": 224,
        "swapoff": 225, "rt_tgsigqueueinfo": 240, "perf_event_open": 241,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "kcmp": 272, "finit_module": 273, "bpf": 280, "execveat": 281, "userfaultfd": 282,
        "kexec_file_load": 294, "pidfd_send_signal": 424,
        "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
        "fsmount": 432, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
        "mount_setattr": 442,
    },
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, 56, 302), "aarch64": (0xC00000B7, 220, 261)}
"""AUDIT_ARCH_* and the numbers of clone and prlimit64."""
_CLONE3 = 435
_CLONE_VM = 0x100


def confine(scratch: Path, limits: Mapping[int, int]) -> dict[str, str]:
    """Confines this process, which has one thread, for good; answers what was taken.

    Files can be opened below `scratch` alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for which, wanted in limits.items():
        _, hard = resource.getrlimit(which)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (limit, limit))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {"no_new_privs": "no", "landlock": "no", "seccomp": "no"}
    return {
        "no_new_privs": "yes",
        "landlock": _restrict_files(libc, scratch),
        "seccomp": _filter_calls(libc),
    }


def _restrict_files(libc: ctypes.CDLL, scratch: Path) -> str:
    """Landlock (landlock(7)); answers its version, or no."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return "no"
    files, tcp, scopes = (_of(version, rights) for rights in (_FILES, _TCP, _SCOPES))
    attributes = struct.pack("=QQQ", files, tcp, scopes)
    # Older kernels know a shorter structure.
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, size, 0)
    if ruleset < 0:
        return "no"
    place = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", files & ~_NOT_IN_SCRATCH, place)
        if libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0):
            return "no"
        return "no" if libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) else f"version {version}"
    finally:
        os.close(place)
        os.close(ruleset)


def _of(version: int, rights: Mapping[int, int]) -> int:
    return sum(bits for since, bits in rights.items() if since <= version)


def _filter_calls(libc: ctypes.CDLL) -> str:
    """A filter of system calls (seccomp(2)): what is denied fails with EPERM."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return "no"
    instructions = _program(machine)
    code = ctypes.create_string_buffer(instructions, len(instructions))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(instructions) // 8, ctypes.addressof(code))
    failed = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return "no" if failed else "yes"


def _program(machine: str) -> bytes:
    architecture, clone, prlimit = _ARCHITECTURES[machine]
    deny = [instruction(RETURN, ERRNO | errno.EPERM)]
    code = [
        instruction(LOAD, ARCHITECTURE),
        instruction(JUMP_EQUAL, architecture, 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
    ]
    if machine == "x86_64":
        code += [instruction(JUMP_AT_LEAST, X32, 0, 1), *deny]
    for number in _DENIED[machine].values():
        code += [instruction(JUMP_EQUAL, number, 0, 1), *deny]
    code += [
        # Of itself alone: the supervisor's processes have the same user.
        instruction(JUMP_EQUAL, prlimit, 0, 4),
        instruction(LOAD, FIRST_ARGUMENT),
        instruction(JUMP_EQUAL, 0, 1, 0),
        *deny,
        instruction(RETURN, ALLOW),
        # Its arguments are in memory, out of a filter's sight; libc then falls back to clone.
        instruction(JUMP_EQUAL, _CLONE3, 0, 1),
        instruction(RETURN, ERRNO | errno.ENOSYS),
        # Threads may be made, processes not.
        instruction(JUMP_EQUAL, clone, 0, 3),
        instruction(LOAD, FIRST_ARGUMENT),
        instruction(JUMP_SET, _CLONE_VM, 1, 0),
        *deny,
        instruction(RETURN, ALLOW),
    ]
    return b"".join(code)
