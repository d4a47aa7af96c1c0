"""A second opinion on coeffects: the rules of docs/proofs.md written again, in another language and
another style, for tests alone. Each rule is a method, so that a test can break one.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

_NUMBER = rb"(0|[1-9][0-9]{0,8})"
_LABEL = re.compile(rb"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PATH = re.compile(rb"(?:[A-Za-z0-9._~/-]|%[0-9A-Fa-f]{2})*")
_GPU = re.compile(
    rb"gpu(?::" + _NUMBER + rb")?(?::mem>=" + _NUMBER + rb")?(?::sm>=" + _NUMBER + rb")?"
)
_SANDBOXES = (b"wasm", b"namespace", b"microvm")

Item = tuple[object, ...]
Term = tuple[object, ...]


class Malformed(Exception):
    """A document is none."""


@dataclasses.dataclass(frozen=True)
class Opinion:
    """`approve`, `declaration` or `evidence` where that is malformed, or `uncovered`, and what."""

    outcome: str
    uncovered: tuple[str, ...] = ()


class Oracle:
    """The rules."""

    def opinion(self, declaration: bytes, evidence: bytes) -> Opinion:
        try:
            terms = self.declaration(declaration)
        except Malformed:
            return Opinion("declaration")
        try:
            items = self.evidence(evidence)
        except Malformed:
            return Opinion("evidence")
        left = tuple(show(item) for item in items if not self.covered(terms, item))
        return Opinion("uncovered", left) if left else Opinion("approve")

    # Texts.

    def lines(self, document: bytes, header: bytes) -> list[bytes]:
        if not document.endswith(b"\n"):
            raise Malformed
        first, *rest = document[:-1].split(b"\n")
        if first != header:
            raise Malformed
        return rest

    def number(self, text: bytes) -> int:
        if not re.fullmatch(_NUMBER, text):
            raise Malformed
        return int(text)

    def name(self, text: bytes) -> bytes:
        if not _NAME.fullmatch(text):
            raise Malformed
        return text

    def host(self, text: bytes) -> tuple[bytes, ...]:
        text = text.lower()
        if text.endswith(b".") and text != b".":
            text = text[:-1]
        labels = tuple(text.split(b"."))
        if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
            raise Malformed
        return labels

    def port(self, text: bytes) -> int:
        port = self.number(text)
        if not 1 <= port <= 65535:
            raise Malformed
        return port

    def path(self, text: bytes) -> tuple[bytes, ...]:
        decoded = unquote_to_bytes(text)
        if not _PATH.fullmatch(text) or b"\0" in decoded or not decoded.startswith(b"/"):
            raise Malformed
        kept: list[bytes] = []
        for segment in decoded.split(b"/"):
            if segment == b"..":
                kept = kept[:-1]
            elif segment not in (b"", b"."):
                kept.append(segment)
        return tuple(kept)

    def access(self, text: bytes) -> str:
        if text not in (b"ro", b"rw"):
            raise Malformed
        return text.decode()

    def sandbox(self, text: bytes) -> bytes:
        if text not in _SANDBOXES:
            raise Malformed
        return text

    # Declarations.

    def declaration(self, document: bytes) -> list[Term]:
        body = self.lines(document, b"armitage-declaration/1")
        if len(body) != 1:
            raise Malformed
        if body[0] == b"pure":
            return []
        terms = [self.term(text) for text in body[0].split(b"+")]
        keys = ["gpu" if term[0] == "gpu" else term for term in terms]
        if self.forbids_duplicates() and len(set(keys)) < len(keys):
            raise Malformed
        return terms

    def forbids_duplicates(self) -> bool:
        return True

    def term(self, text: bytes) -> Term:
        if gpu := _GPU.fullmatch(text):
            count, memory, sm = (int(group) if group else None for group in gpu.groups())
            if count == 0:
                raise Malformed
            return ("gpu", 1 if count is None else count, memory or 0, sm or 0)
        match text.split(b":"):
            case [b"network"]:
                return ("network",)
            case [b"network", host]:
                return ("host", *self.pattern(host), None)
            case [b"network", host, port]:
                return ("host", *self.pattern(host), self.port(port))
            case [b"auth", name]:
                return ("auth", self.name(name))
            case [b"filesystem", path]:
                return ("filesystem", self.path(path), "ro")
            case [b"filesystem", path, access]:
                return ("filesystem", self.path(path), self.access(access))
            case [b"sandbox", kind]:
                return ("sandbox", self.sandbox(kind))
        raise Malformed

    def pattern(self, text: bytes) -> tuple[bool, tuple[bytes, ...]]:
        if text.startswith(b"*."):
            return True, self.host(text[2:])
        return False, self.host(text)

    # Evidence.

    def evidence(self, document: bytes) -> list[Item]:
        body = self.lines(document, b"armitage-evidence/1")
        if len(body) < 2:
            raise Malformed
        opening, *records, close = body
        match opening.split(b" "):
            case [b"open", name]:
                session = self.name(name)
            case _:
                raise Malformed
        self.close(close.split(b" "), session, len(records))
        items = [self.record(number, record.split(b" ")) for number, record in enumerate(records)]
        if self.wants_a_sandbox() and not any(item[0] == "sandbox" for item in items):
            raise Malformed
        return items

    def wants_a_sandbox(self) -> bool:
        return True

    def close(self, fields: list[bytes], session: bytes, count: int) -> None:
        if len(fields) != 4 or fields[0] != b"close" or fields[1] != session:
            raise Malformed
        if self.number(fields[2]) != count or self.number(fields[3]) != 0:
            raise Malformed

    def record(self, number: int, fields: list[bytes]) -> Item:
        if not self.is_number_of(number, fields[0]):
            raise Malformed
        match fields[1:]:
            case [b"network", host, port]:
                return ("network", self.host(host), self.port(port))
            case [b"auth", name]:
                return ("auth", self.name(name))
            case [b"filesystem", path, access]:
                return ("filesystem", self.path(path), self.access(access))
            case [b"gpu", count, memory, sm]:
                numbers = self.number(count), self.number(memory), self.number(sm)
                if numbers[0] > 0:
                    return ("gpu", *numbers)
            case [b"sandbox", kind]:
                return ("sandbox", self.sandbox(kind))
        raise Malformed

    def is_number_of(self, number: int, text: bytes) -> bool:
        return self.number(text) == number

    # Cover.

    def covered(self, terms: list[Term], item: Item) -> bool:
        kinds = {term[1] for term in terms if term[0] == "sandbox"}
        if item[0] == "sandbox":
            return not kinds or item[1] in kinds
        return any(self.covers(term, item) for term in terms)

    def covers(self, term: Term, item: Item) -> bool:
        match term, item:
            case ("network",), ("network", _, _):
                return True
            case ("host", wild, labels, granted), ("network", host, port):
                assert isinstance(host, tuple)
                return self.host_covers(wild, labels, host) and self.port_covers(granted, port)
            case ("auth", granted), ("auth", used):
                return granted == used
            case ("filesystem", granted, mode), ("filesystem", path, access):
                assert isinstance(granted, tuple)
                assert isinstance(path, tuple)
                return self.path_covers(granted, path) and self.mode_covers(mode, access)
            case ("gpu", *granted), ("gpu", *used):
                return self.gpu_covers(granted, used)
        return False

    def host_covers(self, wild: object, labels: object, host: tuple[bytes, ...]) -> bool:
        return labels == (host[1:] if wild else host)

    def port_covers(self, granted: object, used: object) -> bool:
        return granted is None or granted == used

    def path_covers(self, granted: tuple[bytes, ...], used: tuple[bytes, ...]) -> bool:
        return used[: len(granted)] == granted

    def mode_covers(self, granted: object, used: object) -> bool:
        return granted == "rw" or used == "ro"

    def gpu_covers(self, granted: list[Any], used: list[Any]) -> bool:
        return bool(used[0] <= granted[0] and used[1] >= granted[1] and used[2] >= granted[2])


def show(item: Item) -> str:
    """An item as the checker writes it in a reason, with what it needs."""
    match item:
        case ("network", tuple(host), port):
            name = b".".join(host).decode()
            return f"network {name} {port} needs network:{name}:{port}"
        case ("auth", bytes(name)):
            return f"auth {name.decode()} needs auth:{name.decode()}"
        case ("filesystem", tuple(path), mode):
            text = "".join("/" + quote(segment, safe="-._~") for segment in path) or "/"
            return f"filesystem {text} {mode} needs filesystem:{text}:{mode}"
        case ("gpu", count, memory, sm):
            return f"gpu {count} {memory} {sm} needs gpu:{count}:mem>={memory}:sm>={sm}"
        case ("sandbox", bytes(kind)):
            return f"sandbox {kind.decode()} needs sandbox:{kind.decode()}"
    raise AssertionError(item)


MAX_REASONS = 64
