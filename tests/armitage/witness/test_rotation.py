"""armitage.witness.rotation and armitage.log.succession: one log after the other."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from support.records import Fetch, record

from armitage.audit.source import ArchiveSource
from armitage.audit.verify import Findings, verify
from armitage.clock import SystemClock
from armitage.errors import ConfigError
from armitage.log.errors import InvalidProof, LogError
from armitage.log.keys import read_key
from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore
from armitage.log.succession import beginning, ending, parse_beginning, parse_ending
from armitage.witness import rotation
from armitage.witness.archive import Archive, open_archive
from armitage.witness.past import proven_entries, read_past
from armitage.witness.rotation import Rotated, rotate_log
from cas.errors import StoreUnavailable
from cas.volume import DiskVolume

NEXT = "log.example/next"


async def keep(directory: Path, origin: str = "log.example/first") -> bytes:
    """A record with a session in it; answers what its hashes are keyed with."""
    async with record(directory, origin) as kept:
        await kept.session(Fetch("https://a.example/", b"body"))
        return kept.archive.key


async def rotated(directory: Path, origin: str = NEXT) -> Rotated:
    return await asyncio.to_thread(rotate_log, directory, origin)


async def findings(archive: Archive) -> list[Findings]:
    return [
        [each async for each in verify(ArchiveSource(archive, log))][-1]
        for log in reversed(archive.logs)
    ]


async def test_a_log_is_followed_by_the_next_and_both_are_verified(tmp_path: Path) -> None:
    tags = await keep(tmp_path)
    before = read_key(tmp_path / "log.key")
    private = (tmp_path / "log.key").read_bytes().split(b"+", 4)[4].strip()
    assert [path.name for path in files_in(tmp_path) if private in path.read_bytes()] == ["log.key"]

    done = await rotated(tmp_path)
    await keep(tmp_path)
    await rotated(tmp_path, "log.example/third")

    assert (done.before, done.size) == (before.public, 4)
    async with open_archive(tmp_path, "", SystemClock()) as archive:
        found = await findings(archive)
        assert archive.key == tags
        assert archive.log.store.key.name == "log.example/third"
    assert [each.faults for each in found] == [[], [], []]
    assert [each.entries for each in found] == [1, 5, 4]
    assert not [path for path in files_in(tmp_path) if private in path.read_bytes()]


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_the_next_log_has_another_name(tmp_path: Path) -> None:
    await keep(tmp_path)

    with pytest.raises(ConfigError, match="give the next one another name"):
        await rotated(tmp_path, "log.example/first")


async def test_nobody_rotates_a_log_that_is_in_use(tmp_path: Path) -> None:
    async with record(tmp_path):
        with pytest.raises(StoreUnavailable):
            await rotated(tmp_path)


STEPS = [
    *(("write_key", 0), ("write_private", 0), ("_end", 0), ("_begin", 0), ("_next_past", 0)),
    *(("replace_file", 0), ("_finish", 0), ("replace_file", 1)),
    *(("sync_folder", number) for number in range(6)),
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
async def test_a_rotation_that_is_cut_off_anywhere_is_finished_or_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """At every step, cut off before and after it."""
    template = tmp_path / "template"
    tags = await keep(template)
    for number, (name, skipped) in enumerate(STEPS):
        directory = tmp_path / f"{number}"
        await asyncio.to_thread(shutil.copytree, template, directory)
        with monkeypatch.context() as patch:
            _fail(patch, name, skipped, after=after)
            with pytest.raises(KeyboardInterrupt):
                await rotated(directory)
        try:
            async with open_archive(directory, "", SystemClock()) as archive:
                whole = archive.log.store.key.name == NEXT
        except StoreUnavailable as error:
            whole = "run armitage key rotate-log again" not in str(error)
        if not whole:
            await rotated(directory)
        async with open_archive(directory, "", SystemClock()) as archive:
            found = await findings(archive)
            assert archive.key == tags
        assert [(each.faults, each.entries) for each in found] == [([], 1), ([], 4)], (
            name,
            skipped,
        )
        assert not (directory / rotation.STAGED).exists()


def _fail(patch: pytest.MonkeyPatch, name: str, skipped: int, *, after: bool) -> None:
    original, calls = getattr(rotation, name), iter(range(1000))

    def failing(*arguments: object) -> object:
        is_it = next(calls) == skipped
        if is_it and not after:
            raise KeyboardInterrupt
        answer = original(*arguments)
        if is_it:
            raise KeyboardInterrupt
        return answer

    patch.setattr(rotation, name, failing)


ONE = Signer("log.example/1", KeyType.ED25519, bytes(32))


def test_every_change_of_an_entry_is_refused() -> None:
    last = ending(ONE.public)
    assert parse_ending(last) == ONE.public
    for at in range(len(last)):
        for changed in (last[:at] + bytes([last[at] ^ 1]) + last[at + 1 :], last[:at]):
            with pytest.raises(LogError):
                parse_ending(changed)


async def test_a_log_that_claims_to_follow_another_does_not(tmp_path: Path) -> None:
    await keep(tmp_path / "a")
    await rotated(tmp_path / "a")
    await keep(tmp_path / "b")
    await rotated(tmp_path / "b")
    await asyncio.to_thread(shutil.rmtree, tmp_path / "a/past/0001/log")
    await asyncio.to_thread(
        shutil.copytree, tmp_path / "b/past/0001/log", tmp_path / "a/past/0001/log"
    )
    public = (tmp_path / "b/past/0001/log.pub").read_text()
    (tmp_path / "a/past/0001/log.pub").write_text(public)

    async with open_archive(tmp_path / "a", "", SystemClock()) as archive:
        assert archive.past.logs == ()
        assert "does not name this log's key as the next" in archive.past.problem


async def test_a_log_that_goes_on_after_its_end_shows(tmp_path: Path) -> None:
    async with record(tmp_path) as kept:
        final = kept.archive.log.store.signed_checkpoint
        for entry in (ending(ONE.public), beginning(final, kept.archive.log.store.key), b"{}"):
            await kept.archive.log.append(entry)

        [found] = await findings(kept.archive)

    assert found.faults[:2] == [
        "entry 0: the log goes on after the entry that ends it",
        "entry 1: only the first entry can say which log this one follows",
    ]
    before, checkpoint = parse_beginning(beginning(final, kept.archive.log.store.key))
    assert (before.name, checkpoint.size) == ("log.example/record", 0)


async def test_what_the_key_of_a_log_that_ended_signs_later_is_in_no_past(tmp_path: Path) -> None:
    await keep(tmp_path)
    stolen = read_key(tmp_path / "log.key")
    done = await rotated(tmp_path)
    log = LogStore(DiskVolume(done.past / "log", NAMES), stolen)
    log.append([b'{"kind":"attestation"}'])
    log.close()

    async with open_archive(tmp_path, "", SystemClock()) as archive:
        assert archive.past.logs == ()
        assert archive.past.problem.startswith(str(done.past))


async def test_a_log_that_begins_anew_with_the_key_of_one_that_ended_is_in_no_past(
    tmp_path: Path,
) -> None:
    await keep(tmp_path)
    stolen = read_key(tmp_path / "log.key")
    done = await rotated(tmp_path)
    await asyncio.to_thread(shutil.rmtree, done.past / "log")
    log = LogStore(DiskVolume(done.past / "log", NAMES), stolen)
    log.append([b'{"kind":"attestation"}', ending(done.following)])
    log.close()

    async with open_archive(tmp_path, "", SystemClock()) as archive:
        assert archive.past.logs == ()
        assert "follows another checkpoint" in archive.past.problem


@pytest.mark.parametrize("name", ["log", "log/checkpoint"])
async def test_a_log_that_ended_and_is_gone_keeps_nobody_from_the_one_that_goes_on(
    tmp_path: Path, name: str
) -> None:
    await keep(tmp_path)
    done = await rotated(tmp_path)
    gone = done.past / name
    await asyncio.to_thread(shutil.rmtree if gone.is_dir() else Path.unlink, gone)

    async with open_archive(tmp_path, "", SystemClock()) as archive:
        assert archive.past.logs == ()
        assert "no checkpoint" in archive.past.problem


async def test_a_log_that_ended_is_read_only_where_its_entries_are_proven(tmp_path: Path) -> None:
    await keep(tmp_path)
    done = await rotated(tmp_path)
    hashes = done.past / "log/partial/0-0"
    hashes.write_bytes(bytes(32) + hashes.read_bytes()[32:])

    with pytest.raises(LogError, match="past/0001"):
        await asyncio.to_thread(read_past, tmp_path, done.following)
    async with open_archive(tmp_path, "", SystemClock()) as archive:
        assert archive.past.problem.startswith(str(done.past))


async def test_a_folder_that_is_no_log_keeps_nobody_from_the_one_that_goes_on(
    tmp_path: Path,
) -> None:
    await keep(tmp_path)
    done = await rotated(tmp_path)
    (done.past / "log/strange").touch()

    async with open_archive(tmp_path, "", SystemClock()) as archive:
        assert archive.past.logs == ()
        assert "strange" in archive.past.problem


async def test_logs_that_ended_are_read_beside_whoever_has_the_record_open(tmp_path: Path) -> None:
    async with record(tmp_path, "log.example/first") as kept:
        log, earlier = kept.archive.log, []
        for count in (1, 254, 1, 1, 400):
            await log.append_all([b"{}"] * count)
            earlier.append(log.store.signed_checkpoint)
    stolen = read_key(tmp_path / "log.key")
    await rotated(tmp_path)
    await rotated(tmp_path, "log.example/third")
    await asyncio.to_thread(shutil.copytree, tmp_path / "past/0001/log", tmp_path / "copy")
    more = LogStore(DiskVolume(tmp_path / "copy", NAMES), stolen)
    more.append([b"{}"])
    more.close()

    async with open_archive(tmp_path, "", SystemClock()) as archive:
        second, first = await asyncio.to_thread(read_past, tmp_path, archive.log.store.key)
        assert [first.key, second.key] == [each.key for each in archive.past.logs]
        ended = archive.past.logs[0]
        size = ended.checkpoint.size
        assert proven_entries(first, 0, size) == proven_entries(ended, 0, size)
    for checkpoint in (*earlier, first.signed_checkpoint):
        first.check(checkpoint)
    with pytest.raises(InvalidProof, match="was set back"):
        first.check(more.signed_checkpoint)
