"""Reads and writes the platform property `coeffects` (docs/proofs.md, "Coeffects").

The proven checker has the last word on what a property means. This reader is held to it by a test:
it takes exactly the properties that the checker takes, and means the same by them. What it adds is
values for executors, and words for people whose property is malformed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from executor.coeffects import (
    PURE,
    Coeffects,
    FilesystemGrant,
    GpuGrant,
    NetworkGrant,
    SandboxKind,
)
from executor.errors import InvalidInput

NAME: Final = "coeffects"
"""Of the platform property."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_LETTERS = re.compile(r"[a-z]+")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"(?:[A-Za-z0-9._~/-]|%[0-9A-Fa-f]{2})*")
_MAX_HOST_CHARS = 253
_MAX_PORT = 65535
_SHOWN_CHARS = 100
_FORMS: Final = {
    "network": "network, network:HOST or network:HOST:PORT",
    "auth": "auth:NAME",
    "filesystem": "filesystem:PATH, filesystem:PATH:ro or filesystem:PATH:rw",
    "gpu": "gpu[:N][:mem>=X][:sm>=Y], in this order",
    "sandbox": "sandbox:wasm, sandbox:namespace or sandbox:microvm",
}


@dataclass(frozen=True, slots=True)
class _Auth:
    name: str


_Value = NetworkGrant | FilesystemGrant | GpuGrant | SandboxKind | _Auth


def parse_coeffects(text: str) -> Coeffects:
    """Reads a property. Raises InvalidInput, which names the term, what is wrong with it and what
    to write.
    """
    if text == "pure":
        return PURE
    if not text:
        raise InvalidInput("it is empty; write `pure`, or leave the property out")
    values: list[_Value] = []
    for term in text.split("+"):
        _add(values, _value(term), term)
    kinds = frozenset(value for value in values if isinstance(value, SandboxKind))
    return Coeffects(
        network=tuple(value for value in values if isinstance(value, NetworkGrant)),
        auth=tuple(value.name for value in values if isinstance(value, _Auth)),
        filesystem=tuple(value for value in values if isinstance(value, FilesystemGrant)),
        gpu=next((value for value in values if isinstance(value, GpuGrant)), None),
        sandboxes=frozenset() if len(kinds) == len(SandboxKind) else kinds,
    )


def print_coeffects(coeffects: Coeffects) -> str:
    """Writes a property in normal form, with every default spelt out."""
    return "+".join(_terms(coeffects)) or "pure"


def _add(values: list[_Value], value: _Value, term: str) -> None:
    if value in values:
        raise InvalidInput(f"{_shown(term)} says what another term says already; keep one of them")
    if isinstance(value, GpuGrant) and any(isinstance(other, GpuGrant) for other in values):
        raise InvalidInput(f"{_shown(term)} is a second `gpu`; ask for all devices in one term")
    values.append(value)


def _value(term: str) -> _Value:
    word, *arguments = term.split(":")
    reader = _READERS.get(word)
    if reader is None:
        raise InvalidInput(_unknown(term, word))
    return reader(term, arguments)


def _unknown(term: str, word: str) -> str:
    if word == "pure":
        return "`pure` stands alone; leave it out beside other terms"
    if not term:
        return "a term is empty; write terms with one `+` between them"
    known = ", ".join(["pure", *_FORMS])
    letters = _LETTERS.match(word.lower())  # Of `network(HOST)`, the name.
    close = difflib.get_close_matches(letters[0] if letters else "", _FORMS, n=1)
    meant = f"did you mean {_FORMS[close[0]]}?" if close else f"known words: {known}"
    return f"{_shown(term)} begins with no known word; {meant}"


def _network(term: str, arguments: Sequence[str]) -> NetworkGrant:
    match arguments:
        case []:
            return NetworkGrant()
        case [host]:
            return NetworkGrant(_pattern(term, host))
        case [host, port]:
            return NetworkGrant(_pattern(term, host), _port(term, port))
    raise _malformed(term, "it has too many parts (IPv6 literals cannot be named)", "network")


def _pattern(term: str, text: str) -> str:
    wild, host = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if not host.isascii():
        raise _malformed(term, "names beyond ASCII are written as xn-- labels", "network")
    host = host.lower()
    host = host.removesuffix(".")
    if "/" in host:
        raise _malformed(term, "a host is a name, not an address with a path", "network")
    labels_fit = all(_LABEL.fullmatch(label) for label in host.split("."))
    if not labels_fit or len(host) > _MAX_HOST_CHARS:
        raise _malformed(term, f"{_shown(text)} is no host name", "network")
    return wild + host


def _port(term: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= _MAX_PORT:
        raise _malformed(term, f"{_shown(text)} is no port from 1 to {_MAX_PORT}", "network")
    return int(text)


def _auth(term: str, arguments: Sequence[str]) -> _Auth:
    if len(arguments) != 1 or not _NAME.fullmatch(arguments[0]):
        what = "a name has 1 to 128 letters, digits, dots, hyphens and underscores"
        raise _malformed(term, what, "auth")
    return _Auth(arguments[0])


def _filesystem(term: str, arguments: Sequence[str]) -> FilesystemGrant:
    match arguments:
        case [path]:
            return FilesystemGrant(_path(term, path))
        case [path, "ro" | "rw" as access]:
            return FilesystemGrant(_path(term, path), writable=access == "rw")
        case [_, access]:
            raise _malformed(term, f"{_shown(access)} is neither ro nor rw", "filesystem")
    raise _malformed(term, "it names no path, or has too many parts", "filesystem")


def _path(term: str, text: str) -> str:
    if not _PATH.fullmatch(text):
        what = "all of a path but letters, digits and -._~/ is percent-encoded"
        raise _malformed(term, what, "filesystem")
    decoded = unquote_to_bytes(text)
    if not decoded.startswith(b"/") or b"\0" in decoded:
        raise _malformed(term, "a path is absolute and holds no NUL", "filesystem")
    kept: list[bytes] = []
    for segment in decoded.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return os.fsdecode(b"/" + b"/".join(kept))


def _gpu(term: str, arguments: Sequence[str]) -> GpuGrant:
    left = list(arguments)
    count = int(left.pop(0)) if left and _NUMBER.fullmatch(left[0]) else 1
    memory_mib, sm = _at_least("mem>=", left), _at_least("sm>=", left)
    if left:
        raise _malformed(term, f"{_shown(left[0])} is not understood there", "gpu")
    if count == 0:
        raise _malformed(term, "no device at all is not a wish", "gpu")
    return GpuGrant(count, memory_mib, sm)


def _at_least(mark: str, left: list[str]) -> int:
    digits = left[0].removeprefix(mark) if left and left[0].startswith(mark) else ""
    if not _NUMBER.fullmatch(digits):
        return 0
    del left[0]
    return int(digits)


def _sandbox(term: str, arguments: Sequence[str]) -> SandboxKind:
    if len(arguments) != 1 or arguments[0] not in list(SandboxKind):
        raise _malformed(term, "it names no kind of sandbox", "sandbox")
    return SandboxKind(arguments[0])


_READERS: Final[Mapping[str, Callable[[str, Sequence[str]], _Value]]] = {
    "network": _network,
    "auth": _auth,
    "filesystem": _filesystem,
    "gpu": _gpu,
    "sandbox": _sandbox,
}


def _malformed(term: str, what: str, word: str) -> InvalidInput:
    return InvalidInput(f"{_shown(term)}: {what}; write {_FORMS[word]}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _terms(coeffects: Coeffects) -> Iterator[str]:
    for grant in coeffects.network:
        yield ":".join(["network", *_network_arguments(grant)])
    for name in coeffects.auth:
        yield f"auth:{name}"
    for file in coeffects.filesystem:
        path = quote(os.fsencode(file.path), safe="/-._~")
        yield f"filesystem:{path}:{'rw' if file.writable else 'ro'}"
    if coeffects.gpu is not None:
        gpu = coeffects.gpu
        yield f"gpu:{gpu.count}:mem>={gpu.memory_mib}:sm>={gpu.sm}"
    if len(coeffects.sandboxes) < len(SandboxKind):
        yield from (f"sandbox:{kind}" for kind in SandboxKind if kind in coeffects.sandboxes)


def _network_arguments(grant: NetworkGrant) -> Iterator[str]:
    if grant.host is not None:
        yield grant.host
        if grant.port is not None:
            yield str(grant.port)
