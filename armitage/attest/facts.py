"""What an attestation says of one executed action, as plain values.

Whoever executes fills them in; armitage.attest.statement says where each stands in what is signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from armitage.attest.canonical import canonical
from armitage.proofs.verdict import Verdict
from cas.digest import Digest
from executor.evidence import Evidence
from executor.spec import Outcome


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a client gets of a result, but for what was printed: two executions that agree in this
    reproduced each other.
    """

    exit_code: int
    files: tuple[tuple[str, Digest, bool], ...] = ()
    """Path, content, whether it is executable."""
    directories: tuple[tuple[str, Digest], ...] = ()
    """Path, REAPI Tree."""
    symlinks: tuple[tuple[str, str], ...] = ()
    """Path, target."""

    def document(self) -> bytes:
        """Canonical JSON: equal for equal outputs, in whatever order they come."""
        return canonical(
            {
                "v": 1,
                "exit_code": self.exit_code,
                "files": [
                    {"path": path, "digest": str(digest), "executable": executable}
                    for path, digest, executable in sorted(self.files)
                ],
                "directories": [
                    {"path": path, "tree": str(tree)} for path, tree in sorted(self.directories)
                ],
                "symlinks": [
                    {"path": path, "target": target} for path, target in sorted(self.symlinks)
                ],
            }
        )

    def sha256(self) -> str:
        """Hex SHA-256 of the document: how attestations name what came out."""
        return sha256(self.document()).hexdigest()


def outputs_of(outcome: Outcome) -> Outputs:
    """What an executor found."""
    return Outputs(
        outcome.exit_code,
        tuple((file.path, file.digest, file.is_executable) for file in outcome.files),
        tuple((directory.path, directory.tree) for directory in outcome.directories),
        tuple((link.path, link.target) for link in outcome.symlinks),
    )


@dataclass(frozen=True, slots=True)
class Fetch:
    """One witnessed exchange that the action was answered in. Its URL is redacted already."""

    url: str
    method: str
    status: int
    host: str
    port: int
    sha256: str
    """Hex, of the body after transfer-decoding; empty where there was none or it was cut off."""
    size_bytes: int
    log_index: int
    """Of its record in the daemon's log."""
    address: str = ""
    """Where the connection went."""
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """One exchange that the action got no answer to: the witness refused it, or it failed. Its URL
    is redacted already.
    """

    url: str
    method: str
    host: str
    is_refused: bool
    reason: str
    log_index: int
    """Of its record in the daemon's log."""


Exchanges = Sequence[Fetch | Lost] | Exception
"""Those of a session, in order; or why they cannot be told."""


@dataclass(frozen=True, slots=True)
class Builder:
    """Who executed. What gives other guarantees needs another `id`."""

    id: str
    """A URI."""
    host: str
    """A URI of the worker's machine."""
    version: tuple[tuple[str, str], ...] = ()
    """Component and version."""


@dataclass(frozen=True, slots=True)
class ActionFacts:
    """One execution of one action, which the checker approved."""

    instance: str
    action: Digest
    command: Digest
    input_root: Digest
    invocation: str
    """Unique for this execution, also among other daemons."""
    outputs: Outputs
    subjects: tuple[tuple[str, Digest], ...]
    """Every output file, those in output directories too: path below the working directory, and
    content.
    """
    stdout: Digest
    stderr: Digest
    declaration: bytes
    """The document that the checker was given (armitage.proofs.checker.declaration_of)."""
    evidence: bytes
    """The document that the checker was given (armitage.proofs.evidence.encode_evidence)."""
    verdict: Verdict
    used: Evidence
    """What the evidence document was made of."""
    builder: Builder
    started_s: float
    finished_s: float
    """Both seconds since 1970."""
    fetches: Sequence[Fetch] = ()
    lost: Sequence[Lost] = ()
    platform: tuple[tuple[str, str], ...] = ()
    """Of the Command or the Action, as it counted for choosing a worker."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One execution whose result nobody gets, because the checker did not approve."""

    instance: str
    action: Digest
    invocation: str
    declaration: bytes
    evidence: bytes
    verdict: Verdict
    at_s: float
    explanation: Sequence[str] = field(default=())
    """The reasons in words, as the client was told."""
