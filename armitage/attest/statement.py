"""Statements (in-toto Statement v1): from facts to what is signed (armitage.attest.claim reads it).

Three of them for each action, about the same subjects:

- SLSA Provenance v1: what was built, from what, by whom (docs/attestation.md has every field);
- runtime-trace v0.2: what the action reached and opened beyond its inputs;
- SVR v0.2: that the checker approved; `verifier.policies` name the module and both documents.

Subjects are the output files; an action without any has itself for a subject. SHA-1 appears
nowhere: a weak algorithm in a DigestSet weakens the strong one beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from armitage.attest.canonical import canonical
from armitage.attest.errors import MalformedAttestation, NotAttestable
from armitage.attest.facts import ActionFacts, Fetch, Lost
from cas.digest import Digest, DigestFunction

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
TRACE: Final = "https://in-toto.io/attestation/runtime-trace/v0.2"
VERDICT: Final = "https://in-toto.io/attestation/svr/v0.2"
PREDICATES: Final = (PROVENANCE, TRACE, VERDICT)

BUILD_TYPE: Final = "urn:armitage:reapi-action:v1"
MONITOR: Final = "urn:armitage:witness:v1"
CHECKER: Final = "urn:armitage:coeffect-checker:v1"
COVERED: Final = "ARMITAGE_COEFFECTS_COVERED"

_ACTION: Final = "application/vnd.armitage.reapi.action"
_COMMAND: Final = "application/vnd.armitage.reapi.command"
_DIRECTORY: Final = "application/vnd.armitage.reapi.directory"
_OUTPUTS: Final = "application/vnd.armitage.outputs.v1+json"
_DECLARATION: Final = "application/vnd.armitage.declaration.v1"
_EVIDENCE: Final = "application/vnd.armitage.evidence.v1"
_WEAK: Final = frozenset({DigestFunction.SHA1})

Json = dict[str, Any]


def statements(facts: ActionFacts, outputs: bytes | None = None) -> list[bytes]:
    """The three statements, in the order of PREDICATES, as canonical JSON. `outputs` is the
    document that lists them, where it is at hand.

    Raises NotAttestable when the checker did not approve these documents, and for names that are no
    more than SHA-1.
    """
    _check(facts)
    subject = _subject(facts)
    documents = _documents(facts, facts.outputs.document() if outputs is None else outputs)
    predicates = (_provenance(facts, documents), _trace(facts), _verdict(facts, documents))
    return [
        canonical(
            {"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": each}
        )
        for kind, each in zip(PREDICATES, predicates, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Documents:
    """What several statements name, hashed once."""

    declaration: Digest
    evidence: Digest
    outputs: Digest


def _documents(facts: ActionFacts, outputs: bytes) -> _Documents:
    sha256, verdict = DigestFunction.SHA256, facts.verdict
    return _Documents(
        # The verdict's names are those of these documents: _check has made sure.
        Digest(sha256, verdict.declaration_sha256, len(facts.declaration)),
        Digest(sha256, verdict.evidence_sha256, len(facts.evidence)),
        sha256.digest(outputs),
    )


def _check(facts: ActionFacts) -> None:
    verdict = facts.verdict
    decided = (verdict.declaration_sha256, verdict.evidence_sha256)
    if not verdict.approved or decided != (_hex(facts.declaration), _hex(facts.evidence)):
        raise NotAttestable("the checker did not approve this declaration with this evidence")
    if facts.action.function in _WEAK:
        raise NotAttestable(
            f"actions named by {facts.action.function} are not attested: it is broken; have the"
            " client use SHA-256"
        )


def _subject(facts: ActionFacts) -> list[Json]:
    if not facts.subjects:
        return [{"name": "action", "digest": _digest_set(facts.action)}]
    return [
        {"name": path, "digest": _digest_set(digest)}
        for path, digest in sorted(set(facts.subjects))
    ]


def _provenance(facts: ActionFacts, documents: _Documents) -> Json:
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "action": _sized(facts.action),
                "coeffects": {"sha256": documents.declaration.hash},
                "instance": facts.instance,
            },
            "internalParameters": _internal(facts),
            "resolvedDependencies": [
                _named("action", facts.action, _ACTION),
                _named("command", facts.command, _COMMAND),
                _named("inputRoot", facts.input_root, _DIRECTORY),
                *map(_fetched, facts.fetches),
            ],
        },
        "runDetails": {
            "builder": {"id": facts.builder.id, "version": dict(facts.builder.version)},
            "metadata": {
                "invocationId": facts.invocation,
                "startedOn": time_text(facts.started_s),
                "finishedOn": time_text(facts.finished_s),
            },
            "byproducts": [
                _named("outputs", documents.outputs, _OUTPUTS),
                _named("evidence", documents.evidence, _EVIDENCE),
                _named("stdout", facts.stdout, "application/octet-stream"),
                _named("stderr", facts.stderr, "application/octet-stream"),
            ],
        },
    }


def _internal(facts: ActionFacts) -> Json:
    used = facts.used
    internal: Json = {
        "platform": [{"name": name, "value": value} for name, value in facts.platform],
        "sandbox": {"kind": "none" if used.sandbox is None else used.sandbox.value},
    }
    if used.profile is not None:
        internal["sandbox"]["profile"] = _digest_set(used.profile)
    if used.network_session:
        internal["networkSession"] = used.network_session
    if used.credentials:
        internal["credentials"] = list(used.credentials)
    if used.gpus:
        internal["gpus"] = [
            {
                "uuid": gpu.uuid,
                "name": gpu.name,
                "memoryMib": gpu.memory_mib,
                "sm": gpu.sm,
                "driver": gpu.driver,
            }
            for gpu in used.gpus
        ]
    return internal


def _fetched(fetch: Fetch) -> Json:
    found: Json = {
        "uri": fetch.url,
        "annotations": {
            "method": fetch.method,
            "status": fetch.status,
            "sizeBytes": fetch.size_bytes,
            "contentEncoding": fetch.content_encoding,
            "logIndex": fetch.log_index,
        },
    }
    if fetch.sha256:
        found["digest"] = {"sha256": fetch.sha256}
    return found


def _trace(facts: ActionFacts) -> Json:
    return {
        "monitor": {"type": MONITOR},
        "monitoredProcess": {
            "hostID": facts.builder.host,
            "type": BUILD_TYPE,
            "event": facts.invocation,
        },
        "monitorLog": {
            # Both are always there: an empty list says "none", an absent one says nothing.
            "network": _reached(facts),
            "fileAccess": [
                {
                    "name": opened.path,
                    "uri": f"file://{opened.path}",
                    "annotations": {"access": "rw" if opened.written else "ro"},
                }
                for opened in facts.used.opened
            ],
            **_lost(facts),
        },
        "metadata": {
            "buildStartedOn": time_text(facts.started_s),
            "buildFinishedOn": time_text(facts.finished_s),
        },
    }


def _reached(facts: ActionFacts) -> list[Json]:
    found: list[Json] = []
    for fetch in facts.fetches:
        entry: Json = {
            "hostname": fetch.host,
            "port": fetch.port,
            "protocol": "tcp",
            "url": fetch.url,
            "logIndex": fetch.log_index,
        }
        if fetch.address:
            entry["ip"] = fetch.address
        if fetch.sha256:
            entry["sha256"] = fetch.sha256
        found.append(entry)
    told = {(fetch.host, fetch.port) for fetch in facts.fetches}
    found += [
        {"hostname": each.host, "port": each.port, "protocol": "tcp"}
        for each in facts.used.reached
        if (each.host, each.port) not in told
    ]
    return found


def _lost(facts: ActionFacts) -> Json:
    """What was asked for in vain; both lists are there wherever there was a network."""
    if not facts.used.network_session:
        return {}
    return {
        "refused": [_attempt(each) for each in facts.lost if each.is_refused],
        "failed": [_attempt(each) for each in facts.lost if not each.is_refused],
    }


def _attempt(lost: Lost) -> Json:
    return {
        "hostname": lost.host,
        "method": lost.method,
        "url": lost.url,
        "reason": lost.reason,
        "logIndex": lost.log_index,
    }


def _verdict(facts: ActionFacts, documents: _Documents) -> Json:
    return {
        "verifier": {
            "id": CHECKER,
            "policies": [
                {"name": "module", "digest": {"sha256": facts.verdict.module_sha256}},
                _named("declaration", documents.declaration, _DECLARATION),
                _named("evidence", documents.evidence, _EVIDENCE),
            ],
        },
        "timeCreated": time_text(facts.finished_s),
        "properties": [COVERED],
    }


def _named(name: str, digest: Digest, media_type: str) -> Json:
    return {
        "name": name,
        "digest": _digest_set(digest),
        "mediaType": media_type,
        "annotations": {"sizeBytes": digest.size_bytes},
    }


def _sized(digest: Digest) -> Json:
    return {**_digest_set(digest), "sizeBytes": digest.size_bytes}


def _digest_set(digest: Digest) -> Json:
    if digest.function in _WEAK:
        raise NotAttestable(f"{digest} is named by a broken hash function")
    return {digest.function.value: digest.hash}


def _hex(content: bytes) -> str:
    return sha256(content).hexdigest()


@lru_cache(maxsize=64)  # The statements of one action say the same times several times.
def time_text(seconds: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def parse_time(text: str) -> float:
    """Reads what `time_text` writes. Raises MalformedAttestation."""
    try:
        at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        at = -1.0
    if at < 0 or time_text(at) != text:
        raise MalformedAttestation(f"{text!r} is not a time such as 2026-01-31T23:59:59.000Z")
    return at
