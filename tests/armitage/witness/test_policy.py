"""armitage.witness.policy."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from armitage.witness.policy import (
    Decision,
    Fetch,
    Grant,
    Rule,
    Verdict,
    decide,
    normal_host,
    normal_path,
)

ANY = [Grant()]
NAMELESS: list[dict[str, Any]] = [{"hosts": (host,)} for host in ("", "*", "a b", "*.")]


def fetch(**changed: Any) -> Fetch:
    asked: dict[str, Any] = {"host": "h.example", "port": 443, "method": "GET", "path": "/a/b"}
    return Fetch(**asked | changed)


def allowed(asked: Fetch, *rules: Rule, grants: list[Grant] | None = None) -> bool:
    return decide(asked, ANY if grants is None else grants, rules).allowed


def deny(**matching: Any) -> Rule:
    return Rule(Verdict.DENY, "no", **matching)


def allow(**matching: Any) -> Rule:
    return Rule(Verdict.ALLOW, "yes", **matching)


def test_nothing_is_allowed_that_was_not_declared() -> None:
    decision = decide(fetch(), [Grant("other.example"), Grant("h.example", 80)], [allow()])

    assert decision == Decision(
        allowed=False,
        rule="undeclared",
        reason=(
            "the action does not declare h.example:443; add network:h.example:443 to its coeffects"
        ),
    )
    assert not allowed(fetch(), grants=[])


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [
        ("h.example", "h.example", True),
        ("H.Example.", "h.example", True),
        ("h.example", "x.h.example", False),
        ("h.example", "xh.example", False),
        ("*.example", "h.example", True),
        ("*.example", "example", False),
        ("*.example", "a.h.example", False),
        ("*.h.example", "h.example", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("[::1]", "[::1]", True),
    ],
)
def test_hosts_are_matched_label_by_label(pattern: str, host: str, *, covered: bool) -> None:
    assert allowed(fetch(host=host), grants=[Grant(pattern)]) is covered
    if not pattern.startswith("["):
        assert allowed(fetch(host=host), deny(hosts=(pattern,))) is not covered


def test_what_is_declared_may_be_read_and_nothing_sent() -> None:
    assert allowed(fetch(method="GET"))
    assert allowed(fetch(method="HEAD"))
    decision = decide(fetch(method="PUT"), ANY, [])
    assert (decision.allowed, decision.rule) == (False, "reading only")
    assert decision.reason.endswith('the operator can add a rule with methods = ["PUT"]')
    assert allowed(fetch(method="PUT"), allow(methods=("PUT",)))


def test_git_may_fetch_and_not_push() -> None:
    assert allowed(fetch(method="POST", path="/x.git/git-upload-pack"))
    assert not allowed(fetch(method="POST", path="/x.git/git-receive-pack"))
    assert not allowed(fetch(method="POST", path="/x.git/git-upload-pack"), deny())


def test_the_first_rule_that_matches_decides() -> None:
    first, second = deny(paths=("/a",)), allow()

    assert not allowed(fetch(), first, second)
    assert allowed(fetch(), second, first)


@pytest.mark.parametrize(
    ("matching", "matches"),
    [
        ({}, True),
        ({"ports": (443,)}, True),
        ({"ports": (80,)}, False),
        ({"methods": ("GET",)}, True),
        ({"methods": ("POST",)}, False),
        ({"paths": ("/a",)}, True),
        ({"paths": ("/a/",)}, True),
        ({"paths": ("/a/b",)}, True),
        ({"paths": ("/",)}, True),
        ({"paths": ("/a/b/c",)}, False),
        ({"paths": ("/x", "*/b")}, True),
        ({"paths": ("/a/bb", "/aa")}, False),
    ],
)
def test_a_rule_matches_when_all_of_it_does(matching: dict[str, Any], *, matches: bool) -> None:
    assert allowed(fetch(), deny(**matching)) is not matches


def test_a_rule_may_bound_the_size_and_open_a_network() -> None:
    decision = decide(fetch(), ANY, [allow(max_bytes=7, networks=("10.0.0.0/8",))])

    assert decision.max_bytes == 7
    assert decision.networks == (ip_network("10.0.0.0/8"),)


def test_a_rule_without_a_name_is_told_by_its_place() -> None:
    assert decide(fetch(), ANY, [deny(ports=(1,)), Rule(Verdict.DENY)]).rule == "rule 2"


@pytest.mark.parametrize(
    "wrong",
    [{"ports": (0,)}, {"paths": ("a",)}, {"networks": ("10.0.0.1/8",)}, *NAMELESS],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Rule(Verdict.DENY, **wrong)


@pytest.mark.parametrize("host", ["", ".", "a..b", "a b", "a/b", "a\0b", "a" * 64, "a." * 130])
def test_what_is_no_host_name_is_none(host: str) -> None:
    assert normal_host(host) is None


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/./b", "/a/b"),
        ("/a?b=/../c", "/a"),
        ("/@s%2fn", "/@s/n"),
        ("/%7Ea//b.c", "/~a//b.c"),
    ],
)
def test_a_path_is_what_rules_see(target: str, path: str) -> None:
    assert normal_path(target) == path


@pytest.mark.parametrize(
    "target",
    [
        "",
        "a",
        "*",
        "/a/../b",
        "/a/%2e/b",
        "/a/%2e%2E/b",
        "/a%2f..%2fb",
        "/a/..",
        "/%252e%252e/b",
        "/a\\b",
        "/a%5cb",
        "/a%00",
        "/a%0d%0ab",
        "/a b",
    ],
)
def test_a_path_that_can_be_read_in_two_ways_is_none(target: str) -> None:
    assert normal_path(target) is None
