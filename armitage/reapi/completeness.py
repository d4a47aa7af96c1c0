"""Whether an ActionResult's blobs are all there (REAPI `GetActionResult`, "completeness")."""

from __future__ import annotations

from dataclasses import dataclass

from cas.digest import Digest, DigestFunction
from cas.store import BlobStore


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result refers to, and what of that is not stored."""

    closure: tuple[Digest, ...]
    """Each blob once, without empty ones: output files, stdout, stderr, Trees, and every file (and
    Directory where `root_directory_digest` is set) inside the Trees that could be read.
    """
    missing: tuple[Digest, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the result may be answered as a hit."""
        return not self.missing


class Completeness:
    """Checks results against a store; remembers the closure of recent results (they never change),
    so that a repeated check costs index look-ups only.
    """

    def __init__(self, store: BlobStore, *, max_remembered_digests: int = 1_000_000) -> None:
        self._store = store
        self._max_remembered_digests = max_remembered_digests

    async def check(self, result: bytes, function: DigestFunction) -> Verdict:
        """Checks a serialised ActionResult whose digests take the function, and renews the lease of
        all it refers to.

        Raises InvalidRequest for a result that is malformed (a bad digest or Tree).
        """
        raise NotImplementedError
