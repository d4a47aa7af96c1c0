from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.attested import FETCH, facts, named

from armitage.attest.canonical import canonical
from armitage.attest.claim import parse_statements
from armitage.attest.errors import MalformedAttestation
from armitage.attest.facts import ActionFacts, Lost
from armitage.attest.sessions import WitnessedSessions
from armitage.attest.statement import statements
from armitage.proofs.evidence import Network, Sandbox, encode_evidence
from armitage.witness.evidence import (
    Body,
    Exchange,
    Peer,
    Subject,
    close_record,
    exchange_record,
    open_record,
    parse_record,
)

ACTION = facts().action
EXCHANGE = Exchange(
    1.0,
    2.0,
    "GET",
    FETCH.url,
    "tag",
    Peer(FETCH.host, FETCH.port),
    allowed=True,
    rule="declared",
    status=FETCH.status,
    response_body=Body(f"sha256:{FETCH.sha256}", FETCH.size_bytes),
)
REFUSED = replace(EXCHANGE, allowed=False, status=None, peer=Peer("x.example", 443))
FAILED = replace(EXCHANGE, status=None, error="reset", peer=Peer("slow.example", 443))


LOST = Lost(FETCH.url, "GET", "x.example", is_refused=True, reason="undeclared", log_index=2)


def sessions(*exchanges: Exchange, action: str = str(ACTION), closed: bool = True) -> Any:
    """The session `s`, opened as the first entry of the log."""
    made = WitnessedSessions()
    records = [open_record("s", 0.0, Subject(action=action), "network")]
    records += [exchange_record("s", number, each) for number, each in enumerate(exchanges, 1)]
    if closed:
        records.append(close_record("s", len(records), 3.0, "sha256:00", 0))
    for index, record in enumerate(records):
        made.add(index, parse_record(record))
    return made


def told(*hosts: str, **changes: Any) -> ActionFacts:
    """An action that says that it reached these hosts in the session `s`."""
    base = facts("network")
    hosts = hosts or (FETCH.host,)
    evidence = encode_evidence("s", [Sandbox("namespace"), *(Network(h, 443) for h in hosts)])
    verdict = replace(base.verdict, evidence_sha256=named_hex(evidence))
    return replace(base, evidence=evidence, verdict=verdict, **changes)


def named_hex(document: bytes) -> str:
    return named(document.decode()).hash


def check(made: WitnessedSessions, attested: ActionFacts) -> None:
    payloads = statements(attested)
    provenance = json.loads(payloads[0])["predicate"]
    made.check(parse_statements(payloads), provenance, attested.evidence)


def test_what_the_witness_saw_is_what_is_attested() -> None:
    lost = [replace(LOST, log_index=2), replace(LOST, is_refused=False, log_index=3)]

    check(sessions(EXCHANGE, REFUSED, FAILED), told(lost=lost))


def test_a_host_that_was_reached_and_failed_may_be_in_the_evidence() -> None:
    lost = [replace(LOST, is_refused=False, log_index=2)]

    check(sessions(EXCHANGE, FAILED), told(FETCH.host, "slow.example", lost=lost))


def test_statements_that_say_nothing_of_refusals_are_not_held_to_any() -> None:
    made = told()
    provenance, trace, verdict = statements(made)
    silent = json.loads(trace)
    del silent["predicate"]["monitorLog"]["refused"], silent["predicate"]["monitorLog"]["failed"]
    claim = parse_statements([provenance, canonical(silent), verdict])

    sessions(EXCHANGE, REFUSED, FAILED).check(
        claim, json.loads(provenance)["predicate"], made.evidence
    )
    assert claim.refused is None
    assert claim.failed is None


def test_an_action_without_a_network_needs_no_session() -> None:
    check(WitnessedSessions(), facts())


def renamed() -> ActionFacts:
    """Its statements name another session than its evidence does."""
    made = told()
    return replace(made, used=replace(made.used, network_session="t"))


OTHER = replace(FETCH, url="https://h.example/other")


@pytest.mark.parametrize(
    ("made", "attested", "why"),
    [
        (WitnessedSessions, told, "s is not whole before it"),
        (lambda: sessions(EXCHANGE, closed=False), told, "s is not whole before it"),
        (lambda: sessions(EXCHANGE, action=""), told, "s is not whole before it"),
        (lambda: sessions(EXCHANGE, action="other"), told, "s is another action's"),
        (lambda: sessions(EXCHANGE), lambda: told("other.example"), "other hosts than"),
        (lambda: sessions(EXCHANGE), lambda: told(FETCH.host, "y.example"), "other hosts than"),
        (lambda: sessions(EXCHANGE, REFUSED), lambda: told("x.example"), "other hosts than"),
        (lambda: sessions(EXCHANGE, EXCHANGE), told, "lists other fetches"),
        (lambda: sessions(EXCHANGE), lambda: told(fetches=[]), "lists other fetches"),
        (lambda: sessions(EXCHANGE), lambda: told(fetches=[OTHER]), "lists other fetches"),
        (lambda: sessions(EXCHANGE), lambda: told(fetches=[FETCH, FETCH]), "lists other fetches"),
        (
            lambda: sessions(EXCHANGE),
            lambda: told(fetches=[replace(FETCH, log_index=2)]),
            "lists other fetches",
        ),
        (
            lambda: sessions(
                replace(EXCHANGE, response_body=Body(f"sha256:{FETCH.sha256}", 4, False))
            ),
            told,
            "lists other fetches",
        ),
        (lambda: sessions(EXCHANGE), renamed, "another network session"),
        (lambda: sessions(EXCHANGE, REFUSED), told, "lists other refusals"),
        (lambda: sessions(EXCHANGE, FAILED), told, "lists other refusals"),
        (lambda: sessions(EXCHANGE), lambda: told(lost=[LOST]), "lists other refusals"),
        (
            lambda: sessions(EXCHANGE, REFUSED),
            lambda: told(lost=[replace(LOST, url="https://h.example/other")]),
            "lists other refusals",
        ),
        (
            lambda: sessions(EXCHANGE, REFUSED),
            lambda: told(lost=[replace(LOST, is_refused=False)]),
            "lists other refusals",
        ),
    ],
)
def test_what_the_witness_has_otherwise_is_refused(
    made: Callable[[], WitnessedSessions], attested: Callable[[], ActionFacts], why: str
) -> None:
    with pytest.raises(MalformedAttestation, match=why):
        check(made(), attested())


def test_a_session_stands_for_one_attestation() -> None:
    made = sessions(EXCHANGE)
    check(made, told())

    with pytest.raises(MalformedAttestation, match="is not whole"):
        check(made, told())


def test_a_network_without_a_session_is_refused() -> None:
    evidence = encode_evidence("unconnected", [Sandbox("namespace"), Network("h.example", 443)])
    base = facts("network")
    verdict = replace(base.verdict, evidence_sha256=named_hex(evidence))
    used = replace(base.used, network_session="")
    attested = replace(base, evidence=evidence, used=used, verdict=verdict)

    with pytest.raises(MalformedAttestation, match="used a network without a session"):
        check(WitnessedSessions(), attested)
