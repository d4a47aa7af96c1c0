"""What of its input root a program sees, and by which names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from executor.errors import InvalidInput
from executor.outputs import requests_of
from executor.paths import BUILD_ROOT, DIRECTORY_FLAGS, join, locate
from executor.process import Job
from executor.wasm.engine import Preopen


def path_in_tree(job: Job) -> str:
    """Answers where arguments[0] leads, relative to the root. Raises FileNotFoundError."""
    name = job.work.arguments[0]
    base = "/".join(job.cwd)
    if name.startswith(BUILD_ROOT + "/"):
        name, base = name.removeprefix(BUILD_ROOT + "/"), ""
    try:
        parts = join(base, name)
    except InvalidInput as error:
        raise FileNotFoundError(name) from error
    root_fd = os.open(job.root, DIRECTORY_FLAGS)
    try:
        place = locate((root_fd,), parts, BUILD_ROOT, follow_last=True)
    finally:
        os.close(root_fd)
    if place is None or place.status is None or not stat.S_ISREG(place.status.st_mode):
        raise FileNotFoundError(name)
    return "/".join(place.parts)


def preopens(job: Job) -> tuple[Preopen, ...]:
    """Answers the directories that a program sees, those for writing by every name they have."""
    found: dict[str, Preopen] = {}
    private = os.path.join(os.path.dirname(job.root), "private")
    os.mkdir(private, 0o700)
    root_fd = os.open(job.root, DIRECTORY_FLAGS)

    def show(guest: str, parts: Sequence[str], *, writable: bool) -> None:
        place = locate((root_fd,), parts, BUILD_ROOT, follow_last=True)
        if place is not None and place.status is not None and stat.S_ISDIR(place.status.st_mode):
            found[guest] = Preopen("/".join((job.root, *place.parts)), guest, writable)

    try:
        show(BUILD_ROOT, (), writable=False)
        show(".", job.cwd, writable=False)
        for parts, _ in requests_of(job.work):
            parent = parts[:-1]
            show("/".join((BUILD_ROOT, *parent)), parent, writable=True)
            show(_relative(parent, job.cwd), parent, writable=True)
    finally:
        os.close(root_fd)
    found["/tmp"] = Preopen(private, "/tmp", writable=True)  # noqa: S108 (the program's own)
    # What lies in a directory for writing is for writing by any name.
    open_ = tuple(one.host + "/" for one in found.values() if one.writable)
    return tuple(
        replace(one, writable=True)
        if not one.writable and f"{one.host}/".startswith(open_)
        else one
        for one in found.values()
    )


def _relative(parts: Sequence[str], start: Sequence[str]) -> str:
    shared = 0
    while shared < min(len(parts), len(start)) and parts[shared] == start[shared]:
        shared += 1
    return "/".join((*([".."] * (len(start) - shared)), *parts[shared:])) or "."
