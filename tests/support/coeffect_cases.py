"""Random pairs of declaration and evidence for the checker: well-formed ones that nearly fit, and
broken ones. The same seed gives the same cases.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

Case = tuple[bytes, bytes]

_LABELS = ("a", "b", "example", "org", "com", "xn--bcher-kva", "a-b", "_srv", "0", "A", "Example")
_BAD_LABELS = ("", "-a", "a-", "a" * 63, "a" * 64, "*", "ä", "a b", "a/b")
_SEGMENTS = ("usr", "lib", "lib64", "opt", "a", "A", ".", "..", "", "%2e%2E", "x%20y", "x%2By")
_BAD_SEGMENTS = ("%00", "%2F", "%2f..", "%", "%g0", "x:y", "é", "a+b", "~", "%FF", "*")
_NAMES = ("npm", "npm2", "NPM", "a.b-c_d", "n" * 128)
_BAD_NAMES = ("", "n" * 129, "a b", "a:b", "ä")
_NUMBERS = ("1", "2", "3", "8", "80", "443", "8080", "16384", "65535", "999999999")
_BAD_NUMBERS = ("", "0", "01", "+1", "-1", "1_0", "65536", "1000000000", "9" * 30, "0x10", "1.0")
_KINDS = ("wasm", "namespace", "microvm")
_BAD_KINDS = ("none", "", "WASM", "docker")


class Cases:
    """An endless source of cases."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Case]:
        while True:
            yield self.case()

    def case(self) -> Case:
        items = [self._item() for _ in range(self._random.choice((0, 1, 1, 2, 3, 6)))]
        terms = [self._near(item) for item in items if self._chance(0.95)]
        terms += [self._near(self._item()) for _ in range(self._random.choice((0, 0, 1, 2)))]
        if self._chance(0.3):
            terms.append(f"sandbox:{self._pick(_KINDS, _BAD_KINDS, 0.03)}")
        self._random.shuffle(terms)
        declaration = f"armitage-declaration/1\n{'+'.join(terms) or 'pure'}\n".encode()
        evidence = self._evidence(items)
        if self._chance(0.1):
            declaration = self._damage(declaration)
        if self._chance(0.15):
            evidence = self._damage(evidence)
        return declaration, evidence

    def _chance(self, p: float) -> bool:
        return self._random.random() < p

    def _pick(self, good: tuple[str, ...], bad: tuple[str, ...], p: float = 0.01) -> str:
        return self._random.choice(bad if self._chance(p) else good)

    def _host(self) -> str:
        count = self._random.choice((1, 2, 2, 3, 3, 4))
        labels = [self._pick(_LABELS, _BAD_LABELS) for _ in range(count)]
        if self._chance(0.003):
            labels = ["a" * self._random.choice((61, 62, 63))] * 4
        return ".".join(labels) + ("." if self._chance(0.05) else "")

    def _path(self) -> str:
        count = self._random.choice((0, 1, 2, 2, 3, 4))
        segments = [self._pick(_SEGMENTS, _BAD_SEGMENTS, 0.02) for _ in range(count)]
        return ("" if self._chance(0.01) else "/") + "/".join(segments)

    def _item(self) -> tuple[str, ...]:
        kind = self._random.choice(
            ("network", "network", "filesystem", "filesystem", "auth", "gpu")
        )
        if kind == "network":
            return kind, self._host(), self._pick(_NUMBERS[:-1], _BAD_NUMBERS)
        if kind == "filesystem":
            return kind, self._path(), self._pick(("ro", "ro", "rw"), ("", "wo", "RO"))
        if kind == "auth":
            return kind, self._pick(_NAMES, _BAD_NAMES)
        return kind, *(self._pick(_NUMBERS, ("0", *_BAD_NUMBERS)) for _ in range(3))

    def _near(self, item: tuple[str, ...]) -> str:
        """A term that covers the item, or misses it by little."""
        match item:
            case ("network", host, port):
                return self._near_host(host, port)
            case ("filesystem", path, access):
                return self._near_path(path, access)
            case ("auth", name):
                return f"auth:{name if self._chance(0.9) else self._pick(_NAMES, _BAD_NAMES)}"
            case ("gpu", count, memory, sm):
                return self._near_gpu(count, memory, sm)
        raise AssertionError(item)

    def _near_host(self, host: str, port: str) -> str:
        _, _, parent = host.partition(".")
        pattern = self._random.choice(
            (host, host, f"*.{parent}", f"*.{parent}", f"*.{host}", parent)
        )
        if self._chance(0.2):
            pattern = self._random.choice(
                (pattern.upper(), pattern + ".", "x" + pattern, "a." + pattern)
            )
        if self._chance(0.05):
            return "network"
        if self._chance(0.4):
            return f"network:{pattern}"
        return (
            f"network:{pattern}:{port if self._chance(0.8) else self._pick(_NUMBERS, _BAD_NUMBERS)}"
        )

    def _near_path(self, path: str, access: str) -> str:
        if self._chance(0.5):
            path = path.rsplit("/", 1)[0] or "/"
        if self._chance(0.15):
            path = self._random.choice(
                (path + "x", path + "/", path + "/..", path[:-1], "/." + path)
            )
        if self._chance(0.3):
            return f"filesystem:{path}"
        return f"filesystem:{path}:{access if self._chance(0.7) else 'rw'}"

    def _near_gpu(self, count: str, memory: str, sm: str) -> str:
        term = "gpu"
        if self._chance(0.7):
            term += f":{self._bend(count)}"
        if self._chance(0.6):
            term += f":mem>={self._bend(memory)}"
        if self._chance(0.6):
            term += f":sm>={self._bend(sm)}"
        return term

    def _bend(self, number: str) -> str:
        if self._chance(0.75) or not number.isascii() or not number.isdecimal():
            return number
        return str(max(0, int(number) + self._random.choice((-1, 1, 10))))

    def _evidence(self, items: list[tuple[str, ...]]) -> bytes:
        records = [" ".join(item) for item in items]
        if self._chance(0.98):
            kind = self._pick(_KINDS, _BAD_KINDS)
            records.insert(self._random.randint(0, len(records)), f"sandbox {kind}")
        numbered = [f"{number} {record}" for number, record in enumerate(records)]
        session = self._pick(_NAMES, _BAD_NAMES)
        ending = f"close {session} {len(records)} 0"
        if self._chance(0.03):
            other = self._random.choice((f"{len(records) + 1} 0", f"{len(records)} 1", "0", "x y"))
            ending = f"close {session} {other}"
        return "\n".join(["armitage-evidence/1", f"open {session}", *numbered, ending, ""]).encode()

    def _damage(self, document: bytes) -> bytes:
        """A document with a small mistake, or with none that matters."""
        at = self._random.randrange(len(document) + 1)
        byte = bytes(
            [self._random.choice(b"\n :+./0aZ%\x00\xff-*" + bytes([self._random.randrange(256)]))]
        )
        lines = document.splitlines(keepends=True)
        match self._random.randrange(8):
            case 0:
                return document[:at]
            case 1:
                return document[:at] + byte + document[at:]
            case 2:
                return document[:at] + document[at + 1 :]
            case 3:
                return document[:at] + byte + document[at + 1 :]
            case 4:
                return document + self._random.choice((document, b"\n", byte, lines[-1]))
            case 5:
                line = self._random.randrange(len(lines))
                return b"".join(lines[:line] + lines[line + 1 :])
            case 6:
                self._random.shuffle(lines)
                return b"".join(lines)
        return self._random.randbytes(self._random.randrange(40))
