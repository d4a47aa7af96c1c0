"""Reads objects of a git repository through one process that stays (`git cat-file --batch`)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from threading import Lock
from typing import Final

from armitage.attest.git import GitFailed, GitStore

_HASH_BYTES: Final = 20
_PIECE: Final = 1 << 16


class Objects:
    """One reader. Its methods block; they may be called from any thread."""

    def __init__(self, store: GitStore) -> None:
        self._store = store
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Answers an object, by its hash or as `COMMIT:PATH`; None where there is none or it is
        larger. Raises GitFailed.
        """
        with self._lock:
            try:
                return self._ask(name, max_bytes)
            except (OSError, ValueError):
                # It was killed, perhaps; once more, with another.
                self._stop()
            try:
                return self._ask(name, max_bytes)
            except (OSError, ValueError) as error:
                self._stop()
                raise GitFailed(f"git cat-file: {error}") from error

    def close(self) -> None:
        """Ends the process. Idempotent."""
        with self._lock:
            self._stop()

    def _ask(self, name: str, max_bytes: int) -> bytes | None:
        assert "\n" not in name
        if self._process is None:
            self._process = self._store.start("cat-file", "--batch")
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None
        assert answering is not None
        asking.write(f"{name}\n".encode())
        asking.flush()
        head = answering.readline()
        if head.endswith(b" missing\n"):
            return None
        size = int(head.split()[2]) if head.count(b" ") == 2 else -1
        if size < 0:
            raise ValueError(f"it answered {head[:80]!r}")
        content = self._take(size, max_bytes)
        if answering.read(1) != b"\n":
            raise ValueError("its answer ends too early")
        return content

    def _take(self, size: int, max_bytes: int) -> bytes | None:
        assert self._process is not None
        assert self._process.stdout is not None
        pieces, left = [], size
        while left:
            piece = self._process.stdout.read(min(_PIECE, left))
            if not piece:
                raise ValueError("its answer ends too early")
            left -= len(piece)
            if size <= max_bytes:
                pieces.append(piece)
        return b"".join(pieces) if size <= max_bytes else None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def tree_entries(tree: bytes) -> Iterator[tuple[str, str]]:
    """Name and hash of each entry of a tree object; ends where it is damaged."""
    at = 0
    while at < len(tree):
        end = tree.find(b"\0", at)
        hashed = tree[end + 1 : end + 1 + _HASH_BYTES]
        if end < 0 or len(hashed) < _HASH_BYTES:
            return
        _, _, name = tree[at:end].partition(b" ")
        yield name.decode(errors="replace"), hashed.hex()
        at = end + 1 + _HASH_BYTES
