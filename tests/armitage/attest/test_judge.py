from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.attested import checker

from armitage.attest.judge import Judge, evidence_of
from armitage.proofs import Checker, Verdict
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Leased, Opened, Reached

BOX = SandboxKind.NAMESPACE


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def judge(threads: ThreadPoolExecutor) -> Judge:
    return Judge(checker(), threads)


def test_everything_used_stands_in_the_evidence() -> None:
    used = Evidence(
        BOX,
        network_session="s1",
        reached=(Reached("example.org", 443),),
        credentials=("npm",),
        opened=(Opened("/opt/a b", written=False), Opened("/opt/\udcff", written=True)),
        gpus=(Leased("u1", "big", 81559, 90), Leased("u2", "small", 40960, 80)),
    )

    assert evidence_of(used).decode().splitlines() == [
        "armitage-evidence/1",
        "open s1",
        "0 sandbox namespace",
        "1 network example.org 443",
        "2 auth npm",
        "3 filesystem /opt/a%20b ro",
        "4 filesystem /opt/%FF rw",
        "5 gpu 2 40960 80",
        "close s1 6 0",
    ]


@pytest.mark.parametrize(
    ("declared", "used"),
    [
        ("", Evidence(BOX)),
        ("pure", Evidence(SandboxKind.WASM)),
        ("network:example.org", Evidence(BOX, reached=(Reached("example.org", 80),))),
        ("network:*.example.org:443", Evidence(BOX, reached=(Reached("a.example.org", 443),))),
        ("filesystem:/opt", Evidence(BOX, opened=(Opened("/opt/tool", written=False),))),
        ("auth:npm+network", Evidence(BOX, credentials=("npm",), reached=(Reached("x", 1),))),
        ("gpu:2:mem>=100", Evidence(BOX, gpus=(Leased("u", "n", 200, 90),))),
    ],
)
async def test_what_is_declared_is_approved(judge: Judge, declared: str, used: Evidence) -> None:
    judgement = await judge.decide(declared, used)

    assert judgement.verdict.approved
    assert judgement.explain() == ()


@pytest.mark.parametrize(
    ("declared", "used", "words"),
    [
        ("", Evidence(BOX, reached=(Reached("x.org", 443),)), "add `network:x.org:443`"),
        ("network:y.org", Evidence(BOX, reached=(Reached("x.org", 443),)), "`network:y.org`; add"),
        ("", Evidence(BOX, opened=(Opened("/etc", written=True),)), "add `filesystem:/etc:rw`"),
        ("", Evidence(BOX, credentials=("npm",)), "add `auth:npm`"),
        ("", Evidence(BOX, gpus=(Leased("u", "n", 8, 90),)), "add `gpu:1:mem>=8:sm>=90`"),
        ("sandbox:wasm", Evidence(BOX), "add `sandbox:namespace`"),
        ("", Evidence(None), "it does not say in which sandbox the action ran"),
        ("", Evidence(BOX, dropped=1), "records were dropped"),
        ("netwrok", Evidence(BOX), "the declaration is malformed"),
    ],
)
async def test_what_is_not_declared_is_refused_with_the_remedy(
    judge: Judge, declared: str, used: Evidence, words: str
) -> None:
    judgement = await judge.decide(declared, used)

    assert not judgement.verdict.approved
    assert words in "; ".join(judgement.explain())


@pytest.mark.parametrize(
    "used",
    [
        Evidence(BOX, reached=(Reached("a 443\n1 auth x", 443),)),
        Evidence(BOX, credentials=("",)),
        Evidence(BOX, network_session="s 1\n0 sandbox wasm"),
    ],
)
async def test_what_cannot_be_written_down_is_never_approved(judge: Judge, used: Evidence) -> None:
    judgement = await judge.decide("network+auth:x", used)

    (reason,) = judgement.verdict.reasons
    assert reason.text.startswith("evidence ")
    assert reason.text.endswith(" dropped")


async def test_declaration_suggested_is_sufficient(judge: Judge) -> None:
    used = Evidence(BOX, reached=(Reached("x.org", 443),), credentials=("npm",))
    refused = await judge.decide("", used)

    least = await judge.infer(refused.evidence)

    assert least is not None
    assert (await judge.decide(least, used)).verdict.approved
    assert await judge.infer(b"nonsense") is None


async def test_equal_documents_are_judged_once(threads: ThreadPoolExecutor) -> None:
    class Counting(Checker):
        calls = 0

        def check(self, declaration: bytes, evidence: bytes) -> Verdict:
            Counting.calls += 1
            return super().check(declaration, evidence)

    judge = Judge(Counting(), threads)

    first = await judge.decide("", Evidence(BOX))
    again = await judge.decide("", Evidence(BOX))
    other = await judge.decide("", Evidence(SandboxKind.WASM))

    assert first == again != other
    assert Counting.calls == 2
