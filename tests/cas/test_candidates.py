import pytest

from cas.candidates import Candidates, Lately, match
from cas.digest import Digest, DigestFunction
from cas.errors import BlobTooLarge, DigestMismatch

DATA = b"some bytes"
SHA256 = DigestFunction.SHA256.digest(DATA)
BLAKE3 = DigestFunction.BLAKE3.digest(DATA)


def never() -> list[bytes]:
    raise AssertionError("hashed once more without need")


def test_whole_bytes_match_their_digest() -> None:
    assert match([BLAKE3], DATA, None) == BLAKE3


def test_pieces_match_their_digest() -> None:
    candidates = Candidates([SHA256], None)
    candidates.update(DATA[:3])
    candidates.update(memoryview(DATA)[3:])

    assert candidates.match(never) == SHA256


def test_mismatch_names_what_was_wanted_and_what_came() -> None:
    with pytest.raises(DigestMismatch) as caught:
        match([SHA256], DATA[::-1], None)

    assert caught.value.expected == (SHA256,)
    assert SHA256.hash in str(caught.value)
    assert DigestFunction.SHA256.digest(DATA[::-1]).hash in str(caught.value)


def test_too_few_bytes_are_a_mismatch() -> None:
    with pytest.raises(DigestMismatch, match="ended after 3 bytes"):
        match([SHA256], DATA[:3], None)


def test_size_over_the_limit_is_refused_before_any_byte() -> None:
    with pytest.raises(BlobTooLarge):
        Candidates([Digest(DigestFunction.SHA256, SHA256.hash, 11)], 10)


def test_hash_of_one_function_is_no_match_for_another() -> None:
    crossed = Digest(DigestFunction.BLAKE3, SHA256.hash, SHA256.size_bytes)

    with pytest.raises(DigestMismatch):
        match([crossed], DATA, None)
    assert match([crossed, SHA256], DATA, None) == SHA256


def test_whole_bytes_over_the_limit_are_refused() -> None:
    with pytest.raises(BlobTooLarge):
        match([SHA256], DATA, len(DATA) - 1)


def incoming(digests: list[Digest], lately: Lately) -> Candidates:
    candidates = Candidates(digests, None, lately)
    candidates.update(DATA)
    return candidates


def test_bytes_are_hashed_again_only_if_they_are_not_what_is_likeliest() -> None:
    lately = Lately()
    other_blake3 = Digest(DigestFunction.BLAKE3, SHA256.hash, len(DATA))
    other_sha256 = Digest(DigestFunction.SHA256, BLAKE3.hash, len(DATA))

    assert incoming([SHA256, other_blake3], lately).match(never) == SHA256
    assert incoming([other_sha256, BLAKE3], lately).likely_match() is None
    assert incoming([other_sha256, BLAKE3], lately).match(lambda: [DATA[:3], DATA[3:]]) == BLAKE3


def test_function_of_the_last_blob_is_the_likeliest_of_the_next() -> None:
    lately = Lately()
    other_blake3 = Digest(DigestFunction.BLAKE3, SHA256.hash, len(DATA))
    other_sha256 = Digest(DigestFunction.SHA256, BLAKE3.hash, len(DATA))

    incoming([other_sha256, BLAKE3], lately).match(lambda: [DATA])
    assert incoming([other_sha256, BLAKE3], lately).match(never) == BLAKE3
    assert incoming([SHA256], lately).match(never) == SHA256
    assert incoming([other_sha256, BLAKE3], lately).match(never) == BLAKE3
    incoming([SHA256, other_blake3], lately).match(lambda: [DATA])
    assert incoming([SHA256, other_blake3], lately).match(never) == SHA256


def test_mismatch_names_what_came_under_every_function() -> None:
    candidates = [Digest(each.function, "0" * 64, len(DATA)) for each in (SHA256, BLAKE3)]

    with pytest.raises(DigestMismatch) as caught:
        match(candidates, DATA, None)

    assert str(SHA256) in str(caught.value)
    assert str(BLAKE3) in str(caught.value)
