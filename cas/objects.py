"""Names of objects in a bucket (docs/remote.md has the table)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from cas.digest import Digest

_LONG = 200
_SPECIAL = re.compile(rb"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below a prefix (empty: the bucket's root)."""

    prefix: str = ""

    def __post_init__(self) -> None:
        segments = self.prefix.split("/") if self.prefix else []
        if not all(re.fullmatch(r"[A-Za-z0-9_.=-]+", s) and s.strip(".") for s in segments):
            raise ValueError("prefix must be names of letters, digits and _.=- with / between them")

    def blob(self, digest: Digest) -> str:
        """The object of a blob. Its size is not in the name; whoever reads it compares."""
        return self.below(f"cas/{digest.function}/{digest.hash[:2]}/{digest.hash}")

    def result(self, instance: str, action: Digest) -> str:
        """The object of an action's result."""
        return self.below(
            f"ac/{escape(instance)}/{action.function}/{action.hash[:2]}"
            f"/{action.hash}-{action.size_bytes}"
        )

    def below(self, name: str) -> str:
        """Any other name below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


def escape(name: str) -> str:
    """Writes any text as one segment of a key, never empty, and differently for different texts:
    what is not a letter, digit, _ or - becomes =XX for each byte of UTF-8; a long one its hash.
    """
    escaped = _SPECIAL.sub(lambda m: b"=%02X" % m[0][0], name.encode("utf-8", "surrogatepass"))
    if len(escaped) > _LONG:
        return "=h" + sha256(escaped).hexdigest()
    return escaped.decode() or "="
