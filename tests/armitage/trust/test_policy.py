import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.trust.policy import (
    All,
    Checked,
    Either,
    NothingRefused,
    Policy,
    Reproduced,
    Signed,
    Threshold,
    Unattested,
    Who,
    Without,
    is_open,
    parse_policy,
    who_of,
)

ME, A, B, ORG = Who("self"), Who("key", "a"), Who("key", "b"), Who("org", "acme")
MODULE = "ab" * 32


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("any", Unattested()),
        ("self", Signed(ME)),
        ("key:a", Signed(A)),
        ("org:acme", Signed(ORG)),
        ("threshold(2, key:a, org:acme)", Threshold(2, (A, ORG))),
        ("reproduced(2)", Reproduced(2)),
        ("reproduced(3, self, key:b, ignore-streams)", Reproduced(3, (ME, B), ignore_streams=True)),
        ("checker", Checked()),
        (f"checker({MODULE})", Checked((MODULE,))),
        ("self and checker", All((Signed(ME), Checked()))),
        ("self and nothing-refused", All((Signed(ME), NothingRefused()))),
        ("self or key:a and key:b", Either((Signed(ME), All((Signed(A), Signed(B)))))),
        ("(self or key:a) and key:b", All((Either((Signed(ME), Signed(A))), Signed(B)))),
        ("org:acme and not key:a", All((Signed(ORG), Without(A)))),
        ("(self and checker) and key:a", All((All((Signed(ME), Checked())), Signed(A)))),
        ("(self or key:a) or key:b", Either((Either((Signed(ME), Signed(A))), Signed(B)))),
    ],
)
def test_a_policy_is_read_and_written_alike(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert str(policy) == text


def test_spaces_do_not_matter() -> None:
    assert parse_policy(" threshold (2,self,key:a)or(self) ") == Either(
        (Threshold(2, (ME, A)), Signed(ME))
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends where a part should follow"),
        ("self and", "ends where a part should follow"),
        ("self self", "'self' stands where 'and', 'or' or the end should"),
        ("nobody", "'nobody' is not known; there are any, self"),
        ("key:", "'key:' is not known"),
        ("org:a:b", "is not known"),
        ("self:x", "is not known"),
        ("threshold(2)", "takes a number and who"),
        ("threshold(0, self)", "'0' is no number"),
        ("threshold(two, self)", "'two' is no number"),
        ("threshold(2, self, ignore-streams)", "takes a number and who"),
        ("threshold 2", "'2' stands where '\\(' should"),
        ("reproduced(2", "its end stands where '\\)' should"),
        ("reproduced(2,", "ends too early"),
        ("reproduced(²)", "'²' is no number"),
        ("checker(abc)", "'abc' is no SHA-256"),
        ("(self", "its end stands where"),
        ("not key:a", "'not' only narrows"),
        ("not key:a and not key:b", "'not' only narrows"),
        ("any and not key:a", "'not' only narrows"),
        ("(any or self) and not key:a", "'not' only narrows"),
        ("self and not threshold(2, key:a)", "is not known"),
        ("self and not checker", "'checker' is not known"),
        ("(" * 60 + "self", "nested too deeply"),
        ("self " * 5000, "at most"),
    ],
)
def test_what_is_no_policy_is_explained(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_policy(text)


@pytest.mark.parametrize("text", ["any", "any or self", "any and any", "(any)"])
def test_open_is_what_holds_without_an_attestation(text: str) -> None:
    assert is_open(parse_policy(text))


@pytest.mark.parametrize("text", ["self", "any and self", "any and checker", "self or key:a"])
def test_all_else_is_not_open(text: str) -> None:
    assert not is_open(parse_policy(text))


def test_everybody_named_is_found() -> None:
    found = who_of(parse_policy("self or (threshold(2, key:a, org:acme) and not key:b)"))

    assert list(found) == [ME, A, ORG, B]


@given(st.text("anyselfkeyor:()not2,chreduptl ", max_size=40))
def test_whatever_comes_is_read_or_explained(text: str) -> None:
    with contextlib.suppress(ValueError):
        policy = parse_policy(text)
        assert parse_policy(str(policy)) == policy
