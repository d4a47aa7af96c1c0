"""The files that guests are made of: which they are, for the evidence, though they may change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_Sight = tuple[int, int, int, int]
"""What changes when a file does: device, inode, size, time."""


class MadeOf:
    """Knows files by SHA-256, and reads them again only when they have changed."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` are what they are for, and where."""
        self._files = files
        self._seen: dict[str, _Sight] = {}
        self.hashes: dict[str, str] = {}
        """By what they are for, as of the last look."""

    def look(self) -> None:
        """Reads what has changed since the last look. Blocking. Raises OSError."""
        for name, path in self._files.items():
            sight = _sight(path)
            if self._seen.get(name) != sight:
                with path.open("rb") as file:
                    self.hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
                self._seen[name] = sight

    def is_as_seen(self) -> bool:
        """Tells whether nothing has changed since the last look. Raises OSError."""
        return all(self._seen.get(name) == _sight(path) for name, path in self._files.items())


def _sight(path: Path) -> _Sight:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
