"""What the checker answers, as values."""

from __future__ import annotations

import dataclasses
from typing import Final

APPROVED: Final = b"approve\n"
_REJECTED: Final = "reject"

_USED: Final = {
    "network": "it connected to {0} port {1}",
    "auth": "it was handed the credential {0}",
    "filesystem": "it used {0} ({1})",
    "gpu": "it held {0} GPU(s) of {1} MiB and sm_{2}",
    "sandbox": "it ran in a sandbox of the kind {0}",
}
_FAULTS: Final = {
    "version": "its first line names no version that this checker knows",
    "unterminated": "it does not end where a document ends",
    "word": "it has a word that the grammar does not know, or with the wrong arguments",
    "syntax": "it has too many or too few parts",
    "host": "a host name is malformed",
    "port": "a port is not a number from 1 to 65535",
    "name": "a name is malformed",
    "path": "a path is not absolute, or is malformed",
    "access": "an access is neither ro nor rw",
    "number": "a number is malformed",
    "kind": "a kind of sandbox is unknown",
    "duplicate": "it says the same thing twice",
    "session": "the session has no name, or is closed under another",
    "sequence": "the records are not numbered without a gap, or not all there",
    "dropped": "records were dropped",
    "unclosed": "the session was not closed",
    "trailing": "something follows its end",
    "unsandboxed": "it does not say in which sandbox the action ran",
    "size": "it is too large",
}


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why something was rejected, in the words of the checker (docs/proofs.md, "Answers"):

    - `declaration FAULT` or `evidence RECORD FAULT`: a document is malformed;
    - `uncovered ITEM... needs PROPERTY`: the declaration lacks the property;
    - `more NUMBER`: so many more reasons;
    - `checker TEXT`: the checker itself failed, which is never an approval.
    """

    text: str

    @property
    def needs(self) -> str | None:
        """The least property that would have covered the item; None where nothing is uncovered."""
        head, separator, needed = self.text.rpartition(" needs ")
        return needed if separator and head.startswith("uncovered ") else None

    def explain(self) -> str:
        """The reason as a sentence for people."""
        kind, _, rest = self.text.partition(" ")
        words = rest.split(" ")
        if kind == "uncovered" and self.needs is not None and words[0] in _USED:
            used = _USED[words[0]].format(*words[1:])
            return f"{used}, which the action does not declare; `{self.needs}` would cover it"
        if kind == "declaration" and rest in _FAULTS:
            return f"the declaration is malformed: {_FAULTS[rest]}"
        if kind == "evidence" and words[-1] in _FAULTS:
            where = f" (at record {words[0]})" if words[0].isdecimal() else ""
            return f"the evidence is no evidence: {_FAULTS[words[-1]]}{where}"
        if kind == "more":
            return f"and {rest} more"
        return f"the checker failed: {rest}" if kind == "checker" else self.text


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the module with one digest decided about two documents, named by theirs (hex SHA-256).

    `reasons` is empty exactly when `approved`.
    """

    approved: bool
    reasons: tuple[Reason, ...]
    declaration_sha256: str
    evidence_sha256: str
    module_sha256: str


def parse_reasons(answer: bytes) -> tuple[Reason, ...]:
    """The reasons in an answer that is no approval.

    Raises ValueError for what is neither.
    """
    head, *reasons = answer.decode("ascii").removesuffix("\n").split("\n")
    if head != _REJECTED or not reasons or not answer.endswith(b"\n"):
        raise ValueError(f"the checker answered {answer[:80]!r}")
    return tuple(Reason(text) for text in reasons)
