"""The reader of `coeffects` against the proven checker, and what it tells people."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.coeffect_cases import Cases

from armitage.proofs import Checker
from armitage.proofs.checker import DECLARATION_HEADER, NotInferred
from executor.coeffects import (
    PURE,
    Coeffects,
    FilesystemGrant,
    GpuGrant,
    NetworkGrant,
    SandboxKind,
)
from executor.coeffects_text import parse_coeffects, print_coeffects
from executor.errors import InvalidInput


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker()


def document_of(text: str) -> bytes:
    return DECLARATION_HEADER + text.encode("utf-8", "surrogatepass") + b"\n"


def normal_form(checker: Checker, text: str) -> str | None:
    """What the checker makes of a property; None where it takes it for malformed."""
    try:
        document = checker.canonical(document_of(text))
    except NotInferred:
        return None
    return document.removeprefix(DECLARATION_HEADER).decode().removesuffix("\n")


def read(text: str) -> Coeffects | None:
    try:
        return parse_coeffects(text)
    except InvalidInput:
        return None


def assert_alike(checker: Checker, text: str) -> None:
    expected, found = normal_form(checker, text), read(text)
    if expected is None or found is None:
        assert found is None, text
        assert expected is None, text
        return
    printed = print_coeffects(found)
    # The order of terms is all that may differ: the checker keeps it, a value knows kinds only.
    assert sorted(printed.split("+")) == sorted(expected.split("+")), text
    assert normal_form(checker, printed) == printed
    assert parse_coeffects(printed) == found


def test_reader_and_checker_take_the_same_properties(checker: Checker) -> None:
    taken = 0
    for declaration, _ in islice(Cases(20), 700):
        text = declaration.decode("utf-8", "replace").removeprefix(DECLARATION_HEADER.decode())[:-1]
        if "\n" not in text:
            assert_alike(checker, text)
            taken += read(text) is not None
    assert 100 < taken < 600


TERMS = st.sampled_from(
    [
        *("pure", "", "network", "network:", "network:a.b", "network:A.b.", "network:a..", "auth"),
        *("network:*.a:80", "network:a:0", "network:a:65536", "network:a:080", "network:a:1:2"),
        *("auth:n", "auth:", "auth:a:b", "filesystem", "filesystem:/", "filesystem:a"),
        *("filesystem:/a:ro", "filesystem:/a/../b//.%2e", "filesystem:/%00", "filesystem:/a%2Fb"),
        *("filesystem:/%FF:rw", "filesystem:/x%20y", "gpu", "gpu:0", "gpu:2:mem>=1", "gpu:sm>=90"),
        *("gpu:sm>=1:mem>=1", "gpu:mem>=01", "gpu:", "sandbox", "sandbox:wasm", "sandbox:vm"),
        *("sandbox:namespace", "sandbox:microvm", "network:*.", "network:*", "network:-a", "gpu:1"),
    ]
)


@given(st.lists(TERMS, min_size=1, max_size=4).map("+".join))
def test_reader_and_checker_agree_on_terms_in_any_company(checker: Checker, text: str) -> None:
    assert_alike(checker, text)


@given(st.text(st.sampled_from("network:auth+gpusbx*./%0>=m-_ÄA1\t\n"), max_size=24))
def test_reader_and_checker_refuse_the_same_nonsense(checker: Checker, text: str) -> None:
    if "\n" not in text:
        assert_alike(checker, text)


def test_every_term_becomes_its_value() -> None:
    text = (
        "network+network:*.Example.org.:443+auth:npm+filesystem:/opt/a%20b/../c:rw"
        "+gpu:2:mem>=100:sm>=90+sandbox:wasm+sandbox:microvm"
    )

    assert parse_coeffects(text) == Coeffects(
        network=(NetworkGrant(), NetworkGrant("*.example.org", 443)),
        auth=("npm",),
        filesystem=(FilesystemGrant("/opt/c", writable=True),),
        gpu=GpuGrant(2, 100, 90),
        sandboxes=frozenset({SandboxKind.WASM, SandboxKind.MICROVM}),
    )


@pytest.mark.parametrize("text", ["pure", "sandbox:wasm+sandbox:namespace+sandbox:microvm"])
def test_any_sandbox_and_nothing_else_is_pure(text: str) -> None:
    assert parse_coeffects(text) == PURE
    assert print_coeffects(PURE) == "pure"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("netwrok:example.org", "'netwrok:example.org' begins with no known word; did you mean"),
        ("Network", "did you mean network, network:HOST or network:HOST:PORT?"),
        ("network(example.org)", "did you mean network, network:HOST or network:HOST:PORT?"),
        ("(network)", "known words: pure"),
        ("docker", "known words: pure, network, auth, filesystem, gpu, sandbox"),
        ("", "write `pure`"),
        ("pure+network", "`pure` stands alone"),
        ("network++gpu", "a term is empty"),
        ("network:https://example.org", "'network:https://example.org'"),
        ("network:a/b", "a host is a name, not an address with a path"),
        ("network:bücher.example", "xn--"),
        ("network:a:http", "'http' is no port from 1 to 65535"),
        ("filesystem:usr", "a path is absolute"),
        ("filesystem:/a b", "percent-encoded"),
        ("filesystem:/a:wo", "'wo' is neither ro nor rw"),
        ("auth:a b", "a name has 1 to 128"),
        ("gpu:sm>=9:mem>=1", "'mem>=1' is not understood there"),
        ("gpu+gpu:2", "a second `gpu`"),
        ("network:a+network:A.", "'network:A.' says what another term says already"),
        ("sandbox:docker", "sandbox:wasm, sandbox:namespace or sandbox:microvm"),
    ],
)
def test_malformed_property_is_explained(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_coeffects(text)

    assert words in str(error.value)


def test_long_nonsense_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as error:
        parse_coeffects("x" * 10_000)

    assert len(str(error.value)) < 300
