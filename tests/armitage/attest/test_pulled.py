"""armitage.attest.pulled and .objects, against the real git."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.attested import SIGNER, bundle, facts, known, named
from support.clock import FakeClock

from armitage.attest.bundle import Bundle
from armitage.attest.git import PULLED, GitStore
from armitage.attest.keys import SeedSigner
from armitage.attest.objects import Objects, tree_entries
from armitage.attest.pulled import PulledHoldings
from armitage.attest.sshsig import SshSigner

ENVIRONMENT = {"PATH": os.environ["PATH"]}
COMMITTER = SshSigner(bytes([7] * 32))
ACTION = facts().action


@dataclass
class World:
    """Ours, and the repository of another."""

    store: GitStore
    remote: GitStore
    url: str
    clock: FakeClock
    holdings: PulledHoldings

    def pull(self, *bundles: Bundle) -> None:
        self.remote.add("main", bundles, COMMITTER, 1.0)
        self.store.make()
        list(self.store.fetch(self.url))
        self.clock.advance(60)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store, clock = GitStore(tmp_path / "git", ENVIRONMENT), FakeClock()
    remote = GitStore.open(tmp_path / "remote", ENVIRONMENT)
    with ThreadPoolExecutor(1) as threads:
        holdings = PulledHoldings(store, known(), threads, clock)
        yield World(store, remote, str(tmp_path / "remote"), clock, holdings)
        holdings.close()


async def test_before_anything_was_pulled_there_is_nothing(world: World) -> None:
    assert not await world.holdings.of(ACTION)


async def test_what_was_pulled_is_verified_and_counts_for_its_action(world: World) -> None:
    assert not await world.holdings.of(ACTION)
    world.pull(bundle())

    (found,) = await world.holdings.of(ACTION)

    assert (found.key_id, found.claim.action) == (SIGNER.public.key_id, ACTION)
    assert not await world.holdings.of(named("other"))
    world.pull(bundle(facts(invocation="2")))
    assert len(await world.holdings.of(ACTION)) == 2


async def test_what_does_not_hold_does_not_count(world: World) -> None:
    stranger = bundle(facts(invocation="2"), SeedSigner(bytes(32)))

    world.pull(stranger, bundle())

    assert [each.key_id for each in await world.holdings.of(ACTION)] == [SIGNER.public.key_id]


async def test_a_tree_that_others_made_up_does_no_harm(world: World, tmp_path: Path) -> None:
    """Under the action's name stand a bundle of another action, a directory and nonsense."""
    other = bundle(facts(action=named("other")))
    folder = f"by-action/{ACTION.hash[:2]}/{ACTION.hash}"
    lines = [b"commit refs/attestations/main\ncommitter x <x> 0 +0000\ndata 0\n"]
    for name, data in (
        ("a.intoto.jsonl", other.encode()),
        ("b.intoto.jsonl", b"nonsense"),
        ("c.intoto.jsonl/d", b""),
        ("e", b""),
    ):
        lines.append(f"M 100644 inline {folder}/{name}\ndata {len(data)}\n".encode() + data + b"\n")
    world.remote.git("fast-import", "--quiet", data=b"".join(lines))
    world.store.make()
    list(world.store.fetch(world.url))

    (found,) = await world.holdings.of(ACTION)

    assert found.claim.action == named("other")  # Which no policy takes for the one asked for.


async def test_a_bundle_that_one_remote_names_and_another_brings_counts(world: World) -> None:
    """Whoever knows a bundle's name can put it into a tree as a submodule, which nobody fetches."""
    blob = world.remote.git("hash-object", "--stdin", data=bundle().encode()).decode().strip()
    folder = f"by-action/{ACTION.hash[:2]}/{ACTION.hash}"
    world.remote.git(
        *("fast-import", "--quiet"),
        data=b"commit refs/attestations/other\ncommitter x <x> 0 +0000\ndata 0\n"
        + f"M 160000 {blob} {folder}/a.intoto.jsonl\n".encode(),
    )
    world.store.make()
    list(world.store.fetch(world.url))
    assert not await world.holdings.of(ACTION)

    world.clock.advance(60)
    world.pull(bundle())

    assert len(await world.holdings.of(ACTION)) == 1


async def test_a_broken_repository_takes_nothing_away_from_others(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / "HEAD").write_text("nonsense")

    assert not await world.holdings.of(ACTION)


async def test_a_reader_that_was_killed_is_started_anew(world: World) -> None:
    world.pull(bundle())
    assert await world.holdings.of(ACTION)
    process = world.holdings._objects._process
    assert process is not None
    process.kill()
    process.wait()

    assert await world.holdings.of(ACTION)


def test_objects_are_read_by_name_and_up_to_a_size(world: World) -> None:
    world.pull(bundle())
    (commit,) = world.store.refs(PULLED).values()
    objects = Objects(world.store)

    assert objects.read(f"{commit}:nowhere", 100) is None
    tree = objects.read(f"{commit}:by-action", 100)
    assert tree is not None
    assert [name for name, _ in tree_entries(tree)] == [ACTION.hash[:2]]
    blob = objects.read(commit, 10)
    assert blob is None
    assert objects.read(f"{commit}:by-action", 100) == tree
    objects.close()


def test_a_damaged_tree_ends_where_it_is_damaged() -> None:
    whole = b"100644 a\0" + bytes(20)

    assert list(tree_entries(whole + b"100644 b\0" + bytes(19))) == [("a", "00" * 20)]
    assert list(tree_entries(b"nonsense")) == []
