"""Keys: digests as bytes."""

import pytest

from cas.digest import Digest, DigestFunction
from cas.keys import digest_of, key_of, size_of, tag_of


@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2**21, 2**63 - 1])
def test_key_names_one_digest(function: DigestFunction, size: int) -> None:
    digest = Digest(function, function.digest(b"x").hash, size)

    key = key_of(digest)

    assert digest_of(key) == digest
    assert size_of(key) == size
    assert key.startswith(tag_of(function))


def test_functions_share_no_key() -> None:
    hash_ = DigestFunction.SHA256.digest(b"x").hash

    keys = {key_of(Digest(f, hash_, 1)) for f in (DigestFunction.SHA256, DigestFunction.BLAKE3)}

    assert len(keys) == 2


def test_key_is_how_a_digest_ends_on_the_wire() -> None:
    digest = DigestFunction.SHA256.digest(bytes(300))
    on_the_wire = b"\x0a\x40" + digest.hash.encode() + b"\x10\xac\x02"

    assert key_of(digest) == on_the_wire[2:]
