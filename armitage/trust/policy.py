"""Policies as values, and their text.

    policy     = all { "or" all }
    all        = part { "and" part }
    part       = "any" | who | "not" who | "checker" [ "(" MODULE { "," MODULE } ")" ]
               | "threshold" "(" N { "," who } ")"
               | "reproduced" "(" N { "," who } [ "," "ignore-streams" ] ")"
               | "nothing-refused" | "(" policy ")"
    who        = "self" | "key:" NAME | "org:" NAME

Monotonic: one attestation less never turns a refusal into an approval. `not` therefore does not ask
whether somebody signed, which whoever removes the attestation could answer; it and `checker` narrow
what the parts beside them may count: `org:acme and not key:old` is `org:acme` as if the key `old`
had signed nothing. So does `nothing-refused`, by what attestations say: one that does not say is
not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r"\s*([(),]|[^\s(),]+)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MODULE: Final = re.compile(r"[0-9a-f]{64}")
_IGNORE: Final = "ignore-streams"
_MAX_TEXT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Who:
    """One or more keys, by name: `self` (every key of this daemon's own), a key, an organisation's
    keys.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Unattested:
    """`any`: holds without any attestation."""

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class Signed:
    """Holds when one of the keys attested the result."""

    who: Who

    def __str__(self) -> str:
        return str(self.who)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Holds when so many distinct keys of those named attested the result."""

    count: int
    who: tuple[Who, ...]

    def __str__(self) -> str:
        return f"threshold({', '.join([str(self.count), *map(str, self.who)])})"


@dataclass(frozen=True, slots=True)
class Reproduced:
    """Holds when so many executions, each by another key and under another invocation, came to the
    same outputs; unless told otherwise they must have printed the same, too (and one of them what
    is to be served).
    """

    count: int
    who: tuple[Who, ...] = ()
    """Empty: every key that is known."""
    ignore_streams: bool = False

    def __str__(self) -> str:
        words = [str(self.count), *map(str, self.who), *([_IGNORE] * self.ignore_streams)]
        return f"reproduced({', '.join(words)})"


@dataclass(frozen=True, slots=True)
class Checked:
    """Narrows to attestations whose verdict is by one of these modules, and needs one."""

    modules: tuple[str, ...] = ()
    """Hex SHA-256; empty: the module of this daemon."""

    def __str__(self) -> str:
        return f"checker({', '.join(self.modules)})" if self.modules else "checker"


@dataclass(frozen=True, slots=True)
class NothingRefused:
    """Narrows to attestations of executions that the witness refused no fetch, and needs one."""

    def __str__(self) -> str:
        return "nothing-refused"


@dataclass(frozen=True, slots=True)
class Without:
    """Narrows to attestations of other keys."""

    who: Who

    def __str__(self) -> str:
        return f"not {self.who}"


@dataclass(frozen=True, slots=True)
class All:
    """Holds when every part does, over what the narrowing ones leave."""

    parts: tuple[Policy, ...]

    def __str__(self) -> str:
        # What is nested narrows for itself alone, so the parentheses are not for show.
        return " and ".join(f"({p})" if isinstance(p, Either | All) else str(p) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Either:
    """Holds when one part does."""

    parts: tuple[Policy, ...]

    def __str__(self) -> str:
        return " or ".join(f"({p})" if isinstance(p, Either) else str(p) for p in self.parts)


Narrowing = Checked | NothingRefused | Without
Policy = Unattested | Signed | Threshold | Reproduced | Narrowing | All | Either


def parse_policy(text: str) -> Policy:
    """Reads a policy. Raises ValueError, which says what is wrong and what was expected."""
    if len(text) > _MAX_TEXT:
        raise ValueError(f"a policy has at most {_MAX_TEXT} characters")
    reader = _Reader(text)
    policy = reader.policy()
    reader.end()
    return policy


def who_of(policy: Policy) -> Iterator[Who]:
    """Everybody whom the policy names."""
    match policy:
        case Signed(who) | Without(who):
            yield who
        case Threshold(_, several) | Reproduced(_, several, _):
            yield from several
        case All(parts) | Either(parts):
            for part in parts:
                yield from who_of(part)


class _Reader:
    """A recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _TOKEN.findall(text)[::-1]
        self._depth = 0

    def policy(self) -> Policy:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def end(self) -> None:
        if self._tokens:
            self._fail(f"{self._tokens[-1]!r} stands where 'and', 'or' or the end should")

    def _all(self) -> Policy:
        parts = [self._part()]
        while self._take("and"):
            parts.append(self._part())
        if any(isinstance(part, Without) for part in parts):
            self._check_narrowed(parts)
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _check_narrowed(self, parts: list[Policy]) -> None:
        counted = [part for part in parts if not isinstance(part, Without)]
        if not counted or any(_holds_unattested(part) for part in counted):
            self._fail(
                "'not' only narrows what counts for a part beside it that needs an attestation;"
                " write for example 'org:acme and not key:old'"
            )

    def _part(self) -> Policy:
        if not self._tokens:
            self._fail("it ends where a part should follow")
        match self._tokens.pop():
            case "(":
                return self._nested()
            case "any":
                return Unattested()
            case "not":
                return Without(self._who(self._next()))
            case "checker":
                return self._checker()
            case "nothing-refused":
                return NothingRefused()
            case "threshold":
                count, who, ignored = self._arguments()
                if ignored or len(set(who)) < 1:
                    self._fail("threshold takes a number and who may sign")
                return Threshold(count, who)
            case "reproduced":
                return Reproduced(*self._arguments())
            case word:
                return Signed(self._who(word))

    def _nested(self) -> Policy:
        self._depth += 1
        if self._depth > 50:
            self._fail("it is nested too deeply")
        inner = self.policy()
        self._expect(")")
        self._depth -= 1
        return inner

    def _checker(self) -> Checked:
        modules: list[str] = []
        if self._take("("):
            modules.append(self._next())
            while self._take(","):
                modules.append(self._next())
            self._expect(")")
        for module in modules:
            if not _MODULE.fullmatch(module):
                self._fail(f"{module!r} is no SHA-256 of a module (armitage proofs module)")
        return Checked(tuple(modules))

    def _arguments(self) -> tuple[int, tuple[Who, ...], bool]:
        self._expect("(")
        count, who, ignored = self._next(), [], False
        if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= 1000:
            self._fail(f"{count!r} is no number from 1 to 1000")
        while self._take(","):
            word = self._next()
            if word == _IGNORE:
                ignored = True
            else:
                who.append(self._who(word))
        self._expect(")")
        return int(count), tuple(who), ignored

    def _who(self, word: str) -> Who:
        kind, colon, name = word.partition(":")
        if kind == "self" and not colon:
            return Who("self")
        if kind in {"key", "org"} and _NAME.fullmatch(name):
            return Who(kind, name)
        self._fail(
            f"{word!r} is not known; there are any, self, key:NAME, org:NAME, checker,"
            " nothing-refused, threshold(N, WHO, ...), reproduced(N), and, or, not"
        )
        raise AssertionError

    def _next(self) -> str:
        if not self._tokens:
            self._fail("it ends too early")
        return str(self._tokens.pop())

    def _take(self, token: str) -> bool:
        if self._tokens and self._tokens[-1] == token:
            self._tokens.pop()
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            found = repr(self._tokens[-1]) if self._tokens else "its end"
            self._fail(f"{found} stands where {token!r} should")

    def _fail(self, why: str) -> None:
        raise ValueError(f"policy {self._text!r}: {why}")


def _holds_unattested(policy: Policy) -> bool:
    match policy:
        case Unattested():
            return True
        case Either(parts):
            return any(map(_holds_unattested, parts))
        case All(parts):
            return all(_holds_unattested(part) or isinstance(part, Without) for part in parts)
        case _:
            return False


def is_open(policy: Policy) -> bool:
    """Whether it holds for everything, attested or not."""
    return _holds_unattested(policy)
