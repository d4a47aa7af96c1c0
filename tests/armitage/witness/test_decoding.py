"""armitage.witness.decoding."""

from __future__ import annotations

import gzip
import zlib
from hashlib import sha256
from pathlib import Path

import pytest

from armitage.witness.decoding import decoded_hash

TEXT = b"the same again\n" * 5000
NAMED = f"sha256:{sha256(TEXT).hexdigest()}"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("X-GZIP", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
    ],
)
def test_what_an_encoded_body_decodes_to_is_told(
    tmp_path: Path, encoding: str, data: bytes
) -> None:
    (tmp_path / "body").write_bytes(data)

    assert decoded_hash(encoding, data) == NAMED
    assert decoded_hash(encoding, str(tmp_path / "body")) == NAMED


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
    assert decoded_hash(encoding, data) == ""
