"""armitage.attest.git, .sshsig and .export, against the real git."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.attested import NOW_S, SIGNER, bundle, facts, named
from support.clock import FakeClock

from armitage.attest import git
from armitage.attest.bundle import Bundle, parse_bundle
from armitage.attest.export import Exporter
from armitage.attest.git import OWN, GitFailed, GitStore, Moved, paths_of, ref_of
from armitage.attest.service import Attestations
from armitage.attest.sshsig import SshSigner, open_ssh_key
from armitage.errors import ConfigError
from armitage.log.errors import LogDamaged
from armitage.log.merkle import leaf_hash
from armitage.log.tiles import WIDTH
from armitage.witness.archive import Archive, open_archive
from armitage.witness.rotation import Rotated, rotate_log

ENVIRONMENT = {"PATH": os.environ["PATH"]}
COMMITTER = SshSigner(bytes([7] * 32))
ONE, TWO, THREE = (bundle(facts(invocation=f"run {n}")) for n in (1, 2, 3))


def repository(path: Path) -> GitStore:
    return GitStore.open(path, ENVIRONMENT)


def names(store: GitStore, instance: str = "main") -> list[str]:
    tip = store.tip(ref_of(instance))
    assert tip is not None
    return store.git("ls-tree", "-r", "--name-only", tip).decode().splitlines()


def all_paths(bundles: Sequence[Bundle]) -> list[str]:
    return sorted(path for each in bundles for path in paths_of(each))


def test_attestations_stand_under_their_own_name_and_those_of_what_they_are_about(
    tmp_path: Path,
) -> None:
    store = repository(tmp_path / "git")

    store.add("main", [ONE], COMMITTER, NOW_S)

    assert names(store) == all_paths([ONE])
    record = all_paths([ONE])[0].rpartition("/")[2]
    assert f"by-action/{named('action').hash[:2]}/{named('action').hash}/{record}" in names(store)
    assert f"by-subject/{named('a').hash[:2]}/{named('a').hash}/{record}" in names(store)


def test_commits_only_ever_add(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")
    first = store.add("main", [ONE], COMMITTER, NOW_S)

    second = store.add("main", [TWO], COMMITTER, NOW_S)

    assert names(store) == all_paths([ONE, TWO])
    assert store.git("rev-parse", f"{second}^").decode().strip() == first
    assert store.add("main", [ONE, TWO], COMMITTER, NOW_S) is None
    assert not store.refs("refs/staging")


def test_git_itself_finds_the_signature_good(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")
    commit = store.add("main", [ONE, TWO], COMMITTER, NOW_S)
    allowed = tmp_path / "allowed"
    verify = ["-c", f"gpg.ssh.allowedSignersFile={allowed}", "verify-commit", str(commit)]

    def verified_by(public: str) -> subprocess.CompletedProcess[str]:
        allowed.write_text(f'armitage namespaces="git" {public}\n')
        return subprocess.run(
            ["git", "--git-dir", tmp_path / "git", *verify],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )

    assert 'Good "git" signature for armitage' in verified_by(COMMITTER.public).stderr
    assert verified_by(SshSigner(bytes(32)).public).returncode != 0
    assert store.git("fsck", "--strict", "--no-dangling") == b""


def test_the_message_says_what_the_log_was(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")

    commit = store.add("main", [ONE, TWO], COMMITTER, NOW_S)

    told = store.git("log", "-1", "--format=%B|%ct", str(commit)).decode()
    assert told.startswith("Attest 2 actions of the instance 'main'\n")
    assert "Log-Origin: log.example/armitage\nLog-Size: 2\nLog-Root: " in told
    assert told.rstrip().endswith(f"|{int(NOW_S)}")


def test_bundles_are_found_by_action_and_by_output(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")
    store.add("main", [ONE, TWO], COMMITTER, NOW_S)

    for text in ("action", "a"):
        found = {each.data for each in store.find([named(text).hash])}
        assert found == {ONE.encode(), TWO.encode()}
    assert not list(store.find([named("other").hash]))


def test_somebody_else_may_add_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = repository(tmp_path / "git"), repository(tmp_path / "git")
    commit = store._commit

    def overtaken(*arguments: object) -> str:
        monkeypatch.undo()
        other.add("main", [TWO], COMMITTER, NOW_S)
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_commit", overtaken)
    store.add("main", [ONE], COMMITTER, NOW_S)

    assert names(store) == all_paths([ONE, TWO])


def test_a_ref_that_always_moves_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = repository(tmp_path / "git")
    monkeypatch.setattr(store, "_move", lambda *_: False)

    with pytest.raises(Moved):
        store.add("main", [ONE], COMMITTER, NOW_S)


@pytest.mark.slow
def test_two_daemons_share_a_remote_and_lose_nothing(tmp_path: Path) -> None:
    remote = repository(tmp_path / "remote")
    here, there = repository(tmp_path / "here"), repository(tmp_path / "there")
    here.add("main", [ONE], COMMITTER, NOW_S)
    there.add("main", [TWO], COMMITTER, NOW_S)
    there.add("other", [THREE], COMMITTER, NOW_S)
    url = str(tmp_path / "remote")

    here.push(url, COMMITTER, NOW_S)
    there.push(url, COMMITTER, NOW_S)
    here.push(url, COMMITTER, NOW_S)

    assert names(remote) == all_paths([ONE, TWO])
    assert names(remote, "other") == all_paths([THREE])
    assert here.tip(ref_of("main")) == remote.tip(ref_of("main"))


@pytest.mark.slow
def test_what_was_fetched_is_told_once(tmp_path: Path) -> None:
    here, there = repository(tmp_path / "here"), repository(tmp_path / "there")
    url = str(tmp_path / "there")

    def fetched() -> set[bytes]:
        return {
            found.data for _, before, now in here.fetch(url) for found in here.since(before, now)
        }

    there.add("main", [ONE], COMMITTER, NOW_S)
    assert fetched() == {ONE.encode()}
    there.add("main", [TWO], COMMITTER, NOW_S)
    assert fetched() == {TWO.encode()}
    assert fetched() == set()
    assert {each.data for each in here.find([named("a").hash])} == {ONE.encode(), TWO.encode()}
    assert not here.refs(OWN)


def test_what_others_name_otherwise_is_passed_over(tmp_path: Path) -> None:
    there, here = repository(tmp_path / "there"), repository(tmp_path / "here")
    lines = [b"commit refs/attestations/main\ncommitter x <x> 0 +0000\ndata 0\n"]
    action = facts().action.hash
    folder = f"by-action/{action[:2]}/{action}"
    for name in ("\\033[2J.intoto.jsonl", "..intoto.jsonl", "a", f"{'0' * 64}.intoto.jsonl"):
        lines += [
            f'M 100644 inline "{below}/{name}"\ndata 1\nx\n'.encode() for below in ("ab/cd", folder)
        ]
    there.git("fast-import", "--quiet", data=b"".join(lines))

    ((_, before, now),) = here.fetch(str(tmp_path / "there"))

    names = [found.name for found in (*here.since(before, now), *here.find([action]))]
    assert names == [f"{'0' * 64}.intoto.jsonl"] * 2


def test_a_ref_of_others_that_is_no_commit_keeps_nothing_else_back(tmp_path: Path) -> None:
    there, here = repository(tmp_path / "there"), repository(tmp_path / "here")
    there.add("main", [ONE], COMMITTER, NOW_S)
    blob = there.git("hash-object", "-w", "--stdin", data=b"x").decode().strip()
    there.git("update-ref", f"{OWN}a", blob)

    ((_, before, now),) = here.fetch(str(tmp_path / "there"))

    assert [found.data for found in here.since(before, now)] == [ONE.encode()]
    assert [found.data for found in here.find([named("a").hash])] == [ONE.encode()]


def test_what_is_too_large_for_a_bundle_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = repository(tmp_path / "there")
    first = there.add("main", [ONE], COMMITTER, NOW_S)
    second = there.add("main", [TWO], COMMITTER, NOW_S)
    assert second is not None
    assert [found.data for found in there.since(first, second)] == [TWO.encode()]

    monkeypatch.setattr(git, "MAX_BUNDLE_BYTES", len(TWO.encode()) - 1)

    assert not list(there.since(first, second))
    assert not list(there.since(None, second))


def test_a_remote_is_no_command(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")
    store.add("main", [ONE], COMMITTER, NOW_S)

    for remote in ("ext::touch pwned", f"--upload-pack=touch {tmp_path}/pwned"):
        with pytest.raises(GitFailed):
            store.push(remote, COMMITTER, NOW_S)
        with pytest.raises(GitFailed):
            list(store.fetch(remote))
    assert not (tmp_path / "pwned").exists()


def test_a_repository_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise GitFailed("disk full")

    monkeypatch.setattr(GitStore, "git", fails)
    with pytest.raises(GitFailed, match="disk full"):
        repository(tmp_path / "git")

    assert not list(tmp_path.iterdir())


def test_without_git_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match="apt-get install git"):
        GitStore.open(tmp_path / "git", {"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    ("instance", "ref"),
    [
        ("", "_"),
        ("main", "main"),
        ("team/project", "team%2Fproject"),
        ("_", "%5F"),
        ("a.lock", "a%2Elock"),
        ("a b~^:?*[\\@{", "a%20b%7E%5E%3A%3F%2A%5B%5C%40%7B"),
        ("ü", "%C3%BC"),
    ],
)
def test_every_instance_has_a_ref_of_its_own(instance: str, ref: str) -> None:
    assert ref_of(instance) == f"{OWN}{ref}"
    subprocess.run(["git", "check-ref-format", ref_of(instance)], check=True, env=ENVIRONMENT)


def test_a_key_for_commits_is_made_once_and_kept(tmp_path: Path) -> None:
    made = open_ssh_key(tmp_path / "git.key")

    assert (tmp_path / "git.key").stat().st_mode & 0o777 == 0o600
    assert open_ssh_key(tmp_path / "git.key").public == made.public
    told = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "git.key"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split()[:2] == made.public.split()


@pytest.mark.parametrize("content", ["", "secret", "-----BEGIN OPENSSH PRIVATE KEY-----\nAA\n"])
def test_what_is_no_key_for_commits_is_told_without_its_content(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "git.key"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="holds no ed25519 key in OpenSSH's form"):
        open_ssh_key(path)


@pytest.mark.slow
async def test_what_the_log_has_more_is_carried_over_once(tmp_path: Path) -> None:
    store = repository(tmp_path / "git")
    async with open_archive(tmp_path / "record", "log.example/r", FakeClock()) as archive:
        service = Attestations(archive.store, archive.log.append_all, SIGNER, ThreadPoolExecutor(1))
        exporter = Exporter(archive, store, FakeClock())
        await service.attest(facts())
        await archive.log.append(b"a session's entry")
        await service.attest(facts(instance="", invocation="2"))

        assert await exporter.run() == 2
        assert await exporter.run() == 0
        await service.attest(facts(invocation="3"))
        again = Exporter(archive, store, FakeClock())
        assert await again.run() == 1

    assert sorted(store.refs(OWN)) == [f"{OWN}_", f"{OWN}main"]
    for found in store.find([facts().action.hash]):
        assert parse_bundle(found.data).receipt.index in {0, 2, 3}


@asynccontextmanager
async def exporting(
    tmp_path: Path, origin: str, *invocations: str
) -> AsyncIterator[tuple[Archive, Exporter]]:
    """A record in which some runs were attested, and what carries them over."""
    async with open_archive(tmp_path / "record", origin, FakeClock()) as archive:
        with ThreadPoolExecutor(1) as threads:
            service = Attestations(archive.store, archive.log.append_all, SIGNER, threads)
            for invocation in invocations:
                await service.attest(facts(invocation=invocation))
        yield archive, Exporter(archive, GitStore(tmp_path / "git", ENVIRONMENT), FakeClock())


async def rotate(tmp_path: Path, origin: str) -> Rotated:
    return await asyncio.to_thread(rotate_log, tmp_path / "record", origin)


async def test_what_logs_that_ended_have_more_is_carried_over_once(tmp_path: Path) -> None:
    async with exporting(tmp_path, "log.example/1", "1") as (_, exporter):
        assert await exporter.run() == 1
    async with exporting(tmp_path, "log.example/1", "2", "3"):
        pass  # Nobody is left to carry these.
    first = await rotate(tmp_path, "log.example/2")
    async with exporting(tmp_path, "log.example/2", "4"):
        pass
    second = await rotate(tmp_path, "log.example/3")

    async with exporting(tmp_path, "log.example/3", "5") as (_, exporter):
        assert await exporter.run() == 4
        assert await exporter.run() == 0

    found = GitStore(tmp_path / "git", ENVIRONMENT).find([facts().action.hash])
    bundles = [parse_bundle(each.data) for each in found]
    checked = [
        each.receipt.verify(leaf_hash(each.entry), key).checkpoint.origin
        for key in (first.before, second.before, second.following)
        for each in bundles
        if each.receipt.checkpoint.startswith(f"{key.name}\n".encode())
    ]
    assert checked == [f"log.example/{number}" for number in (1, 1, 1, 2, 3)]


async def test_a_log_that_ended_and_is_damaged_keeps_back_nothing_of_those_after_it(
    tmp_path: Path,
) -> None:
    async with exporting(tmp_path, "log.example/1", "1") as (archive, _):
        await archive.log.append_all([b"another's"] * WIDTH)
    done = await rotate(tmp_path, "log.example/2")
    (done.past / "log/tile/entries/000").unlink()

    async with exporting(tmp_path, "log.example/2", "2") as (_, exporter):
        with pytest.raises(LogDamaged, match="entries/000 is gone"):
            await exporter.run()
    assert len(names(GitStore(tmp_path / "git", ENVIRONMENT))) == len(paths_of(TWO))


async def test_what_is_not_carried_over_in_time_is_told_and_carried_the_next_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with exporting(tmp_path, "log.example/1", "1") as (_, exporter):
        await exporter.carry(within_s=0)

        assert "after the next start" in caplog.text
        assert await exporter.run() == 1


async def test_whoever_is_cancelled_ends_with_the_commit_that_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going, add = Event(), Event(), GitStore.add

    def waiting(*arguments: Any) -> str | None:
        begun.set()
        assert going.wait(60)
        return add(*arguments)

    monkeypatch.setattr(GitStore, "add", waiting)
    async with exporting(tmp_path, "log.example/1", "1") as (_, exporter):
        running = asyncio.ensure_future(exporter.run())  # noqa: TID251 (a task to cancel)
        await asyncio.to_thread(begun.wait, 60)
        running.cancel()
        await asyncio.wait([running], timeout=0.01)
        is_over = running.done()
        going.set()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert not is_over
        assert await exporter.run() == 0
