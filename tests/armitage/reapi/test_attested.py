from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.facts import outputs_of
from armitage.reapi import attested
from armitage.reapi.attested import NotPlain, outputs_of_result, printed_of_result, subjects_of
from armitage.reapi.digests import wire_digest
from armitage.reapi.results import action_result
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryOptions, MemoryStore
from executor.spec import (
    Outcome,
    OutputDirectory,
    OutputFile,
    OutputKind,
    OutputSymlink,
    ResourceUse,
    Timings,
)

SHA256 = DigestFunction.SHA256
A, B, C = (SHA256.digest(text) for text in (b"a", b"b", b"c"))
TIMES = Timings(*[1.0] * 8)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore(MemoryOptions(), lambda: 0.0)
    yield made
    await made.close()


async def put(store: MemoryStore, message: reapi.Tree | reapi.Directory) -> Digest:
    data = message.SerializeToString(deterministic=True)
    return await store.put([SHA256.digest(data)], data)


async def found(store: MemoryStore) -> Outcome:
    """A file, a symlink, and a directory with a file in it and one below."""
    below = reapi.Directory(files=[{"name": "c", "digest": wire_digest(C)}])
    root = reapi.Directory(
        files=[{"name": "b", "digest": wire_digest(B)}],
        directories=[{"name": "below", "digest": wire_digest(await put(store, below))}],
    )
    tree = reapi.Tree(root=root, children=[below])
    return Outcome(
        exit_code=0,
        stdout=A,
        stderr=SHA256.empty,
        timings=TIMES,
        resources=ResourceUse(1.0),
        files=(OutputFile("bin/a", A, is_executable=True),),
        directories=(OutputDirectory("d", await put(store, tree), await put(store, root)),),
        symlinks=(OutputSymlink("link", "bin/a", OutputKind.FILE),),
    )


def result_of(outcome: Outcome) -> reapi.ActionResult:
    return action_result(outcome, worker="w", queued_at=0.0, with_root_directories=True)


async def test_result_has_the_outputs_that_the_executor_found(store: MemoryStore) -> None:
    outcome = await found(store)
    result = result_of(outcome)

    assert await outputs_of_result(result, SHA256, store) == outputs_of(outcome)
    assert printed_of_result(result, SHA256) == (A, SHA256.empty)


async def test_subjects_are_all_files(store: MemoryStore) -> None:
    assert await subjects_of(await found(store), store) == (
        ("bin/a", A),
        ("d/b", B),
        ("d/below/c", C),
    )


async def test_too_many_files_in_directories_are_left_to_their_trees(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attested, "_MAX_SUBJECTS", 2)
    outcome = await found(store)

    subjects = await subjects_of(outcome, store)

    assert subjects == (("bin/a", A),)


def _inline(result: reapi.ActionResult) -> None:
    result.output_files[0].contents = b"another"


def _print(result: reapi.ActionResult) -> None:
    result.stdout_raw = b"another"


def _complain(result: reapi.ActionResult) -> None:
    result.stderr_raw = b"another"


def _describe(result: reapi.ActionResult) -> None:
    result.output_files[0].node_properties.unix_mode.value = 0o4777


def _describe_a_symlink(result: reapi.ActionResult) -> None:
    result.output_file_symlinks[0].node_properties.unix_mode.value = 0o4777


def _lead_elsewhere(result: reapi.ActionResult) -> None:
    result.output_file_symlinks[0].target = "/etc/passwd"


def _take_another_root(result: reapi.ActionResult) -> None:
    result.output_directories[0].root_directory_digest.CopyFrom(wire_digest(C))


def _name_no_tree(result: reapi.ActionResult) -> None:
    result.output_directories[0].ClearField("tree_digest")


def _garble(result: reapi.ActionResult) -> None:
    result.output_files[0].digest.hash = "x"


@pytest.mark.parametrize(
    "change",
    [
        _inline,
        _print,
        _complain,
        _describe,
        _describe_a_symlink,
        _lead_elsewhere,
        _take_another_root,
        _name_no_tree,
        _garble,
    ],
)
async def test_result_with_more_than_its_digests_bind_is_refused(
    store: MemoryStore, change: Callable[[reapi.ActionResult], None]
) -> None:
    result = result_of(await found(store))
    change(result)

    with pytest.raises(NotPlain):
        await outputs_of_result(result, SHA256, store)


async def test_tree_that_lacks_a_directory_has_no_subjects(store: MemoryStore) -> None:
    root = reapi.Directory(directories=[{"name": "gone", "digest": wire_digest(C)}])
    tree = await put(store, reapi.Tree(root=root))
    outcome = await found(store)
    lacking = Outcome(
        0, A, A, TIMES, outcome.resources, directories=(OutputDirectory("d", tree, C),)
    )

    with pytest.raises(NotPlain, match="lacks its directory"):
        await subjects_of(lacking, store)
