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
"""Of a private key."""


def write_private(path: Path, content: bytes) -> None:
    """Makes the file, which must not be there yet, with mode 0600, durably. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """Raises ConfigError when there is no such file, and when others than its owner can read it.
    What it holds is in no message.
    """
    content, mode = read_with_mode(path, _MAX_BYTES)
    if is_for_others(mode):
        raise ConfigError(
            f"{path}: others can read this private key (mode {mode:04o}); chmod 600 {path}, and"
            " make a new key if anybody may have read it"
        )
    return content


def read_with_mode(path: Path, max_bytes: int, setting: str = "") -> tuple[bytes, int]:
    """Answers what the file begins with, and the mode of that very file. Raises ConfigError, which
    names the setting that leads to it, if one does.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            return file.read(max_bytes), mode
    except OSError as error:
        named = f"{setting}: {path}" if setting else f"{path}:"
        raise ConfigError(f"{named} cannot be read: {error.strerror}") from None


def is_for_others(mode: int) -> bool:
    """Whether anybody but the owner may do anything with a file of that mode."""
    return bool(mode & _OTHERS)


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
    sync_folder(new.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
