"""What is attested about the same facts is the same, byte for byte, whoever asks and whenever.

`tests/vectors/attestations.json` has the record and the log's entry of each of these facts. Those
without a network are what they were before attestations were made many at a time; the others say
since then what was refused and what failed. Whoever changes the format on purpose puts there what
`made` answers, and says so to those who verify.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from support.attested import SIGNER, facts, named
from support.clock import FakeClock

from armitage.attest.errors import NotAttestable
from armitage.attest.facts import ActionFacts, Lost, Outputs
from armitage.attest.service import Attestations, Kept
from cas.digest import DigestFunction
from cas.memory import MemoryOptions, MemoryStore
from executor.coeffects import SandboxKind
from executor.evidence import Evidence, Leased, Opened, Reached

GOLDEN = json.loads((Path(__file__).parents[2] / "vectors/attestations.json").read_bytes())
USED = Evidence(
    SandboxKind.MICROVM,
    profile=named("profile"),
    network_session="s",
    reached=(Reached("x.example", 22),),
    credentials=("npm",),
    opened=(Opened("/opt/tool", written=True), Opened("/opt/ü", written=False)),
    gpus=(Leased("GPU-1", "H100", 81559, 90, "550"),),
)
LOST = [
    Lost("https://l.example/", "GET", "l.example", is_refused=True, reason="host", log_index=2),
    Lost("https://m.example/", "HEAD", "m.example", is_refused=False, reason="reset", log_index=3),
]
_FACTS = {
    "pure": facts(),
    "fetched, refused and failed": facts("network:h.example", lost=LOST),
    "all kinds of use": facts(used=USED),
    "no outputs": facts(outputs=Outputs(0), subjects=()),
    "blake3, and two outputs alike": facts(
        instance="ü",
        action=DigestFunction.BLAKE3.digest(b"action"),
        outputs=Outputs(1, files=(("a", named("a"), False), ("b", named("a"), True))),
        subjects=(("b", named("a")), ("a", named("a"))),
    ),
}
FACTS = {
    name: replace(told, verdict=replace(told.verdict, module_sha256="ab" * 32))
    for name, told in _FACTS.items()
}
"""With the name of a checker's module that never changes."""

Told = dict[str, str]


@asynccontextmanager
async def attesting() -> AsyncIterator[tuple[Attestations, MemoryStore]]:
    store, entries = MemoryStore(MemoryOptions(), FakeClock().monotonic), list[bytes]()

    async def append(more: Sequence[bytes]) -> int:
        entries.extend(more)
        return len(entries) - len(more)

    with ThreadPoolExecutor(1) as threads:
        yield Attestations(store, append, SIGNER, threads), store
    await store.close()


async def written(store: MemoryStore, kept: Kept | Exception) -> Told:
    assert isinstance(kept, Kept)
    record = await store.get(kept.entry.record)
    return {"entry": kept.entry.encode().decode(), "record": record.decode()}


async def made(told: ActionFacts) -> Told:
    async with attesting() as (attestations, store):
        return await written(store, await attestations.attest(told))


async def test_what_is_attested_alone_is_what_it_always_was() -> None:
    assert {name: await made(told) for name, told in FACTS.items()} == GOLDEN


async def test_what_is_attested_among_others_is_what_it_is_alone() -> None:
    unapproved = facts(verdict=replace(facts().verdict, approved=False))
    several = [unapproved, *FACTS.values(), unapproved, *reversed(FACTS.values())]

    async with attesting() as (attestations, store):
        outcomes = await attestations.attest_all(several)

        attested = [each for each in outcomes if not isinstance(each, NotAttestable)]
        found = [await written(store, each) for each in attested]
    assert len(outcomes) - len(attested) == 2
    assert found == [*GOLDEN.values(), *reversed(GOLDEN.values())]
