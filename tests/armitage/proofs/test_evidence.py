from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.proofs import Checker
from armitage.proofs.checker import declaration_of
from armitage.proofs.evidence import Auth, File, Gpus, Item, Network, Sandbox, encode_evidence

RUN = Sandbox("namespace")


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker()


def test_evidence_is_written_as_documented() -> None:
    items: list[Item] = [
        RUN,
        Network("example.org", 443),
        Auth("npm"),
        File(b"/opt/a b", written=False),
        Gpus(1, 81559, 90),
    ]

    assert encode_evidence("6f1c0a", items).decode().splitlines() == [
        "armitage-evidence/1",
        "open 6f1c0a",
        "0 sandbox namespace",
        "1 network example.org 443",
        "2 auth npm",
        "3 filesystem /opt/a%20b ro",
        "4 gpu 1 81559 90",
        "close 6f1c0a 5 0",
    ]


@given(
    st.lists(st.binary(min_size=1).filter(lambda s: b"\0" not in s and b"/" not in s), max_size=5),
    st.booleans(),
)
def test_every_path_can_be_told(checker: Checker, segments: list[bytes], written: bool) -> None:
    evidence = encode_evidence("s", [RUN, File(b"/" + b"/".join(segments), written)])

    assert checker.check(declaration_of("filesystem:/:rw"), evidence).approved
    assert checker.check(checker.infer(evidence), evidence).approved


@pytest.mark.parametrize(
    "item",
    [
        Network("a.example 1\n2 auth x", 443),
        Network("", 443),
        Network("bücher.example", 443),
        Auth("x y"),
        Auth("x\x00"),
    ],
)
def test_a_word_that_could_forge_a_record_is_refused(item: Item) -> None:
    with pytest.raises(ValueError, match="cannot stand in evidence"):
        encode_evidence("s", [RUN, item])


def test_dropped_records_are_a_rejection(checker: Checker) -> None:
    verdict = checker.check(declaration_of("network"), encode_evidence("s", [RUN], dropped=1))

    assert [reason.text for reason in verdict.reasons] == ["evidence 1 dropped"]
