"""armitage.attest.audit and .archived, over a real archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.attested import NOW_S, SIGNER, checker, facts, named
from support.clock import FakeClock

from armitage.attest.archived import bundle_at, known_own
from armitage.attest.audit import AttestationEntries
from armitage.attest.entries import Kind, entry_of
from armitage.attest.errors import MalformedAttestation
from armitage.attest.facts import Denial
from armitage.attest.keyring import OwnKey
from armitage.attest.keys import SeedSigner, Signer
from armitage.attest.service import Attestations
from armitage.attest.verify import verify_bundle
from armitage.audit.source import ArchiveSource
from armitage.audit.verify import Findings, verify
from armitage.proofs.checker import declaration_of
from armitage.witness.archive import Archive, open_archive
from armitage.witness.audit import logged
from armitage.witness.evidence import Subject
from armitage.witness.sessions import Sessions


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with open_archive(tmp_path, "log.example/record", FakeClock()) as opened:
        yield opened


def service(archive: Archive, signer: Signer = SIGNER) -> Attestations:
    return Attestations(archive.store, archive.log.append_all, signer, ThreadPoolExecutor(1))


def denial(approvable: bool = False) -> Denial:
    told = facts("network:h.example")
    declaration = told.declaration if approvable else declaration_of("pure")
    verdict = replace(
        checker().check(declaration_of("pure"), told.evidence),
        module_sha256=checker().module_sha256,
    )
    return Denial("main", told.action, "o", declaration, told.evidence, verdict, NOW_S)


async def audit(archive: Archive) -> Findings:
    keys = [OwnKey(SIGNER.public, NOW_S)]
    known = known_own(keys, archive.log.store.key, {checker().module_sha256: checker().check})
    source = ArchiveSource(archive)
    return [f async for f in verify(source, None, [AttestationEntries(source.get, known)])][-1]


async def test_attestations_denials_and_sessions_share_a_log(archive: Archive) -> None:
    sessions = Sessions(archive.store, archive.log.append, FakeClock(), lambda: "s")
    session = await sessions.open(Subject(), "pure")
    await service(archive).attest(facts())
    await service(archive).deny(denial())
    await session.close()

    found = await audit(archive)

    assert found.faults == []
    assert (found.entries, found.counts) == (4, {"attestation": 1, "denied": 1})
    assert [item.index async for item in logged(archive)] == [0, 3]


async def test_an_archived_attestation_is_a_bundle_that_holds(archive: Archive) -> None:
    kept = await service(archive).attest(facts())
    await archive.log.append(entry_of(Kind.DENIED, "", named("x"), b"").encode())

    made = await bundle_at(archive, kept.index)

    keys = [OwnKey(SIGNER.public, NOW_S)]
    known = known_own(keys, archive.log.store.key, {checker().module_sha256: checker().check})
    assert verify_bundle(made, known).claim.action == facts().action
    with pytest.raises(MalformedAttestation, match="entry 1 of the log is no attestation"):
        await bundle_at(archive, 1)


async def test_an_attestation_by_another_key_is_a_fault(archive: Archive) -> None:
    await service(archive, SeedSigner(bytes(32))).attest(facts())

    (fault,) = (await audit(archive)).faults

    assert fault.startswith("entry 0: signature: its key")


async def test_a_record_that_is_not_there_is_a_fault(archive: Archive) -> None:
    for kind in Kind:
        await archive.log.append(entry_of(kind, "", named("x"), b"gone").encode())

    faults = (await audit(archive)).faults

    assert [fault.partition(": ")[0] for fault in faults] == ["entry 0", "entry 1"]


async def test_a_denial_of_what_the_checker_approves_is_a_fault(archive: Archive) -> None:
    await service(archive).deny(denial(approvable=True))

    assert (await audit(archive)).faults == [
        "entry 0: its checker approves what it is said to have denied"
    ]


async def test_an_entry_of_an_unknown_kind_is_a_fault(archive: Archive) -> None:
    await archive.log.append(b'{"kind":"other"}')
    await archive.log.append(b"nonsense")
    await archive.log.append(b"{}")

    assert (await audit(archive)).faults == [
        "entry 0: is of a kind that is not known here, 'other'",
        "entry 1: b'nonsense' is not a JSON object in canonical form",
        "entry 2: a log entry states its kind",
    ]
