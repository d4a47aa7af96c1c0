"""One attested action: facts, a signer and a log, all from fixed seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from armitage.attest.bundle import Bundle, bundle_of
from armitage.attest.dsse import sign
from armitage.attest.entries import Kind, attestation_record, entry_of
from armitage.attest.facts import ActionFacts, Builder, Fetch, Outputs
from armitage.attest.keys import SeedSigner
from armitage.attest.keys import Signer as AttestationSigner
from armitage.attest.sessions import UNCONNECTED
from armitage.attest.statement import statements
from armitage.attest.verify import Known, KnownKey
from armitage.log.checkpoint import Checkpoint
from armitage.log.merkle import leaf_hash, node_hash
from armitage.log.note import KeyType, Signer, sign_note
from armitage.log.receipt import Receipt
from armitage.proofs import Checker
from armitage.proofs.checker import declaration_of
from armitage.proofs.evidence import Item, Network, Sandbox, encode_evidence
from cas.digest import Digest, DigestFunction
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Reached

SEED = bytes(range(32))
SIGNER = SeedSigner(SEED)
LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(64, 96)))
NOW_S = 1_790_000_000.0


@cache
def checker() -> Checker:
    return Checker()


def named(text: str) -> Digest:
    return DigestFunction.SHA256.digest(text.encode())


FETCH = Fetch(
    url="https://h.example/a?q=1",
    method="GET",
    status=200,
    host="h.example",
    port=443,
    sha256=named("body").hash,
    size_bytes=4,
    log_index=1,
    address="192.0.2.1",
)


def facts(declared: str = "pure", **changes: Any) -> ActionFacts:
    """An action with one output file, that was run in a namespace and, if it declares a network,
    fetched from h.example.
    """
    fetches = [FETCH] if declared.startswith("network") else []
    items: list[Item] = [Sandbox("namespace")]
    items += [Network(f.host, f.port) for f in fetches]
    session = "s" if fetches else ""
    declaration, evidence = declaration_of(declared), encode_evidence(session or UNCONNECTED, items)
    made = ActionFacts(
        instance="main",
        action=named("action"),
        command=named("command"),
        input_root=named("root"),
        invocation="operation-1",
        outputs=Outputs(0, files=(("out/a", named("a"), True),)),
        subjects=(("out/a", named("a")),),
        stdout=named("said"),
        stderr=DigestFunction.SHA256.empty,
        declaration=declaration,
        evidence=evidence,
        verdict=checker().check(declaration, evidence),
        used=Evidence(
            SandboxKind.NAMESPACE,
            network_session=session,
            reached=tuple(Reached(f.host, f.port) for f in fetches),
        ),
        builder=Builder("urn:example:builder", "urn:example:host", (("armitage", "1"),)),
        started_s=NOW_S - 2,
        finished_s=NOW_S - 1,
        fetches=fetches,
        platform=(("OSFamily", "linux"),),
    )
    return replace(made, **changes)


def record_of(told: ActionFacts, signer: AttestationSigner = SIGNER) -> bytes:
    return attestation_record([sign(signer, each) for each in statements(told)])


def receipt_of(entry: bytes, log: Signer = LOG) -> Receipt:
    """That the entry is the second of two in a log."""
    before = leaf_hash(b"before")
    root = node_hash(before, leaf_hash(entry))
    text = Checkpoint(log.public.name, 2, root).text()
    return Receipt(1, (before,), sign_note(text, [log.sign(text)]).encode())


def bundle(
    told: ActionFacts | None = None, signer: AttestationSigner = SIGNER, log: Signer = LOG
) -> Bundle:
    told = told or facts()
    record = record_of(told, signer)
    entry = entry_of(Kind.ATTESTATION, told.instance, told.action, record).encode()
    documents = [told.declaration, told.evidence, told.outputs.document()]
    return bundle_of(record, entry, receipt_of(entry, log), documents)


def known(signer: AttestationSigner = SIGNER, log: Signer = LOG) -> Known:
    return Known(
        {signer.public.key_id: KnownKey(signer.public, log.public)},
        {checker().module_sha256: checker().check},
    )
