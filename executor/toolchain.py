"""What of the host every action sees, read-only, and an `/etc` of our making."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from executor.errors import SandboxUnavailable
from executor.options import ExecutorOptions


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Host paths, parents first, and small files. All by absolute path."""

    shown: tuple[str, ...]
    """Files and directories of the host, at the same path."""
    links: tuple[tuple[str, str], ...]
    """Path and content of symbolic links, made again rather than followed."""
    files: tuple[tuple[str, str], ...]
    """Path and text; none where the host's own `/etc` is shown."""


def read_toolchain(options: ExecutorOptions, private: Path) -> Toolchain:
    """Answers what the options name and the host has.

    Raises SandboxUnavailable when `private`, the scratch directory, or one of the options' private
    directories would be visible.
    """
    paths = sorted({path for pattern in options.toolchain for path in glob.glob(pattern)})
    for place in (private, *options.private):
        for path in paths:
            if place.resolve().is_relative_to(Path(path).resolve()):
                raise SandboxUnavailable(
                    f"{place}, the daemon's own, lies in toolchain path {path}, which every"
                    " action sees; configure another"
                )
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    return Toolchain(
        shown=tuple(path for path in paths if path not in links),
        links=tuple(links.items()),
        files=() if "/etc" in paths else tuple(_etc(options).items()),
    )


def _etc(options: ExecutorOptions) -> dict[str, str]:
    """Answers the files that say who and where a command is."""
    user = f"build:x:{options.uid}:{options.gid}:build:/tmp:/bin/sh\n" if options.uid else ""
    group = f"build:x:{options.gid}:\n" if options.gid else ""
    return {
        "/etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{user}"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "/etc/group": f"root:x:0:\n{group}nogroup:x:65534:\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
