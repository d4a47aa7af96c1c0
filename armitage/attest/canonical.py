"""Canonical JSON (armitage.canonical) of attestations, and how to take one apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from armitage import canonical as json
from armitage.attest.errors import MalformedAttestation


def canonical(value: Any) -> bytes:
    """Encodes a value. Raises MalformedAttestation for what has no canonical form."""
    try:
        return json.canonical(value)
    except json.NotCanonical as error:
        raise MalformedAttestation(str(error)) from None


def parse_canonical(data: bytes) -> dict[str, Any]:
    """Reads an object exactly as `canonical` writes it. Raises MalformedAttestation."""
    try:
        return json.parse_canonical(data)
    except json.NotCanonical as error:
        raise MalformedAttestation(str(error)) from None


def text_at(table: dict[str, Any], *path: str) -> str:
    """Answers a text inside nested objects. Raises MalformedAttestation where there is none."""
    found = value_at(table, *path)
    if not isinstance(found, str):
        raise MalformedAttestation(f"{'.'.join(path)} is not text")
    return found


def number_at(table: dict[str, Any], *path: str) -> int:
    """Answers a whole number that is not negative. Raises MalformedAttestation."""
    found = value_at(table, *path)
    if type(found) is not int or found < 0:
        raise MalformedAttestation(f"{'.'.join(path)} is not a number")
    return found


def list_at(table: dict[str, Any], *path: str) -> Sequence[dict[str, Any]]:
    """Answers a list of objects. Raises MalformedAttestation."""
    found = value_at(table, *path)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise MalformedAttestation(f"{'.'.join(path)} is not a list of objects")
    return found


def value_at(table: dict[str, Any], *path: str) -> Any:
    """Answers what lies inside nested objects. Raises MalformedAttestation."""
    found: Any = table
    for name in path:
        if not isinstance(found, dict) or name not in found:
            raise MalformedAttestation(f"{'.'.join(path)} is missing")
        found = found[name]
    return found
