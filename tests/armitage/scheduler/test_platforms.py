from __future__ import annotations

import pytest

from armitage.scheduler.platforms import PlatformRules, describe

OFFER = {"OSFamily": ["linux"], "ISA": ["x86-64", "x86-64-avx2"], "Pool": ["big", "default"]}


@pytest.mark.parametrize(
    ("pairs", "matches"),
    [
        ([], True),
        ([("OSFamily", "linux")], True),
        ([("OSFamily", "Linux")], False),
        ([("OSFamily", "windows")], False),
        ([("OSFamily", "linux"), ("OSFamily", "windows")], False),
        ([("ISA", "x86-64"), ("ISA", "x86-64-avx2")], True),
        ([("ISA", "x86-64"), ("ISA", "arm-a64")], False),
        ([("Pool", "big")], True),
        ([("container-image", "docker://x")], False),
        ([("persistentWorkerKey", "whatever")], True),
        ([("unixUID", "0"), ("unixGID", "0"), ("chroot-input-root", "true")], True),
    ],
)
def test_every_pair_asked_for_must_be_offered(pairs: list[tuple[str, str]], matches: bool) -> None:
    rules = PlatformRules()

    assert rules.matches(rules.platform(pairs), OFFER) is matches


def test_names_the_worker_does_not_know_are_ignored_when_not_strict() -> None:
    rules = PlatformRules(strict=False)

    assert rules.matches(rules.platform([("container-image", "x")]), OFFER)
    assert not rules.matches(rules.platform([("OSFamily", "windows")]), OFFER)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("coefects", "x")], "no worker has a property coefects (did you mean coeffects?)"),
        ([("OSfamily", "linux")], "no worker has a property OSfamily (did you mean OSFamily?)"),
        ([("flavour", "x")], "no worker has a property flavour"),
        ([("OSFamily", "plan9"), ("ISA", "x86-64")], "OSFamily is linux, windows here"),
        ([("OSFamily", "windows"), ("Pool", "big")], "no worker has all of it"),
    ],
)
def test_what_no_worker_offers_is_named(pairs: list[tuple[str, str]], said: str) -> None:
    rules = PlatformRules()

    assert rules.unmet(rules.platform(pairs), [OFFER, {"OSFamily": ["windows"]}]) == said


def test_what_no_worker_offers_is_cut_where_it_is_long() -> None:
    platform = frozenset({("a" * 100_000, "1")})

    assert len(PlatformRules().unmet(platform, [OFFER])) < 1000


def test_order_and_ignored_names_make_no_difference() -> None:
    rules = PlatformRules(ignore=frozenset({"a"}))

    assert rules.platform([("a", "1"), ("b", "2"), ("c", "3")]) == rules.platform(
        [("c", "3"), ("b", "2"), ("a", "other")]
    )


def test_platform_is_described_in_one_line() -> None:
    assert describe(frozenset({("b", "2"), ("a", "1")})) == "a=1, b=2"
    assert describe(frozenset()) == "(no properties)"
    assert len(describe(frozenset({("a", "1" * 100_000)}))) < 1000
