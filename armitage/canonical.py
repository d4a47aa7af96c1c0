"""Canonical JSON (RFC 8785), for what is signed, hashed or logged.

It is that of text, whole numbers below 2**53, booleans, nulls, lists, and objects whose names are
ASCII. Of these orjson writes what RFC 8785 says (a test holds it to a general encoder), at a
hundredth of the cost. There is nothing else in what we write, and nothing else is read.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_OPTIONS: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
_LISTS: Final = (list, tuple)


class NotCanonical(ValueError):
    """These are no bytes in canonical form, or no value that has one."""


def canonical(value: Any) -> bytes:
    """Encodes a value. Raises NotCanonical for text that is not Unicode, and for what is not of the
    kinds above.
    """
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:  # orjson.JSONEncodeError is one.
        raise NotCanonical(f"cannot be kept as canonical JSON: {error}") from None
    if _has_fraction(value) or not (data.isascii() or _has_ascii_names(value)):
        raise NotCanonical("cannot be kept as canonical JSON: a fraction, or a name beyond ASCII")
    return data


def parse_canonical(data: bytes) -> dict[str, Any]:
    """Reads an object exactly as `canonical` writes it, so that no name is there twice and nothing
    can be changed without changing the value. Raises NotCanonical.
    """
    try:
        found = orjson.loads(data)
        if isinstance(found, dict) and canonical(found) == data:
            return found
    except ValueError:  # orjson.JSONDecodeError and NotCanonical are.
        pass
    raise NotCanonical(f"{data[:60]!r} is not a JSON object in canonical form")


def _has_fraction(value: Any) -> bool:
    """Whether any number in it is no whole one: orjson writes fractions in its own way, and NaN as
    null. No deeper than what it has written, which has a limit.
    """
    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list):
        return isinstance(value, float)
    # Nearly all are strings; that saves a call for each.
    return any(not isinstance(inner, str) and _has_fraction(inner) for inner in value)


def _has_ascii_names(value: Any) -> bool:
    """Others are sorted by UTF-16 in RFC 8785, and by UTF-8 in orjson."""
    if isinstance(value, dict):
        return all(name.isascii() and _has_ascii_names(inner) for name, inner in value.items())
    return not isinstance(value, _LISTS) or all(map(_has_ascii_names, value))
