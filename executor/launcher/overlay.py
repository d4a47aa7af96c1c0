"""Whether sandboxes can show input trees as overlays here: tried with all that it takes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from executor.errors import SandboxUnavailable, WorkerFailure
from executor.input_overlay import Overlay
from executor.launcher.own import OwnLauncher, trial_job, trial_launcher
from executor.launching import Confinement
from executor.scratch import Scratch

_SCRIPT = "echo more >> kept && rm gone && rm -r d && mkdir d && : > d/new"


def try_overlay(launcher: OwnLauncher, scratch: Scratch, confinement: Confinement) -> str:
    """Runs a sandbox over a small tree, and looks at what it leaves; answers the complaint, empty
    when all is well. Blocks for some 5 ms.
    """
    try:
        place = scratch.make("overlay-trial")
        try:
            return _try(launcher, place, confinement)
        finally:
            scratch.discard(place)
    except (OSError, SandboxUnavailable, WorkerFailure) as error:
        return str(error)


def try_overlay_anywhere() -> str:
    """Tries it in the directory for temporary files. Blocks for some 30 ms."""
    try:
        with (
            trial_launcher() as (launcher, place, confinement),
            contextlib.closing(Scratch(place)) as scratch,
        ):
            return try_overlay(launcher, scratch, confinement)
    except SandboxUnavailable as error:
        return str(error)


def _try(launcher: OwnLauncher, place: Path, confinement: Confinement) -> str:
    lower, other, upper, work = (place / name for name in ("lower", "other", "root", "root.work"))
    for path in (lower, other, upper, work, lower / "d", other / "d"):
        path.mkdir()
    for path in (lower / "kept", other / "gone", lower / "d" / "old", other / "d" / "too"):
        path.write_text("as it was\n")
    if complaint := _attributes_missing(upper):
        return complaint
    job = trial_job(str(upper))
    overlay = Overlay((str(lower), str(other)), str(work), lambda: None)
    work_item = replace(job.work, arguments=("/bin/sh", "-c", _SCRIPT))
    with contextlib.closing(overlay):
        launcher.try_out(replace(job, work=work_item, overlay=overlay), confinement)
        seen, kept = _read(overlay.merged), {**_read(str(lower)), **_read(str(other))}
    old = "as it was\n"
    if seen != {"kept": old + "more\n", "d/new": ""}:
        return f"a trial overlay showed {sorted(seen)}"
    if kept != dict.fromkeys(("kept", "gone", "d/old", "d/too"), old):
        return "a trial overlay changed what is below it"
    return ""


def _attributes_missing(place: Path) -> str:
    """Answers what is wrong with a filesystem where nothing can be marked as gone, which an overlay
    is told only when something goes.
    """
    try:
        os.setxattr(place, "user.trial", b"")
    except OSError as error:
        return (
            f"{place} is on a filesystem without user extended attributes ({error.strerror});"
            " choose another for executor.scratch (tmpfs has them from Linux 6.6 on)"
        )
    return ""


def _read(root: str) -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            found[os.path.relpath(path, root)] = path.read_text()
    return found
