"""armitage.witness.decoding."""

from __future__ import annotations

import gzip
import zlib
from hashlib import sha256

import pytest

from armitage.witness.decoding import Decoding

TEXT = b"the same again\n" * 5000
NAMED = f"sha256:{sha256(TEXT).hexdigest()}"


def decoded(encoding: str, data: bytes, step: int) -> str:
    decoding = Decoding.of(encoding)
    if decoding is None:
        return ""
    for first in range(0, len(data), step):
        if not decoding.feed(data[first : first + step]):
            return ""
    return decoding.digest()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("X-GZIP", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
    ],
)
def test_what_an_encoded_body_decodes_to_is_told(encoding: str, data: bytes) -> None:
    assert decoded(encoding, data, len(data)) == NAMED
    assert decoded(encoding, data, 7) == NAMED


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("br", TEXT),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
        ("gzip", TEXT),
        ("gzip", gzip.compress(TEXT)[:-9]),
        ("gzip", gzip.compress(TEXT) + b"more"),
        ("gzip", gzip.compress(bytes(50_000_000))),
    ],
    ids=["unknown", "twice", "no gzip", "truncated", "trailing", "bomb"],
)
def test_what_is_not_sure_is_not_told(encoding: str, data: bytes) -> None:
    assert decoded(encoding, data, 4096) == ""
