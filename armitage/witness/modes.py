"""How an action that declares a network gets it: platform properties beside its coeffects.

    network-mode   witnessed (the default), transparent, or pinned
    network-pins   for pinned: pairs of a URL and the SHA-256 of its content, split by white space

What may be reached at all is for the coeffects to say; the mode only says how, or takes away more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from armitage.witness.heads import DEFAULT_PORTS, Refused, parse_authority, url_of
from executor.errors import InvalidInput

MODE, PINS = "network-mode", "network-pins"
PROPERTIES = frozenset({MODE, PINS})
"""They say how, not where, an action runs: no worker needs to offer them."""
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


class NetworkMode(StrEnum):
    """How clients inside a sandbox come to the witness."""

    WITNESSED = "witnessed"
    """By proxy variables; who does not read them is refused a connection."""
    TRANSPARENT = "transparent"
    """That, and whoever does not read them is caught."""
    PINNED = "pinned"
    """By proxy variables, and only to URLs whose content was declared by its digest."""


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """What an action's platform says."""

    mode: NetworkMode = NetworkMode.WITNESSED
    pins: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 in hexadecimal by URL, in normal form."""


def mode_of(platform: Iterable[tuple[str, str]]) -> ModeChoice:
    """Reads an action's platform. Raises InvalidInput, naming what is wrong."""
    told = list(platform)
    names = [value for name, value in told if name == MODE]
    pins = " ".join(value for name, value in told if name == PINS).split()
    if len(names) > 1:
        raise InvalidInput(f"{MODE} is given {len(names)} times; keep one")
    try:
        mode = NetworkMode(names[0] if names else NetworkMode.WITNESSED)
    except ValueError:
        known = ", ".join(NetworkMode)
        raise InvalidInput(f"{MODE}={names[0][:100]!r} is not one of {known}") from None
    if (mode is NetworkMode.PINNED) is not bool(pins):
        raise InvalidInput(f"{MODE}={NetworkMode.PINNED} and {PINS} need each other; give both")
    return ModeChoice(mode, read_pins(" ".join(pins)))


def read_pins(text: str) -> dict[str, str]:
    """Reads pairs of URL and SHA-256. Raises InvalidInput, naming what is wrong."""
    words = text.split()
    if len(words) % 2:
        raise InvalidInput(f"{PINS} holds pairs of URL and SHA-256; one of them has no partner")
    pins: dict[str, str] = {}
    for url, hashed in zip(words[::2], words[1::2], strict=True):
        match = _HASH.fullmatch(hashed)
        if match is None:
            raise InvalidInput(f"{PINS}: {hashed[:100]!r} is no SHA-256 in lower-case hexadecimal")
        normal = normal_url(url)
        if pins.setdefault(normal, match[1]) != match[1]:
            raise InvalidInput(f"{PINS}: {url[:200]} is pinned twice, to different contents")
    return pins


def normal_url(url: str) -> str:
    """A URL as the proxy writes the ones that it is asked for. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        host, port = parse_authority(parts.netloc, DEFAULT_PORTS[parts.scheme])
    except (ValueError, KeyError, Refused):
        raise InvalidInput(
            f"{url[:200]!r} is no http or https URL without user and password"
        ) from None
    query = f"?{parts.query}" if parts.query else ""
    return url_of(parts.scheme, host, port, (parts.path or "/") + query)
