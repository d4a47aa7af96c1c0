"""Packages of Debian that tests take apart and do not install."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path


def kernel_package(name: str) -> str:
    """The package that a kernel's general name stands for at present."""
    depends = ["apt-cache", "depends", "--important", name]
    listed = subprocess.run(depends, capture_output=True, text=True, check=False).stdout
    if name not in listed:
        # The package lists are absent.
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        listed = subprocess.run(depends, capture_output=True, text=True, check=True).stdout
    (package, *_) = re.findall(r"linux-image-\d\S+", listed)
    return str(package)


def unpack(package: str, directory: Path) -> None:
    """Downloads a package and unpacks it, with nothing that installing it would do besides."""
    with tempfile.TemporaryDirectory() as downloads:
        # apt gives up its rights for the download, to a user who must be able to write there.
        Path(downloads).chmod(0o777)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=downloads, check=True)
        (archive,) = Path(downloads).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, directory], check=True)
