"""Files with keys: private ones made once and readable by their owner alone, and lists beside them
that are there whole or as they were.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from armitage.errors import ConfigError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MAX_BYTES: Final = 4096


def write_private(path: Path, content: bytes) -> None:
    """Makes the file, which must not be there yet, with mode 0600, durably. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    _sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """Raises ConfigError when there is no such file, and when others than its owner can read it.
    What it holds is in no message.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & _OTHERS:
        raise ConfigError(
            f"{path}: others can read this private key (mode {mode:04o}); chmod 600 {path}, and"
            " make a new key if anybody may have read it"
        )
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file in place of any of that name: afterwards one of the two is there, whole,
    whenever the power fails. Raises OSError.
    """
    temporary = path.with_name(f"{path.name}.new")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename_file(temporary, path)


def rename_file(old: Path, new: Path) -> None:
    """Gives a file another name in its folder, durably. Raises OSError."""
    old.replace(new)
    _sync_folder(new.parent)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
