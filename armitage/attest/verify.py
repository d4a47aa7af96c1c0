"""From an attestation to the log's checkpoint and to the checker: every step, recomputed.

    form        the bundle is in its one form
    signature   one key that is known signed all three statements
    statement   the statements say one thing together
    entry       the log's entry names these very envelopes, this instance and this action
    receipt     the entry is in the tree of a checkpoint that the key's log signed
    documents   declaration, evidence and list of outputs are those that the statements name
    checker     the module that is named approves this declaration with this evidence
    outputs     the subjects and the list of outputs do not contradict each other

Pure: keys, modules and the bundle are given. Nothing is believed because a bundle says so; whose
key may say it is then for a policy (armitage.trust).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from armitage.attest.bundle import Bundle
from armitage.attest.canonical import list_at, parse_canonical, text_at
from armitage.attest.claim import Claim, parse_statements
from armitage.attest.entries import (
    Entry,
    Kind,
    parse_attestation_record,
    parse_digest,
    parse_entry,
    record_digest,
)
from armitage.attest.errors import (
    AttestationError,
    BadSignature,
    MalformedAttestation,
    NotVerified,
)
from armitage.attest.keys import PublicKey
from armitage.attest.verified import Verified
from armitage.log.checkpoint import open_checkpoint
from armitage.log.errors import LogError
from armitage.log.merkle import leaf_hash
from armitage.log.note import PublicKey as LogKey
from armitage.proofs.verdict import Verdict
from cas.digest import Digest

Check = Callable[[bytes, bytes], Verdict]
"""Runs a checker on a declaration and evidence (armitage.proofs.Checker.check)."""


@dataclass(frozen=True, slots=True)
class EndedLog:
    """A log that ended, and that the same daemon's next one follows."""

    key: LogKey
    check: Callable[[bytes], object]
    """Raises LogError for a signed checkpoint that is not of the log up to its end: whoever has its
    key still can sign more.
    """


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that may have signed, and the log that its attestations stand in."""

    public: PublicKey
    log: LogKey
    ended: tuple[EndedLog, ...] = ()
    """In which they may stand as well."""


@dataclass(frozen=True, slots=True)
class Known:
    """With what to verify."""

    keys: Mapping[str, KnownKey]
    """By key id."""
    checkers: Mapping[str, Check]
    """By the SHA-256 of their module."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that held, and what it found."""

    name: str
    found: str


def verify_bundle(bundle: Bundle, known: Known) -> Verified:
    """Takes every step. Raises NotVerified at the first that fails."""
    verification = Verification(bundle, known)
    for _ in verification.steps():
        pass
    return verification.result()


class Verification:
    """One bundle on its way; for those who want to see each step."""

    def __init__(self, bundle: Bundle, known: Known, *, in_log: bool = False) -> None:
        """`in_log`: the entry was read from a log that is verified as a whole; there is no receipt
        to verify then.
        """
        self._bundle = bundle
        self._known = known
        self._in_log = in_log
        self._key: KnownKey | None = None
        self._log: LogKey | None = None
        self._claim: Claim | None = None

    def steps(self) -> Iterator[Step]:
        """Answers each step once it held. Raises NotVerified, which names the step, at the first
        that does not.
        """
        for name, take in (
            ("signature", self._signature),
            ("entry", self._entry),
            ("receipt", self._receipt),
            ("documents", self._documents),
            ("checker", self._checker),
            ("outputs", self._outputs),
        ):
            if self._in_log and name == "receipt":
                continue
            try:
                yield Step(name, take())
            except (AttestationError, LogError) as error:
                raise NotVerified(name, str(error)) from error

    def result(self) -> Verified:
        """What was verified, once all steps were taken."""
        assert self._key is not None
        return Verified(
            self.claim,
            self._key.public.key_id,
            str(self._log or self._key.log),
            record_digest(self._bundle.record),
            self._bundle.receipt.index,
        )

    @property
    def claim(self) -> Claim:
        """What the statements say; after the first step."""
        assert self._claim is not None
        return self._claim

    def _signature(self) -> str:
        envelopes = parse_attestation_record(self._bundle.record)
        key_ids = {envelope.key_id for envelope in envelopes}
        if len(key_ids) != 1:
            raise BadSignature("the statements name several keys")
        (key_id,) = key_ids
        key = self._known.keys.get(key_id)
        if key is None:
            raise BadSignature(f"its key {key_id[:64]!r} is not known")
        self._claim = parse_statements([each.verified(key.public) for each in envelopes])
        self._key = key
        return f"{len(envelopes)} statements by {key_id[:16]}"

    def _entry(self) -> str:
        entry = parse_entry(self._bundle.entry)
        named = Entry(
            Kind.ATTESTATION,
            self.claim.instance,
            self.claim.action,
            record_digest(self._bundle.record),
        )
        if entry != named:
            raise MalformedAttestation("the log's entry is of another attestation")
        return f"names {entry.record.hash[:16]}"

    def _receipt(self) -> str:
        assert self._key is not None
        receipt, ended = self._bundle.receipt, self._ended()
        self._log = self._key.log if ended is None else ended.key
        tree = receipt.verify(leaf_hash(self._bundle.entry), self._log).checkpoint
        if ended is not None:
            ended.check(receipt.checkpoint)
        return f"entry {receipt.index} of {tree.size} in {tree.origin}"

    def _ended(self) -> EndedLog | None:
        """The one that signed the receipt's checkpoint, if one did."""
        assert self._key is not None
        for each in self._key.ended:
            with suppress(LogError):
                open_checkpoint(self._bundle.receipt.checkpoint, each.key)
                return each
        return None

    def _documents(self) -> str:
        claim = self.claim
        named = {each.hash: each for each in (claim.declaration, claim.evidence, claim.outputs)}
        if {record_digest(each).hash for each in self._bundle.documents} != set(named):
            raise MalformedAttestation("the documents are not those that the statements name")
        for digest in named.values():
            self._document(digest)
        return f"{len(named)} with the hashes that are signed"

    def _checker(self) -> str:
        claim = self.claim
        check = self._known.checkers.get(claim.module_sha256)
        if check is None:
            raise MalformedAttestation(
                f"the checker {claim.module_sha256} is not here; give its module"
            )
        verdict = check(self._document(claim.declaration), self._document(claim.evidence))
        if not verdict.approved:
            raise MalformedAttestation(
                f"the checker does not approve: {verdict.reasons[0].explain()}"
            )
        return f"module {claim.module_sha256[:16]} approves"

    def _outputs(self) -> str:
        files, directories = parse_outputs(self._document(self.claim.outputs))
        subjects = {subject.name: dict(subject.digests) for subject in self.claim.subjects}
        for path, digest in files.items():
            if subjects.get(path) != {digest.function.value: digest.hash}:
                raise MalformedAttestation(f"the output {path!r} is no subject")
        action = self.claim.action
        if not files and subjects == {"action": {action.function.value: action.hash}}:
            return "the action itself is the subject"
        for name in subjects.keys() - files.keys():
            tree = directories.get(name)
            is_tree = tree is not None and subjects[name] == {tree.function.value: tree.hash}
            inside = any(name.startswith(f"{path}/" if path else "") for path in directories)
            if not is_tree and (tree is not None or not inside):
                raise MalformedAttestation(f"the subject {name!r} is no output")
        return f"{len(subjects)} subjects"

    def _document(self, digest: Digest) -> bytes:
        found = self._bundle.document(digest.hash)
        if found is None or record_digest(found) != digest:
            raise MalformedAttestation(f"the document {digest} is missing")
        return found


def parse_outputs(document: bytes) -> tuple[dict[str, Digest], dict[str, Digest]]:
    """Reads a list of outputs (armitage.attest.facts.Outputs): its files, and the Trees of its
    directories, by path. Raises MalformedAttestation.
    """
    found: dict[str, Any] = parse_canonical(document)
    if found.get("v") != 1:
        raise MalformedAttestation("this is no list of outputs")
    files, directories = (
        {text_at(each, "path"): parse_digest(text_at(each, field)) for each in list_at(found, kind)}
        for kind, field in (("files", "digest"), ("directories", "tree"))
    )
    return files, directories
