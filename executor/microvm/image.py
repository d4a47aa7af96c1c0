"""Makes the image of the toolchain that guests see as their read-only system."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from executor.errors import SandboxUnavailable
from executor.probe import SYSTEM_PATH


def make_image(toolchain: Sequence[str], image: Path, root: Path = Path("/")) -> list[str]:
    """Makes a squashfs image of host paths (or patterns); answers those that it holds.

    `root` is where the host's paths begin. Equal files give equal images. Nothing appears under the
    name before it is whole.

    Raises SandboxUnavailable, saying what is missing or failed.
    """
    mksquashfs = shutil.which("mksquashfs", path=SYSTEM_PATH)
    tar = shutil.which("tar", path=SYSTEM_PATH)
    if mksquashfs is None or tar is None:
        raise SandboxUnavailable(
            "images of toolchains are made with mksquashfs and tar: apt-get install squashfs-tools"
        )
    patterns = [pattern.lstrip("/") for pattern in toolchain]
    paths = sorted({path for one in patterns for path in glob.glob(one, root_dir=root)})
    if not paths:
        raise SandboxUnavailable(f"none of {', '.join(toolchain)} exists; name what guests need")
    draft = image.with_name(f".{image.name}.draft")
    try:
        _pipe(
            [tar, "--sort=name", "--numeric-owner", "-C", str(root), "-cf", "-", "--", *paths],
            [
                *(mksquashfs, "-", str(draft), "-tar", "-quiet", "-no-progress", "-noappend"),
                *("-comp", "zstd", "-Xcompression-level", "3", "-all-time", "0", "-mkfs-time", "0"),
            ],
        )
        os.replace(draft, image)
    except OSError as error:
        raise SandboxUnavailable(f"{image}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return [f"/{path}" for path in paths]


def _pipe(first: Sequence[str], second: Sequence[str]) -> None:
    """Runs two programs, the output of one being the input of the other."""
    with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as left:
        done = subprocess.run(second, stdin=left.stdout, capture_output=True, check=False)
        assert left.stdout is not None
        assert left.stderr is not None
        left.stdout.close()
        words = left.stderr.read()
    for name, code, text in (
        (first[0], left.returncode, words),
        (second[0], done.returncode, done.stderr),
    ):
        if code:
            last = text.decode(errors="replace").strip()[-300:] or f"exit code {code}"
            raise SandboxUnavailable(f"{name} failed: {last}")
