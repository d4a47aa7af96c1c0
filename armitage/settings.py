"""Tables of plain values (as TOML has them) to frozen dataclasses and back. Knows no setting by
name.

Rules:
- A setting is a field; its table is the dataclass. A field that cannot be set from a file carries
  `metadata={"setting": False}`.
- Units are in the name: `*_bytes` takes a number of bytes or text such as `"10GiB"`; `*_s` takes
  seconds or text such as `"12h"` or `"1h30m"`. Neither may be negative.
- `"off"` makes an optional number None. Other optional settings are None by being left out.
- A dataclass checks its own ranges in `__post_init__` and raises ValueError; here that becomes a
  ConfigError with the path of the table.
- Fields whose name tells of a secret (`*_key`, `*_token`, `*_password`, `*_secret`) are redacted
  when shown, and so is `user:password@` in an address; a file name is no secret.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union

from armitage.errors import ArmitageError, ConfigError

T = TypeVar("T")

REDACTED = "(redacted)"
OFF = "off"
_EXACT_INTEGERS = 2**53
_SECRET = re.compile(r"(^|_)(key|token|password|secret)$")
_CREDENTIALS = re.compile(r"(\w://)[^\s/@]+@")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)")
_SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TB": 10**12,
    "TiB": 2**40,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of a configuration: its dotted path (`[]` after a list of tables, NAME in a table of
    them) and its default as a plain value; None stands for "not set".
    """

    path: str
    default: object
    required: bool


def parse_size(text: str) -> int:
    """Parses `"512MiB"`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a size; write a number of bytes or e.g. "10GiB"')
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def parse_duration(text: str) -> float:
    """Parses `"1h30m"` to seconds. Raises ValueError."""
    rest, total = text.strip(), 0.0
    while rest and (match := _DURATION_PART.match(rest)):
        total += float(match[1]) * _DURATION_UNITS[match[2]]
        rest = rest[match.end() :]
    if rest or not text.strip():
        raise ValueError(f'{text!r} is not a duration; write seconds or e.g. "90s", "12h"')
    return total


def build(kind: type[T], table: object, path: str = "") -> T:
    """Makes a dataclass from a table. Raises ConfigError whose message starts with the path."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: expected a table, got {_kind_of(table)}")
    fields = _fields(kind)
    for key in table:
        if key not in fields:
            raise ConfigError(f"{_join(path, key)}: unknown setting; {_suggest(key, fields)}")
    values = {
        key: _convert(fields[key], value, _join(path, key), key) for key, value in table.items()
    }
    required = [f.name for f in dataclasses.fields(_dataclass(kind)) if _is_required(f)]
    for name in required:
        if name not in values:
            raise ConfigError(f"{_join(path, name)}: required setting is missing; add it")
    try:
        return kind(**values)
    except (ValueError, ArmitageError) as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def plain(value: object, *, redact: bool = True) -> Any:
    """The same as tables, lists, strings and numbers; None stands for "not set"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown, hints = {}, _fields(type(value))
        for field in dataclasses.fields(value):
            if _is_setting(field):
                inner = getattr(value, field.name)
                secret = redact and isinstance(inner, str) and _SECRET.search(field.name)
                shown[field.name] = (
                    REDACTED if secret else _plain_field(inner, hints[field.name], redact=redact)
                )
        return shown
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and redact:
        return _CREDENTIALS.sub(rf"\1{REDACTED}@", value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner, redact=redact) for key, inner in value.items()}
    if isinstance(value, (list, tuple, frozenset, set)):
        ordered: Iterable[Any] = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(inner, redact=redact) for inner in ordered]
    return value


def settings_of(kind: type[Any], path: str = "") -> list[Setting]:
    """Every leaf setting below a dataclass, in order of declaration."""
    found: list[Setting] = []
    hints = _fields(kind)
    for field in dataclasses.fields(kind):
        if field.name not in hints:
            continue
        here, inner = _join(path, field.name), _inner_dataclass(hints[field.name])
        if inner is not None:
            found += settings_of(inner, here + _below(hints[field.name]))
        elif _is_required(field):
            found.append(Setting(here, None, required=True))
        else:
            default = _plain_field(_default(field), hints[field.name])
            found.append(Setting(here, default, required=False))
    return found


def to_toml(table: Mapping[str, Any], path: str = "") -> str:
    """Writes plain tables as TOML; settings that are None become a comment."""
    leaves, tables = [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            here = _join(path, toml_key(key))
            tables.append(f"\n[{here}]\n{to_toml(value, here)}")
        elif value is None:
            leaves.append(f"# {toml_key(key)} is not set\n")
        else:
            leaves.append(f"{toml_key(key)} = {toml_value(value)}\n")
    return "".join(leaves + tables)


def toml_key(key: str) -> str:
    """Quotes a key where TOML demands it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: object) -> str:
    """Writes one plain value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < _EXACT_INTEGERS:
            return str(int(value))
        case int() | float():
            return repr(value)
        case str():
            # TOML's basic strings are JSON's, but for DEL, which they do not take as it is.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            inner = ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items())
            return f"{{{inner}}}"
        case Sequence():
            return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lays one table over another, table by table; values and lists are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _plain_field(value: object, kind: Any, *, redact: bool = True) -> Any:
    if value is None and _optional_number(kind):
        return OFF
    return plain(value, redact=redact)


def _optional_number(kind: Any) -> bool:
    return type(None) in typing.get_args(kind) and bool({int, float} & set(typing.get_args(kind)))


def _inner_dataclass(kind: Any) -> Any:
    """The dataclass of a table, an optional table or a list of tables; None for leaves."""
    for candidate in (kind, *typing.get_args(kind)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _below(kind: Any) -> str:
    """What stands in a path between a field and its dataclass's: the place in a list or a table."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        return "[]"
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return ".NAME" if is_mapping else ""


def _dataclass(kind: type[Any]) -> Any:
    assert dataclasses.is_dataclass(kind), kind
    return kind


def _fields(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if _is_setting(f)}


def _is_setting(field: dataclasses.Field[Any]) -> bool:
    return field.init and bool(field.metadata.get("setting", True))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return _is_setting(field) and field.default is missing and field.default_factory is missing


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _convert(kind: Any, value: object, path: str, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value == OFF and _optional_number(kind):
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        try:
            return _convert(inner, value, path, name)
        except ConfigError as error:
            if isinstance(value, str) and _optional_number(kind):
                raise ConfigError(f'{error}, or "{OFF}"') from None
            raise
    if origin in (tuple, frozenset):
        if not isinstance(value, list):
            raise ConfigError(f"{path}: expected a list, got {_kind_of(value)}")
        if origin is tuple and arguments[-1] is not ... and len(value) != len(arguments):
            raise ConfigError(f"{path}: expected {len(arguments)} values, got {len(value)}")
        items = (_convert(arguments[0], v, f"{path}[{i}]", name) for i, v in enumerate(value))
        return origin(items)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a table, got {_kind_of(value)}")
        return {k: _convert(arguments[1], v, _join(path, k), name) for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    return _scalar(kind, value, path, name)


def _scalar(kind: Any, value: object, path: str, name: str) -> Any:
    if isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    if issubclass(kind, Enum):
        choices = [member.value for member in kind]
        if value in choices:
            return kind(value)
        raise ConfigError(f"{path}: {value!r} is not one of {', '.join(map(str, choices))}")
    if kind in (int, float):
        return _number(kind, value, path, name)
    expected: tuple[type, str] = {
        bool: (bool, "true or false"),
        str: (str, "text"),
        Path: (str, "a file name"),
    }[kind]
    if not isinstance(value, expected[0]):
        raise ConfigError(f"{path}: expected {expected[1]}, got {_kind_of(value)}")
    return Path(str(value)).expanduser() if kind is Path else value


def _number(kind: type[Any], value: object, path: str, name: str) -> int | float:
    number: object = value
    if isinstance(value, str) and name.endswith(("_bytes", "_s")):
        try:
            number = parse_size(value) if name.endswith("_bytes") else parse_duration(value)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(f"{path}: expected a number, got {_kind_of(value)}")
    if not math.isfinite(number):
        raise ConfigError(f"{path}: {value!r} is not a finite number")
    if kind is int and number != int(number):
        raise ConfigError(f"{path}: expected a whole number, got {value!r}")
    if number < 0 and name.endswith(("_bytes", "_s")):
        raise ConfigError(f"{path}: {value!r} is negative; write zero or more")
    return int(number) if kind is int else float(number)


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {value!r}"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case Mapping():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _suggest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(known)}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
