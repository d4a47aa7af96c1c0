"""Whoever fetches from origins for Remote Asset: a port, and what a request asks of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from armitage.errors import InvalidRequest
from cas.digest import Digest, DigestFunction
from executor.spec import NOBODY, Requester

Header = tuple[str, str]

_FOR_ALL, _FOR_ONE, _BY_URL = "http_header:", "http_header_url:", "bazel.auth_headers"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT = "application/x-git"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched, and for whom."""

    uris: tuple[str, ...]
    """Any of them will do, the first that works."""
    function: DigestFunction
    """Of the answer's digest."""
    headers: tuple[tuple[Header, ...], ...] = ()
    """For each of the URIs."""
    sha256: str = ""
    """Of the content (for a directory, of the archive), where that alone is asked for."""
    checksums: tuple[tuple[str, bytes], ...] = ()
    """Otherwise: algorithm and digest, of which the content must have one."""
    directory: str = ""
    """The part of a directory that is wanted."""
    commit: str = ""
    branch: str = ""
    is_git: bool = False
    timeout_s: float | None = None
    requester: Requester = NOBODY


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched is in the store."""

    uri: str
    digest: Digest
    """Of the blob, or of the root Directory."""


class AssetOrigin(Protocol):
    """Fetches what nobody pushed.

    Both raise NotFound, PermissionDenied (not allowed to ask there, or refused by the origin),
    Aborted (another content than was asked for), Unavailable, Exhausted, InvalidRequest, CasError
    and TimeoutError.
    """

    async def blob(self, wanted: Wanted) -> Fetched:
        """Fetches a content."""

    async def directory(self, wanted: Wanted) -> Fetched:
        """Fetches an archive and unpacks it, or a commit of a repository."""


def headers_for(
    uris: Sequence[str], qualifiers: Iterable[tuple[str, str]]
) -> tuple[tuple[Header, ...], ...]:
    """Reads `http_header:NAME`, `http_header_url:INDEX:NAME` and `bazel.auth_headers`, which is
    JSON by URL. Raises InvalidRequest, which holds no value.
    """
    found: list[list[Header]] = [[] for _ in uris]
    for name, value in qualifiers:
        if name.startswith(_FOR_ALL):
            for headers in found:
                headers.append((name.removeprefix(_FOR_ALL), value))
        elif name.startswith(_FOR_ONE):
            index, _, header = name.removeprefix(_FOR_ONE).partition(":")
            if not index.isdecimal() or int(index) >= len(uris) or not header:
                raise InvalidRequest(f"{name!r} names no header of one of {len(uris)} URIs")
            found[int(index)].append((header, value))
        elif name == _BY_URL:
            for uri, headers in zip(uris, found, strict=True):
                headers.extend(_by_url(value, uri))
    return tuple(map(tuple, found))


def _by_url(text: str, uri: str) -> list[Header]:
    try:
        by_url = json.loads(text)
        return [(str(name), str(value)) for name, value in by_url.get(uri, {}).items()]
    except (ValueError, AttributeError, RecursionError):
        raise InvalidRequest(f"{_BY_URL} is no JSON object of headers by URL") from None


def version_of(qualifiers: Iterable[tuple[str, str]]) -> tuple[str, str, bool]:
    """Reads `vcs.commit`, `vcs.branch` and whether a repository is meant. Raises InvalidRequest."""
    known = dict(qualifiers)
    commit, branch = known.get("vcs.commit", ""), known.get("vcs.branch", "")
    if commit and _COMMIT.fullmatch(commit) is None:
        raise InvalidRequest(f"vcs.commit {commit[:100]!r} is no whole commit id in hexadecimal")
    return commit, branch, bool(commit or branch or known.get("resource_type") == _GIT)
