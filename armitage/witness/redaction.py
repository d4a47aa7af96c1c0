"""What of an exchange may be written down: everything that identifies it, and nothing that opens a
door.

What is left out is left out before it is stored anywhere. A query's values stay only under names
that are known to be harmless; in place of the others stands a keyed hash, so that an auditor sees
whether two fetches asked for the same, and nobody can guess the value without the key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import SplitResult, quote, unquote_plus, urlsplit, urlunsplit

from armitage.observability.redaction import is_secret_name

Headers = Sequence[tuple[str, str]]

_TAG_DIGITS = 16
_PLAIN_QUERY = frozenset(
    {
        # git, Go, package indexes, archives: what build tools ask for.
        *("service", "go-get", "format", "abi", "arch", "os", "platform", "python", "release"),
        *("version", "ref", "branch", "tag", "page", "per_page", "size", "limit", "offset"),
    }
)
_REQUEST_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "cache-control", "content-encoding"),
        *("content-length", "content-type", "git-protocol", "host", "range", "te", "user-agent"),
    }
)
_RESPONSE_HEADERS = frozenset(
    {
        *("accept-ranges", "age", "cache-control", "content-disposition", "content-encoding"),
        *("content-language", "content-length", "content-range", "content-type", "date", "etag"),
        *("expires", "last-modified", "location", "server", "transfer-encoding", "vary", "via"),
        "docker-content-digest",
    }
)
_URL_HEADERS = frozenset({"location"})


@dataclass(frozen=True, slots=True)
class Redaction:
    """What one installation leaves out.

    `key` is its secret for keyed hashes; `scrub` takes known secrets and their usual shapes out of
    any text (armitage.observability.redaction).
    """

    key: bytes
    scrub: Callable[[str], str]
    plain_query: frozenset[str] = _PLAIN_QUERY

    def tag(self, text: str) -> str:
        """A keyed hash: equal for equal texts, and tells nothing else."""
        return hmac.new(self.key, text.encode("utf-8", "surrogateescape"), sha256).hexdigest()

    def url(self, url: str) -> str:
        """A URL without user, password, fragment and the values of its query, save harmless
        ones. What is no URL is left out as a whole.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            return f"~{self.tag(url)[:_TAG_DIGITS]}"
        plain = SplitResult(
            parts.scheme,
            parts.netloc.rpartition("@")[2],
            self.scrub(parts.path),
            "&".join(map(self._parameter, filter(None, parts.query.split("&")))),
            "",
        )
        return urlunsplit(plain)

    def _parameter(self, parameter: str) -> str:
        name, equals, value = parameter.partition("=")
        if not equals:  # It may be a bare token as well as a flag; nobody can tell.
            return name if name in self.plain_query else f"~{self.tag(name)[:_TAG_DIGITS]}"
        scrubbed = self.scrub(unquote_plus(name))
        plain = name in self.plain_query and self.scrub(value) == value
        shown = value if plain else f"~{self.tag(unquote_plus(value))[:_TAG_DIGITS]}"
        return f"{quote(scrubbed, safe='')}={shown}"

    def private_tag(self, headers: Headers) -> str:
        """A keyed hash of the headers that make an answer one person's; empty where none does."""
        private = sorted(
            (name.lower(), value)
            for name, value in headers
            if is_secret_name(name.lower()) and name.lower() != "proxy-authorization"
        )
        return self.tag(repr(private)) if private else ""

    def request_headers(self, headers: Headers) -> list[list[str]]:
        """Those of a request that may be kept, in order, names in lower case."""
        return self._kept(headers, _REQUEST_HEADERS)

    def response_headers(self, headers: Headers) -> list[list[str]]:
        """Those of a response that may be kept, in order, names in lower case."""
        return self._kept(headers, _RESPONSE_HEADERS)

    def _kept(self, headers: Headers, allowed: Iterable[str]) -> list[list[str]]:
        return [
            [name.lower(), self.url(value) if name.lower() in _URL_HEADERS else self.scrub(value)]
            for name, value in headers
            if name.lower() in allowed
        ]
