"""Attestations, verified by code that is not ours: securesystemslib, openssl, in-toto's own schema,
and Go's sumdb. (git has its say in tests/armitage/attest/test_git.py.)
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import resource_descriptor_pb2, statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined] # It is in __all__.
from support import go
from support.attested import LOG, SIGNER, bundle, facts

from armitage.attest.dsse import IN_TOTO, pae
from armitage.attest.entries import parse_attestation_record
from armitage.attest.keys import PublicKey, SeedSigner
from armitage.attest.statement import PREDICATES, PROVENANCE, TRACE
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Leased, Opened

pytestmark = pytest.mark.e2e

USED = Evidence(
    SandboxKind.NAMESPACE,
    opened=(Opened("/opt/tool", written=False),),
    gpus=(Leased("GPU-1", "H100", 81559, 90),),
)
BUNDLE = bundle(facts("network:h.example", used=USED))
LINES = BUNDLE.encode().splitlines()[:3]


def key(public: PublicKey) -> SSlibKey:
    pem = load_pem_public_key(public.pem().encode())
    return SSlibKey.from_crypto(pem, keyid=public.key_id)


@pytest.mark.parametrize("line", LINES)
def test_securesystemslib_verifies_the_envelope(line: bytes) -> None:
    envelope = Envelope.from_dict(json.loads(line))

    assert list(envelope.verify([key(SIGNER.public)], 1)) == [SIGNER.public.key_id]
    assert envelope.payload_type == IN_TOTO


def test_securesystemslib_refuses_what_we_refuse() -> None:
    envelope = Envelope.from_dict(json.loads(LINES[0]))
    other = SeedSigner(bytes(32)).public
    stranger = SSlibKey.from_crypto(
        load_pem_public_key(other.pem().encode()), keyid=SIGNER.public.key_id
    )

    with pytest.raises(VerificationError):
        envelope.verify([stranger], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([key(SIGNER.public)], 1)


def openssl(tmp_path: Path, signed: bytes, signature: bytes) -> bool:
    for name, content in (("signed", signed), ("signature", signature)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "key.pem").write_text(SIGNER.public.pem())
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin"]
    command += ["-in", "signed", "-sigfile", "signature"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "Signature Verified Successfully" in done.stdout


def test_openssl_verifies_the_signature(tmp_path: Path) -> None:
    envelope = parse_attestation_record(BUNDLE.record)[0]
    signed = pae(envelope.payload_type, envelope.payload)

    assert openssl(tmp_path, signed, envelope.signature)
    assert not openssl(tmp_path, signed + b" ", envelope.signature)
    assert not openssl(tmp_path, signed, bytes(64))


def payloads() -> list[dict[str, Any]]:
    return [json.loads(each.payload) for each in parse_attestation_record(BUNDLE.record)]


@pytest.mark.parametrize("payload", payloads(), ids=PREDICATES)
def test_in_totos_schema_has_a_place_for_all_of_a_statement(payload: dict[str, Any]) -> None:
    parsed = json_format.ParseDict(payload, statement_pb2.Statement())

    Statement.copy_from_pb(parsed).validate()
    assert json_format.MessageToDict(parsed)["predicate"]


def test_slsas_schema_has_a_place_for_all_of_the_provenance() -> None:
    (provenance,) = (p["predicate"] for p in payloads() if p["predicateType"] == PROVENANCE)

    parsed = json_format.ParseDict(provenance, provenance_pb2.Provenance())

    assert parsed.build_definition.build_type
    assert parsed.run_details.builder.id
    assert parsed.run_details.metadata.finished_on.seconds
    for each in (*parsed.build_definition.resolved_dependencies, *parsed.run_details.byproducts):
        ResourceDescriptor.copy_from_pb(each).validate()


def test_opened_files_are_resource_descriptors() -> None:
    (trace,) = (p["predicate"] for p in payloads() if p["predicateType"] == TRACE)

    for each in trace["monitorLog"]["fileAccess"]:
        parsed = json_format.ParseDict(each, resource_descriptor_pb2.ResourceDescriptor())
        ResourceDescriptor.copy_from_pb(parsed).validate()


MISSING = go.unavailable()


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_gos_sumdb_verifies_the_receipt(tmp_path: Path) -> None:
    receipt, entry = tmp_path / "receipt", tmp_path / "entry"
    receipt.write_bytes(BUNDLE.receipt.encode())
    entry.write_bytes(BUNDLE.entry)

    def verify(vkey: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [go.TLOG, "-receipt", receipt, entry, vkey]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert verify(str(LOG.public)).stdout == "log.example/armitage: entry 1 of 2\n"
    entry.write_bytes(BUNDLE.entry + b" ")
    assert verify(str(LOG.public)).returncode != 0
