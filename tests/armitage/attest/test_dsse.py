import base64
import json
from hashlib import sha256
from typing import Any

import pytest
from support.attested import SEED, SIGNER

from armitage.attest.dsse import Envelope, pae, parse_envelope, sign
from armitage.attest.errors import BadSignature, MalformedAttestation
from armitage.attest.keys import SeedSigner, parse_public_key

BODY = b'{"_type":"https://in-toto.io/Statement/v1"}'
TYPE = "application/vnd.in-toto+json"
SIGNATURE = (
    "Fo6jOXP9gw1yxFFqcxT3OROGg9MHJ9G2Ps2yCG4lrdJS8Yli9xdH78rzsGRdX7vN0BvZnteNGPg9F79CG51UDQ=="
)
KEY_ID = "a050837d85070582ccf7394b0988847cc312cb88259b894899f6f239cf1791a5"


def written(**changes: Any) -> bytes:
    fields = {
        "payload": base64.b64encode(BODY).decode(),
        "payloadType": TYPE,
        "signatures": [{"keyid": KEY_ID, "sig": SIGNATURE}],
    }
    return json.dumps({**fields, **changes}).encode()


def test_the_encoding_is_the_specifications() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_are_of_bytes() -> None:
    assert pae("ü", "é".encode()) == "DSSEv1 2 ü 2 é".encode()


def test_the_published_vector_is_what_we_sign() -> None:
    assert sha256(pae(TYPE, BODY)).hexdigest() == (
        "57dd565335c70baa2e9fc48a46e80907434e3c6ea2342ef806dad983891349cd"
    )
    envelope = sign(SIGNER, BODY)

    assert envelope == parse_envelope(written())
    assert envelope.key_id == KEY_ID
    assert envelope.verified(SIGNER.public) == BODY


def test_what_is_written_is_read_back() -> None:
    envelope = sign(SIGNER, b"\xff\xfe\x00 anything")

    assert parse_envelope(envelope.encode()) == envelope


def test_url_safe_base64_is_read_too() -> None:
    envelope = Envelope(TYPE, b"\xfb\xef\xff", "", bytes([255] * 64))

    url_safe = envelope.encode().replace(b"+/", b"-_").replace(b"//", b"__").replace(b"++", b"--")

    assert url_safe != envelope.encode()
    assert parse_envelope(url_safe) == envelope


def test_a_keyid_may_be_missing_and_proves_nothing() -> None:
    bare = parse_envelope(written(signatures=[{"sig": SIGNATURE}]))

    assert bare.verified(SIGNER.public) == BODY
    with pytest.raises(BadSignature):
        parse_envelope(written()).verified(SeedSigner(bytes(32)).public)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 100_000,
        written(payload=1),
        written(payload="*"),
        written(payload="YQ"),
        written(payloadType=None),
        written(payloadType="ü"),
        written(signatures=[]),
        written(signatures=[{"keyid": KEY_ID, "sig": SIGNATURE}] * 2),
        written(signatures=[{"keyid": KEY_ID, "sig": "YQ=="}]),
        written(signatures=[{"keyid": KEY_ID}]),
        written(signatures=[{"keyid": 1, "sig": SIGNATURE}]),
        written(signatures=[{"keyid": KEY_ID, "sig": SIGNATURE, "cert": ""}]),
        written(signatures=["x"]),
        written(signatures=None),
        written(more=1),
        written()[:-1] + b', "payload": ""}',
    ],
    ids=lambda data: repr(data[-40:]),
)
def test_other_than_one_payload_and_one_signature_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAttestation):
        parse_envelope(data)


def test_another_type_is_refused_though_it_is_signed() -> None:
    envelope = sign(SIGNER, BODY, "text/plain")

    with pytest.raises(BadSignature, match="text/plain"):
        envelope.verified(SIGNER.public)


def test_the_type_is_signed_too() -> None:
    signed = sign(SIGNER, BODY, "text/plain")
    moved = Envelope(TYPE, signed.payload, signed.key_id, signed.signature)

    with pytest.raises(BadSignature):
        moved.verified(SIGNER.public)


def test_every_changed_bit_of_payload_and_signature_is_noticed() -> None:
    envelope = sign(SIGNER, BODY)
    for number in range(len(BODY)):
        changed = bytearray(BODY)
        changed[number] ^= 1
        with pytest.raises(BadSignature):
            Envelope(TYPE, bytes(changed), KEY_ID, envelope.signature).verified(SIGNER.public)
    for bit in range(512):
        spoilt = bytearray(envelope.signature)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignature):
            Envelope(TYPE, BODY, KEY_ID, bytes(spoilt)).verified(SIGNER.public)


def test_a_key_is_read_from_base64_and_from_pem() -> None:
    public = SeedSigner(SEED).public

    assert public.raw.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert parse_public_key(str(public)) == parse_public_key(public.pem()) == public
