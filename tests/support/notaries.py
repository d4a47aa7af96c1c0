"""A notary whose stores are in memory and whose log is on disk, with everything else real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support.attested import SIGNER, checker
from support.clock import FakeClock

from armitage.attest.facts import Builder, Outputs
from armitage.attest.holdings import OwnHoldings
from armitage.attest.judge import Judge
from armitage.attest.keyring import OwnKey
from armitage.attest.ledger import Ledger
from armitage.attest.notary import Desk, Fetches, Notary, Run, no_fetches
from armitage.attest.service import Attestations
from armitage.log.note import KeyType, Signer
from armitage.log.service import Log
from armitage.log.store import NAMES, LogStore
from armitage.reapi.trusting import TrustGate
from armitage.trust.opening import open_trust
from armitage.trust.options import TrustOptions
from armitage.witness.archive import Archive
from cas.digest import DigestFunction
from cas.memory import MemoryOptions, MemoryStore
from cas.volume import DiskVolume
from executor.coeffects import SandboxKind
from executor.evidence import Evidence

SHA256 = DigestFunction.SHA256
LOG_KEY = Signer("test.example/log", KeyType.ED25519, bytes(range(32)))
SANDBOXED = Evidence(SandboxKind.NAMESPACE)
BUILDER = Builder("urn:test:builder", "urn:test:host")


@dataclass
class Registry:
    """Everything that a notary works with; `record` and `log` are what outlives a crash."""

    notary: Notary
    ledger: Ledger
    judge: Judge
    record: MemoryStore
    store: MemoryStore
    log: LogStore
    archive: Archive
    threads: ThreadPoolExecutor
    explains: bool = False

    def gate(self, policy: str, store: MemoryStore, clock: FakeClock) -> TrustGate:
        """What a daemon with this record and that policy believes."""
        module, log = checker().module_sha256, self.log.key
        options = TrustOptions(policy=policy, explain_refusals=self.explains)
        ring = [OwnKey(SIGNER.public, 0.0)]
        judges = open_trust(options, ring, log, {module: checker().check}, module)
        own = OwnHoldings(self.archive, self.ledger, judges.known, self.threads)
        return TrustGate(judges.trust, [own], store, clock)


@asynccontextmanager
async def open_log(path: Path) -> AsyncIterator[LogStore]:
    log = LogStore(DiskVolume(path / "log", NAMES), LOG_KEY)
    try:
        yield log
    finally:
        log.close()


@asynccontextmanager
async def registry(
    path: Path, store: MemoryStore | None = None, fetches: Fetches = no_fetches
) -> AsyncIterator[Registry]:
    clock = FakeClock()
    record = MemoryStore(MemoryOptions(), clock.monotonic)
    store = store or MemoryStore(MemoryOptions(), clock.monotonic)
    with ThreadPoolExecutor(2) as threads:
        async with open_log(path) as log:
            ledger = Ledger(path / "attestations.sqlite", log)
            judge = Judge(checker(), threads)
            service = Log(log, threads)
            # A store of another kind, which the parts in question cannot tell.
            archive = Archive(path, record, service, path, threads, b"")  # type: ignore[arg-type]
            attestations = Attestations(record, service.append_all, SIGNER, threads, copies=store)
            desk = Desk(judge, attestations, ledger, clock, threads, lambda _: BUILDER, fetches)
            async with Notary(desk) as notary:
                yield Registry(notary, ledger, judge, record, store, log, archive, threads)
            ledger.close()


def run_of(declared: str = "", used: Evidence = SANDBOXED, name: str = "a") -> Run:
    """One execution of an action of that name."""
    return Run(
        instance="",
        action=SHA256.digest(b"action " + name.encode()),
        command=SHA256.digest(b"command"),
        input_root=SHA256.digest(b""),
        invocation=f"run-{name}",
        declared=declared,
        used=used,
        outputs=Outputs(0, (("out", SHA256.digest(name.encode()), False),)),
        subjects=(("out", SHA256.digest(name.encode())),),
        stdout=SHA256.empty,
        stderr=SHA256.empty,
        started_s=1_700_000_000.0,
        finished_s=1_700_000_001.0,
    )
