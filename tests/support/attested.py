"""One attested action: facts, a signer and a log, all from fixed seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from armitage.attest.facts import ActionFacts, Builder, Fetch, Outputs
from armitage.attest.keys import SeedSigner
from armitage.log.note import KeyType, Signer
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
    declaration, evidence = declaration_of(declared), encode_evidence("s", items)
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
            SandboxKind.NAMESPACE, reached=tuple(Reached(f.host, f.port) for f in fetches)
        ),
        builder=Builder("urn:example:builder", "urn:example:host", (("armitage", "1"),)),
        started_s=NOW_S - 2,
        finished_s=NOW_S - 1,
        fetches=fetches,
        platform=(("OSFamily", "linux"),),
    )
    return replace(made, **changes)
