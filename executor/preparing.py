"""What an action asks for, checked; and its input root made ready for the command."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from executor.errors import InvalidInput
from executor.options import ExecutorOptions, FilesystemRoot
from executor.outputs import requests_of
from executor.paths import DIRECTORY_FLAGS, join, locate, make_parents, make_parents_beside
from executor.spec import OutputRequest, Work
from executor.staging import FIXED_MTIME_S

ROOTFS = "rootfs"
"""The platform property by which an action names its root filesystem."""
MOUNTED_IN_ROOT = ("dev", "proc", "tmp")
"""What every action gets of its own, also where its input root is the filesystem root."""

Requests = Sequence[tuple[tuple[str, ...], OutputRequest]]
"""Outputs that are wanted back, each with the components of its path below the input root."""


def wants_input_root(policy: FilesystemRoot, work: Work) -> bool:
    """Tells whether an action is to see its input root as `/`."""
    if policy is not FilesystemRoot.REQUESTED:
        return policy is FilesystemRoot.INPUTS
    asked = dict(work.platform)
    return asked.get("chroot-input-root", "").lower() == "true" or "unixUID" in asked


def asks_for_rootfs(work: Work) -> bool:
    """Tells whether an action names a root filesystem."""
    return any(name == ROOTFS for name, _ in work.platform)


def timeout_of(work: Work, options: ExecutorOptions) -> float:
    """Answers how many seconds an action's command may run."""
    return options.max_timeout_s if work.timeout_s is None else work.timeout_s


def check(work: Work, options: ExecutorOptions) -> Requests:
    """Checks all that needs no blob; answers the output requests. Raises InvalidInput."""
    if not work.arguments or not work.arguments[0]:
        raise InvalidInput("the command has no arguments; arguments[0] names what to run")
    for argument in work.arguments:
        if "\0" in argument:
            raise InvalidInput(f"argument {argument[:100]!r} holds a NUL character")
    for name, value in work.environment:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidInput(f"environment variable {name[:100]!r} has a bad name or value")
    if work.timeout_s is not None and not 0 <= work.timeout_s <= options.max_timeout_s:
        raise InvalidInput(
            f"timeout of {work.timeout_s:g} s: this worker allows up to {options.max_timeout_s:g} s"
        )
    return requests_of(work)


def prepare(
    directory: str, requests: Requests, root: str, lowers: Sequence[str], mounted_at: str
) -> tuple[str, ...]:
    """Finds the working directory of the input tree, and makes the parents of outputs in `root`.

    `lowers` is where the input tree is, if not in the root but below it.

    Answers the working directory, which no link leads through when the input root is the filesystem
    root: what the launcher mounts there is no place of the tree's. Raises InvalidInput, OSError.
    """
    with ExitStack() as opened:
        roots: list[int] = []
        for path in lowers or (root,):
            roots.append(os.open(path, DIRECTORY_FLAGS))
            opened.callback(os.close, roots[-1])
        cwd = join("", directory)
        place = locate(roots, cwd, mounted_at, follow_last=True)
        if place is None or place.status is None or not stat.S_ISDIR(place.status.st_mode):
            raise InvalidInput(
                f"working directory {directory[:200]!r} is not a directory of the input tree"
            )
        if mounted_at == "/":
            cwd = place.parts
            if cwd and cwd[0] in MOUNTED_IN_ROOT:
                raise InvalidInput(
                    f"working directory {directory[:200]!r} lies in /{cwd[0]}, which is not the"
                    " input tree's when that is the filesystem root"
                )
        for parts, _ in requests:
            if lowers:
                make_parents_beside(roots, parts[:-1], mounted_at, FIXED_MTIME_S, root)
            else:
                make_parents(roots[0], parts[:-1], mounted_at, FIXED_MTIME_S)
    return cwd
