"""What a guest is told of its one action, as files of an initramfs (see init.sh)."""

from __future__ import annotations

import shlex
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from executor.microvm import cpio
from executor.spec import PassedDevice

_BUSYBOX = "/dev/armitage/busybox"


@dataclass(frozen=True, slots=True)
class GuestJob:
    """One command, and where it runs."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    """As the command sees it."""
    token: str
    """What the lines begin with that it says on its console."""
    outputs: tuple[tuple[str, ...], ...]
    """Places below the input root; no components are the input root itself."""
    is_root: bool
    mounted_at: str
    uid: int
    gid: int
    hostname: str
    etc: tuple[tuple[str, str], ...]
    """Files of its /etc, unless the input root is its root."""
    tmp_bytes: int
    open_files: int
    disks: tuple[str, ...] = ()
    """Names of its disks, in their order; none: the disks know their names themselves."""
    ports: tuple[int, ...] = ()
    """On which its loopback leads to the witness; none where it has no network."""
    files: tuple[tuple[str, bytes], ...] = ()
    """More files that it sees, by their absolute paths."""
    devices: tuple[PassedDevice, ...] = ()
    """That are passed through to it, in the order of their slots."""


def pack_job(job: GuestJob) -> bytes:
    """Answers the archive that goes behind the base's."""
    return cpio.pack(
        [
            cpio.directory("job"),
            cpio.file("job/settings", _settings(job)),
            cpio.file("job/run", _run(job)),
            cpio.directory("job/etc"),
            cpio.directory("job/files"),
            *(cpio.directory(f"job/files{path}") for path in _parents(job.files)),
            *(cpio.file(f"job/files{path}", data) for path, data in job.files),
            *_devices(job.devices),
            *(cpio.file(f"job/etc/{name}", _encoded(text)) for name, text in job.etc),
            cpio.file(
                "job/outputs", b"".join(_encoded(_below(one)) + b"\0" for one in job.outputs)
            ),
        ]
    )


def _devices(devices: Sequence[PassedDevice]) -> list[cpio.Item]:
    lines = [f"{one.ids} {one.module} {one.version}\n" for one in devices]
    nodes = dict.fromkeys(f"{node}\n" for one in devices for node in one.nodes)
    texts = {"devices": lines, "nodes": nodes} if devices else {}
    return [cpio.file(f"job/{name}", _encoded("".join(text))) for name, text in texts.items()]


def _parents(files: Sequence[tuple[str, bytes]]) -> list[str]:
    """Answers all directories that files are in, parents first."""
    return sorted(
        {str(parent) for path, _ in files for parent in PurePosixPath(path).parents} - {"/"}
    )


def _settings(job: GuestJob) -> bytes:
    values = {
        "TOKEN": job.token,
        "DISKS": " ".join(map("=".join, zip(job.disks, _nodes(), strict=False))),
        "IS_ROOT": str(int(job.is_root)),
        "MOUNTED_AT": job.mounted_at,
        "HOST_NAME": job.hostname,
        "TMP_BYTES": str(job.tmp_bytes),
        "WITNESS_PORTS": " ".join(map(str, job.ports)),
    }
    return _encoded("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


def _nodes() -> Iterator[str]:
    """Answers the nodes of disks, in the order in which the kernel finds them."""
    return (f"/dev/vd{letter}" for letter in string.ascii_lowercase)


def _run(job: GuestJob) -> bytes:
    """Answers the script that becomes the command; busybox's shell in the action's root reads it.

    nsenter enters nothing here: it is the applet that takes a user by number and then executes.
    """
    program = job.arguments[0]
    path = dict(job.environment).get("PATH", "")
    start = [
        *(_BUSYBOX, "setpriv", "--nnp"),
        *(_BUSYBOX, "env", "-i", *(f"{name}={value}" for name, value in job.environment)),
        *(_BUSYBOX, "nsenter", "-F", "-S", str(job.uid), "-G", str(job.gid)),
    ]
    search = (
        'for at in $PATH; do if [ -f "$at/$program" ]; then found=$at/$program; break; fi; done'
    )
    lines = [
        f"cd {shlex.quote(job.cwd)} || exit 126",
        f"ulimit -n {job.open_files}",
        "ulimit -c 0",
        "umask 022",
        f"PATH={shlex.quote(path)}",
        f"program={shlex.quote(program)}",
        # By hand: busybox would rather take an applet of its own than the toolchain's program.
        "found=",
        "IFS=:",
        search,
        "unset IFS",
        "case $program in */*) found=$program ;; esac",
        # As shells have it: 127 for what is not there, 126 for what cannot be run.
        'why() { echo "armitage: cannot run $program: $2" >&2; exit "$1"; }',
        '[ -n "$found" ] && [ -e "$found" ] || why 127 "No such file or directory"',
        '[ ! -d "$found" ] && [ -x "$found" ] || why 126 "Permission denied"',
        f'exec {shlex.join(start)} "$found" {shlex.join(job.arguments[1:])}',
    ]
    return _encoded("".join(f"{line}\n" for line in lines))


def _below(parts: Sequence[str]) -> str:
    return "/".join((".", *parts))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
