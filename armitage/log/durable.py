"""Files that are there whole or not at all, also when the power fails in the middle of a change."""

from __future__ import annotations

from itertools import count

from cas.volume import Volume

FOLDER = "new"
"""Where a file is written before it gets its name."""


class Replacer:
    """Writes files of one volume apart, and gives them their names when they are durable."""

    def __init__(self, volume: Volume) -> None:
        """Clears away what a crash left half written."""
        self._volume = volume
        self._numbers = count()
        volume.make_folder(FOLDER)
        for leftover in list(volume.scan(FOLDER)):
            volume.remove(leftover.name)

    def write_apart(self, content: bytes) -> str:
        """Answers the durable file's temporary name."""
        temporary = f"{FOLDER}/{next(self._numbers)}"
        file = self._volume.create(temporary)
        try:
            file.write([content], 0)
            file.sync()
        finally:
            file.close()
        return temporary

    def replace(self, name: str, content: bytes) -> None:
        """Writes a file in place of any of that name; its folder is still to be synced."""
        self._volume.rename(self.write_apart(content), name)


def read_file(volume: Volume, name: str) -> bytes:
    """Answers the whole file. Raises FileNotFoundError."""
    file = volume.open(name)
    try:
        return file.read(file.id().size_bytes, 0)
    finally:
        file.close()
