"""Keeps secrets out of what is written down.

Two nets: the exact secrets that the configuration knows of, and the shapes that secrets usually
have. The second is a last resort, for text that comes from clients and libraries; our own code
never logs metadata.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

REDACTED = "(redacted)"

# Repeats are bounded, so that no text makes the search take more than linear time.
_NAME = (
    r"(?:proxy-)?authorization|(?:set-)?cookie"
    r"|[\w-]{0,64}(?:password|passwd|secret|credential|api[-_]?key|private[-_]?key|access[-_]?key"
    r"|[-_]token)[\w-]{0,64}|token"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_PATTERNS = (
    # A PEM private key, whole or cut short.
    re.compile(
        r"()-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
    ),
    # user:password@ in an address.
    re.compile(r"(\w://[^\s/:@]*:)[^\s/@]+(?=@)"),
    # name: value, name=value, "name": "value", ('name', 'value'); the value may have a scheme.
    re.compile(
        rf"(?i)((?<![\w-])(?:{_NAME})(?:['\"]\s*[,:=]|\s*[:=])\s*(?:b?['\"])?)"
        r"(?:(?:bearer|basic|digest|negotiate)\s+)?[^\s'\",;)}\]]+"
    ),
    # A bare scheme with a credential that does not look like prose.
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)(?=\S*[\d=._-])[\w.~+/=-]{8,}"),
    # Well-known shapes: JWT, GitHub, AWS, Slack.
    re.compile(
        r"()\b(?:eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|gh[pousr]_\w{20,}|github_pat_\w{20,}"
        r"|AKIA[0-9A-Z]{16}|xox[abeprs]-[\w-]{8,})"
    ),
)
_PLAIN = re.compile(r"[0-9a-f.:-]*")
"""Numbers, digests, identifiers: no pattern is found in what is wholly of these, and most is."""


def is_secret_name(name: str) -> bool:
    """Whether the name alone of a header or field tells that it holds a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


_is_secret_field = functools.lru_cache(maxsize=256)(is_secret_name)
"""Our own code names fields: they are few."""


class Redactor:
    """Replaces secrets in text. `secrets` are known values, which no shape needs to give away."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """The text without its secrets."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        if _PLAIN.fullmatch(text):
            return text
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{REDACTED}", text)
        return text

    def field(self, name: str, value: str) -> str:
        """The value of a named field, of which the name alone may tell that it is secret."""
        return REDACTED if _is_secret_field(name) else self.text(value)
