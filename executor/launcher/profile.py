"""The record of what confined an action: one canonical JSON document, named in its evidence.

It says nothing that differs between two actions with the same grants, so few of them exist.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

_DENIED = Path(__file__).with_name("denied.def")
_LINE = re.compile(r"^DENY\((\w+), \w+, (\w+)\)$", re.MULTILINE)
_CHECKED = {
    "clone": "EPERM with a flag that makes a namespace",
    "ioctl": "EPERM for TIOCSTI and TIOCLINUX",
    "personality": "EPERM but for PER_LINUX32 and ADDR_NO_RANDOMIZE",
    "prlimit64": "EPERM for the sandbox's first process",
    "socket": "EAFNOSUPPORT but for AF_UNIX, AF_INET, AF_INET6 and NETLINK_ROUTE;"
    " EPROTONOSUPPORT but for TCP, UDP and ICMP of the internet's",
    "socketpair": "EAFNOSUPPORT but for AF_UNIX",
    "unshare": "EPERM with a flag that makes a namespace",
}


@functools.cache
def system_calls() -> Mapping[str, str]:
    """Answers what the launcher's filter denies, by name: the error, or when it is given."""
    return dict(_LINE.findall(_DENIED.read_text())) | _CHECKED


@functools.lru_cache(maxsize=4)
def program_digest(program: Path) -> str:
    """Answers the SHA-256 of a launcher, as a reader can recompute it."""
    return hashlib.sha256(program.read_bytes()).hexdigest()


def canonical(profile: Mapping[str, object]) -> bytes:
    """Encodes a profile so that equal ones are equal bytes: keys in order, no spaces."""
    return json.dumps(profile, sort_keys=True, separators=(",", ":")).encode()
