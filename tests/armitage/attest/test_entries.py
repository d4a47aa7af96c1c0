import contextlib
from dataclasses import replace

import pytest
from support.attested import NOW_S, SIGNER, facts, named

from armitage.attest.dsse import sign
from armitage.attest.entries import (
    Kind,
    attestation_record,
    denial_record,
    entry_of,
    parse_attestation_record,
    parse_denial_record,
    parse_digest,
    parse_entry,
)
from armitage.attest.errors import MalformedAttestation
from armitage.attest.facts import Denial
from armitage.attest.statement import statements
from armitage.proofs.verdict import Reason

ENTRY = entry_of(Kind.ATTESTATION, "main", named("action"), b"record")


def record() -> bytes:
    return attestation_record([sign(SIGNER, each) for each in statements(facts())])


def denial() -> Denial:
    told = facts()
    verdict = replace(told.verdict, approved=False, reasons=(Reason("more 1"),))
    return Denial(
        "main", told.action, "o", told.declaration, told.evidence, verdict, NOW_S, ("and 1 more",)
    )


def test_an_entry_is_read_back() -> None:
    assert parse_entry(ENTRY.encode()) == ENTRY


def test_every_changed_or_missing_byte_of_an_entry_is_another_entry_or_none() -> None:
    encoded = ENTRY.encode()
    for number in range(len(encoded)):
        for other in (
            encoded[:number] + bytes([encoded[number] ^ 1]) + encoded[number + 1 :],
            encoded[:number] + encoded[number + 1 :],
        ):
            with contextlib.suppress(MalformedAttestation):
                assert parse_entry(other) != ENTRY


@pytest.mark.parametrize("text", ["", "sha256:00/1", "md5:00/1", "sha256:" + "0" * 64, "a:b:c/1"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(MalformedAttestation):
        parse_digest(text)


def test_a_digest_has_one_form() -> None:
    assert parse_digest(str(named("a"))) == named("a")
    with pytest.raises(MalformedAttestation):
        parse_digest(str(named("a")).replace("/1", "/01"))


def test_a_record_is_an_in_toto_bundle_of_three_lines() -> None:
    made = record()

    envelopes = parse_attestation_record(made)

    assert len(made.splitlines()) == 3
    assert attestation_record(envelopes) == made


@pytest.mark.parametrize("spoil", [lambda r: r[:-1], lambda r: r + b"\n", lambda r: b" " + r])
def test_a_record_has_one_form(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(MalformedAttestation):
        parse_attestation_record(spoil(record()))


def test_a_denial_says_what_was_refused_and_why() -> None:
    told = parse_denial_record(denial_record(denial()))

    assert (told["reasons"], told["explanation"]) == (["more 1"], ["and 1 more"])
    assert told["action"] == str(named("action"))


def test_what_is_no_denial_is_refused() -> None:
    with pytest.raises(MalformedAttestation):
        parse_denial_record(ENTRY.encode())
