"""Whether an attestation says of the network what the witness has on record.

An attestation names its session, its evidence the hosts that were reached, and its provenance every
exchange that was answered, by its place in the log. The session's own records stand in the same log
before it. Who reads the log from the start can hold the one against the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from armitage.attest.canonical import list_at, value_at
from armitage.attest.claim import Claim
from armitage.attest.errors import MalformedAttestation

UNCONNECTED: Final = "unconnected"
"""The session of evidence of an action that had no network (armitage.attest.judge)."""

Peer = tuple[str, int]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Fetch:
    url: str
    status: int
    sha256: str


@dataclass(slots=True)
class _Session:
    action: str = ""
    is_closed: bool = False
    allowed: set[Peer] = field(default_factory=set)
    answered: set[Peer] = field(default_factory=set)
    fetches: dict[int, _Fetch] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class WitnessedSessions:
    """What sessions of actions came to, from their records in the order of the log. A session is
    forgotten with the attestation that names it: an execution has one of each.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def add(self, index: int, record: Json) -> None:
        """Takes a record of a session. Of one that lacks something, that counts as not there."""
        name = str(record.get("session"))
        if record.get("kind") == "open":
            if action := _table(record, "subject").get("action"):
                self._sessions.setdefault(name, _Session()).action = str(action)
            return
        session = self._sessions.get(name)
        if session is None:
            return  # No attestation names it: a proxy's, or a command's, and may be long.
        if record.get("kind") == "exchange":
            _add_exchange(session, index, record)
        elif record.get("kind") == "close":
            session.is_closed = True

    def check(self, claim: Claim, provenance: Json, evidence: bytes) -> None:
        """Raises MalformedAttestation, saying what does not agree."""
        name, reached = _network(evidence)
        definition = value_at(dict(provenance), "buildDefinition")
        named = value_at(definition, "internalParameters").get("networkSession", UNCONNECTED)
        listed = [each for each in list_at(definition, "resolvedDependencies") if "uri" in each]
        if name != named:
            raise MalformedAttestation("its evidence is of another network session")
        if name == UNCONNECTED:
            if reached or listed:
                raise MalformedAttestation("it used a network without a session")
            return
        session = self._sessions.pop(name, None)
        if session is None or not session.is_closed:
            raise MalformedAttestation(f"its network session {name} is not whole before it")
        if session.action != str(claim.action):
            raise MalformedAttestation(f"its network session {name} is another action's")
        if not session.answered <= reached <= session.allowed:
            raise MalformedAttestation(f"its evidence has other hosts than the session {name}")
        if dict(_listed(listed)) != session.fetches or len(listed) != len(session.fetches):
            raise MalformedAttestation(f"it lists other fetches than the session {name}")
        for told, seen in ((claim.refused, session.refused), (claim.failed, session.failed)):
            if told is not None and tuple((e.log_index, e.url) for e in told) != (*seen.items(),):
                raise MalformedAttestation(f"it lists other refusals than the session {name}")


def _add_exchange(session: _Session, index: int, record: Json) -> None:
    response, peer = _table(record, "response"), _table(record, "peer")
    url = str(record.get("url"))
    if _table(record, "decision").get("verdict") != "allow":
        session.refused[index] = url
        return
    reached = str(peer.get("host")), int(peer.get("port") or 0)
    session.allowed.add(reached)
    status = response.get("status")
    if isinstance(status, int) and not record.get("error"):
        body = _table(response, "body")
        hashed = str(body.get("sha256", "")).removeprefix("sha256:") if body.get("complete") else ""
        session.answered.add(reached)
        session.fetches[index] = _Fetch(url, status, hashed)
    else:
        session.failed[index] = url


def _network(evidence: bytes) -> tuple[str, set[Peer]]:
    """The session's name and the hosts. The checker has approved the document, so it is one."""
    lines = [line.split(" ") for line in evidence.decode("ascii", "replace").split("\n")]
    name = next((line[1] for line in lines if line[0] == "open" and len(line) == 2), "")
    return name, {
        (line[2], int(line[3])) for line in lines if line[1:2] == ["network"] and len(line) == 4
    }


def _listed(found: Sequence[Json]) -> Iterator[tuple[int, _Fetch]]:
    for each in found:
        annotations, digest = _table(each, "annotations"), _table(each, "digest")
        told = _Fetch(str(each["uri"]), annotations.get("status", 0), digest.get("sha256", ""))
        yield annotations.get("logIndex", -1), told


def _table(told: Json, name: str) -> Json:
    found = told.get(name)
    return found if isinstance(found, Mapping) else {}
