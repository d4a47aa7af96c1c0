"""What a fetch may ask for: what the action declared, less what the operator's rules take away.

A declaration (coeffect) grants hosts and ports; without one that covers the fetch nothing is
allowed. The operator's rules are then read in order, and the first that matches decides; where none
matches, reading (GET, HEAD) is allowed and everything else is not, because what is sent out cannot
be called back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from urllib.parse import unquote

from armitage.witness.reach import Network

READING = frozenset({"GET", "HEAD"})


class Verdict(StrEnum):
    """What a rule says."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the operator's. What is left empty matches everything."""

    verdict: Verdict
    name: str = ""
    """Shown to whoever is refused, and kept in the evidence."""
    hosts: tuple[str, ...] = ()
    """Names, or `*.` and a name for every host with exactly one more label."""
    ports: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Paths, and everything below them; with a `*` in front, what a path ends with."""
    networks: tuple[str, ...] = ()
    """Not public networks (CIDR) that an allowed host may lead to, such as an internal mirror's."""
    max_bytes: int | None = None
    """The largest response that an allowed fetch may have."""

    def __post_init__(self) -> None:
        for network in self.networks:
            ip_network(network)  # Raises ValueError, which names it.
        if any(not 0 < port < 1 << 16 for port in self.ports):
            raise ValueError("a port is a number from 1 to 65535")
        if any(not path.startswith(("/", "*")) for path in self.paths):
            raise ValueError("a path starts with / (or with * for what paths end with)")
        for host in self.hosts:
            if normal_host(host.removeprefix("*.")) is None:
                raise ValueError(f"{host!r} is no host name; write h.example or *.example")


GIT_FETCH = Rule(Verdict.ALLOW, "git-fetch", methods=("POST",), paths=("*/git-upload-pack",))
"""Reading over git's smart HTTP takes a POST; pushing is another path."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One `network` coeffect. An empty host stands for every host."""

    host: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """What is asked for. `host` and `path` are normal (normal_host, normal_path)."""

    host: str
    port: int
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a fetch is allowed, by which rule, and, when it is not, what would change that."""

    allowed: bool
    rule: str
    reason: str = ""
    max_bytes: int | None = None
    networks: tuple[Network, ...] = ()


def normal_host(host: str) -> str | None:
    """A host name in lower case and as ASCII (IDNA), without the root's dot; None for what is no
    name.
    """
    name = host.removesuffix(".").lower()
    if name.startswith("[") and name.endswith("]"):
        return name
    try:
        encoded = name.encode("ascii") if name.isascii() else name.encode("idna")
    except UnicodeError:
        return None
    labels = encoded.decode().split(".")
    fine = all(
        0 < len(label) < 64 and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    return ".".join(labels) if fine and len(encoded) < 254 else None


def normal_path(target: str) -> str | None:
    """The path of a request target as rules see it: without query, percent-encoding and `.`
    segments.

    None for one that servers may read in several ways (`..` segments, `.` ones that are encoded,
    backslashes, control characters), so that none goes round a rule.
    """
    # apt asks for /./ in flat repositories; whoever does not drop it has no such file.
    plain = "/".join(part for part in target.partition("?")[0].split("/") if part != ".")
    path = unquote(plain, errors="surrogateescape")
    if not path.startswith("/") or any(ord(char) < 0x21 or char in "\\\x7f" for char in path):
        return None
    if any(unquote(segment) in {".", ".."} for segment in path.split("/")):
        return None
    return path


def host_matches(pattern: str, host: str) -> bool:
    """Whether a normal host is the pattern's, label by label."""
    if pattern.startswith("*."):
        _, dot, parent = host.partition(".")
        return bool(dot) and parent == normal_host(pattern[2:])
    return host == normal_host(pattern)


def decide(fetch: Fetch, grants: Sequence[Grant], rules: Sequence[Rule]) -> Decision:
    """Decides about one fetch; redirects and retries are fetches of their own."""
    if not any(_covers(grant, fetch) for grant in grants):
        return Decision(
            allowed=False,
            rule="undeclared",
            reason=(
                f"the action does not declare {fetch.host}:{fetch.port}; add"
                f" network:{fetch.host}:{fetch.port} to its coeffects"
            ),
        )
    rule = next((rule for rule in (*rules, GIT_FETCH) if _matches(rule, fetch)), None)
    if rule is None:
        return _by_default(fetch)
    name = rule.name or f"rule {rules.index(rule) + 1}"
    if rule.verdict is Verdict.DENY:
        return Decision(allowed=False, rule=name, reason=f"{name} denies it; ask the operator")
    networks = tuple(ip_network(network) for network in rule.networks)
    return Decision(allowed=True, rule=name, max_bytes=rule.max_bytes, networks=networks)


def _by_default(fetch: Fetch) -> Decision:
    if fetch.method in READING:
        return Decision(allowed=True, rule="declared")
    return Decision(
        allowed=False,
        rule="reading only",
        reason=(
            f"{fetch.method} sends data out, and no rule allows it for {fetch.host}; the operator"
            f' can add a rule with methods = ["{fetch.method}"]'
        ),
    )


def _covers(grant: Grant, fetch: Fetch) -> bool:
    return (not grant.host or host_matches(grant.host, fetch.host)) and grant.port in {
        None,
        fetch.port,
    }


def _matches(rule: Rule, fetch: Fetch) -> bool:
    return (
        (not rule.hosts or any(host_matches(pattern, fetch.host) for pattern in rule.hosts))
        and (not rule.ports or fetch.port in rule.ports)
        and (not rule.methods or fetch.method in rule.methods)
        and (not rule.paths or any(_path_matches(path, fetch.path) for path in rule.paths))
    )


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.startswith("*"):
        return path.endswith(pattern[1:])
    return path == pattern or path.startswith(pattern.rstrip("/") + "/")
