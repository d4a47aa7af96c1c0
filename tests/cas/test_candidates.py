import pytest

from cas.candidates import Candidates, match
from cas.digest import Digest, DigestFunction
from cas.errors import BlobTooLarge, DigestMismatch

DATA = b"some bytes"
SHA256 = DigestFunction.SHA256.digest(DATA)
BLAKE3 = DigestFunction.BLAKE3.digest(DATA)


def test_whole_bytes_match_their_digest() -> None:
    assert match([BLAKE3], DATA, None) == BLAKE3


def test_pieces_match_their_digest() -> None:
    candidates = Candidates([SHA256], None)
    candidates.update(DATA[:3])
    candidates.update(memoryview(DATA)[3:])

    assert candidates.match() == SHA256


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
