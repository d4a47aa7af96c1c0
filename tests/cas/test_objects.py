import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.digest import DigestFunction
from cas.objects import Layout, escape

DIGEST = DigestFunction.SHA256.digest(b"x")


def test_blobs_are_below_their_function_and_first_byte() -> None:
    hash_ = DIGEST.hash
    assert Layout().blob(DIGEST) == f"cas/sha256/{hash_[:2]}/{hash_}"
    assert Layout("a/b").blob(DIGEST) == f"a/b/cas/sha256/{hash_[:2]}/{hash_}"


def test_results_are_below_their_instance() -> None:
    hash_ = DIGEST.hash
    assert Layout().result("main", DIGEST) == f"ac/main/sha256/{hash_[:2]}/{hash_}-1"
    assert Layout().result("", DIGEST).startswith("ac/=/")
    assert Layout().result("a/b", DIGEST).startswith("ac/a=2Fb/")


@pytest.mark.parametrize("prefix", ["/a", "a/", "a//b", "..", "a/./b", "a b", "ä"])
def test_strange_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Layout(prefix)


@given(st.text(), st.text())
def test_different_names_are_escaped_differently(a: str, b: str) -> None:
    assert (escape(a) == escape(b)) == (a == b)


@given(st.text(max_size=500))
def test_escaped_name_is_one_plain_short_segment(name: str) -> None:
    escaped = escape(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,200}", escaped)
