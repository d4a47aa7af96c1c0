"""What an action may do to a tree that it shares with others, and what comes of it."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from support.executing import (
    Bench,
    Exe,
    JsonCodec,
    Link,
    Tree,
    get_tree,
    launcher_missing,
    overlay_missing,
)
from support.sandboxes import BUSYBOX, image, open_bench

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.spec import Outcome, OutputKind, OutputRequest
from executor.tree_cache import TreeCacheOptions

MISSING = launcher_missing() or overlay_missing()
pytestmark = [pytest.mark.sandbox, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
D: Tree = {"one": b"1", "two": b"2", "below": {"deep": b"3"}}
TREE: Tree = {
    "a": b"a",
    "tool": Exe(b"#!/bin/sh\necho tool\n"),
    "d": D,
    "link": Link("d/one"),
}
LISTING = "find . -printf '%P %y %m %T@ %l\\n' | sort; cat a d/one d/two d/below/deep"


@pytest.fixture
def options(own: ExecutorOptions) -> ExecutorOptions:
    return replace(own, tree_cache=TreeCacheOptions(from_entries=0))


@pytest.fixture
async def bench(options: ExecutorOptions) -> AsyncIterator[Bench]:
    async with open_bench(options) as bench:
        yield bench
        assert list((options.scratch / "work").iterdir()) == []
    assert list((options.scratch / "trees").iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        "echo more >> a; echo other > d/one",
        "chmod 777 a d; chmod 0 d/below",
        "rm -rf d a link tool",
        "mv d e; mv a b",
        "rm -r d; mkdir d; echo new > d/one",
        "ln a hard; echo through >> hard",
        "touch -d 2020-02-02 a d d/one",
        "rm link; mkdir link; rm a; ln -s d a",
        'python3 -c \'import os; os.truncate("a", 9); os.setxattr("a", "user.x", b"1")\'',
        'python3 -c \'import mmap; f = open("a", "r+b"); mmap.mmap(f.fileno(), 1)[0] = 66\'',
        'python3 -c \'import os; os.setxattr("d", "user.overlay.opaque", b"y")\' || true',
        "exec 3<>a; echo x >&3; echo y > /proc/self/fd/3",
    ],
)
async def test_no_change_reaches_the_next_action(bench: Bench, script: str) -> None:
    before = await bench.says(LISTING, tree=TREE)

    await bench.says(script, tree=TREE)

    assert await bench.says(LISTING, tree=TREE) == before


async def test_actions_at_the_same_time_see_only_their_own_changes(bench: Bench) -> None:
    printed = await asyncio.gather(
        *(bench.says(f"echo {n} >> a; sleep 0.05; cat a", tree=TREE) for n in range(4))
    )

    assert printed == [f"a{n}\n" for n in range(4)]


async def outputs_of(bench: Bench, script: str) -> tuple[Outcome, object]:
    outcome = await bench.sh(script, tree=TREE, outputs=["d"])
    assert outcome.exit_code == 0, await bench.errors(outcome)
    return outcome, await get_tree(bench.store, outcome.directories[0].root)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("true", D),
        ("echo 4 > d/four", {**D, "four": b"4\n"}),
        ("rm d/one; rm -r d/below", {"two": b"2"}),
        ("rm -r d; mkdir d; echo 5 > d/five", {"five": b"5\n"}),
        ("mv d/below d/moved", {"one": b"1", "two": b"2", "moved": {"deep": b"3"}}),
        ("mv a d/one", {**D, "one": b"a"}),
        (
            "rm d/one; mkdir d/one; rm -r d/below; : > d/below",
            {"one": {}, "two": b"2", "below": b""},
        ),
        ("chmod +x d/one", {**D, "one": Exe(b"1")}),
        ("ln -s one d/link; chmod 0 d/two", {**D, "link": Link("one")}),
    ],
)
async def test_outputs_are_the_tree_with_its_changes(
    bench: Bench, script: str, found: object
) -> None:
    assert (await outputs_of(bench, script))[1] == found


async def test_input_directory_cannot_be_renamed_in_one_step(bench: Bench) -> None:
    code = "import os, sys\ntry: os.rename('d', 'e')\nexcept OSError as e: print(e.strerror)"

    outcome = await bench.run("python3", "-c", code, tree=TREE)

    assert await bench.text(outcome) == "Invalid cross-device link\n"


async def test_directory_that_the_action_made_can_be_renamed(bench: Bench) -> None:
    code = "import os; os.mkdir('x'); os.rename('x', 'd/y')"

    assert (await bench.run("python3", "-c", code, tree=TREE)).exit_code == 0


async def test_action_can_make_no_mark_that_hides_an_input(bench: Bench) -> None:
    code = "import os, stat; os.mknod('d/x', stat.S_IFCHR, 0)"

    outcome = await bench.run("python3", "-c", code, tree=TREE)

    assert outcome.exit_code == 1


async def test_nothing_of_the_host_is_above_the_tree(bench: Bench) -> None:
    printed = await bench.says("cd ..; ls; grep ' /build ' /proc/self/mountinfo", tree=TREE)

    assert "build" in printed.split()
    assert str(bench.scratch) not in printed


async def test_parents_of_outputs_are_there_beside_the_inputs(bench: Bench) -> None:
    outcome = await bench.sh(
        "ls d d/below; echo x > d/below/new/f", tree=TREE, outputs=["d/below/new/f", "x/y/z", "d/q"]
    )

    assert (await bench.text(outcome)).split() == [
        "d:",
        "below",
        "one",
        "two",
        "d/below:",
        "deep",
        "new",
    ]
    assert [file.path for file in outcome.files] == ["d/below/new/f"]


async def test_tree_is_laid_out_once_for_all(bench: Bench) -> None:
    first = await bench.says("stat -c %i a", tree=TREE)
    second = await bench.says("stat -c %i a", tree=TREE)

    assert first == second
    assert len(os.listdir(bench.scratch / "trees")) == 1


async def test_tree_that_is_the_filesystem_root_is_shared_and_cannot_be_changed(
    bench: Bench,
) -> None:
    script = """
        busybox cat /d/one; busybox ls /tmp; echo more >> /d/one; busybox rm -r /d/below /bin/sh
        echo x > /tmp/x; busybox mkdir /proc/x /made
    """
    chroot = {"chroot-input-root": "true"}
    tree = image(d=D, tmp={"seen": b"x"})
    whole = OutputRequest("", OutputKind.DIRECTORY)

    first = await bench.sh(script, tree=tree, platform=chroot, outputs=[whole])
    second = await bench.sh(script, tree=tree, platform=chroot)

    assert await bench.text(first) == await bench.text(second) == "1"
    (laid_out,) = (bench.scratch / "trees").iterdir()
    assert sorted(os.listdir(laid_out)) == ["bin", "d", "tmp"]
    found = await get_tree(bench.store, first.directories[0].root)
    assert found == {
        "bin": {"busybox": Exe(BUSYBOX.read_bytes())},
        "d": {"one": b"1more\n", "two": b"2"},
        "made": {},
        "tmp": {"seen": b"x"},
    }
    assert first.sandbox["inputs"] == "overlay"


async def test_result_and_evidence_say_how_inputs_were_shown(bench: Bench) -> None:
    shown = await bench.run("true", tree=TREE)

    assert shown.sandbox["inputs"] == "overlay"
    assert shown.evidence
    assert shown.evidence.profile
    profile = await bench.store.get(shown.evidence.profile)
    assert b'"inputs":"overlay"' in profile


async def test_small_trees_are_copied(options: ExecutorOptions) -> None:
    options = replace(options, tree_cache=TreeCacheOptions(from_entries=8))
    executor = NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)
    bench = Bench(executor, executor._store, options.scratch, BUILD_ROOT)

    small = await bench.run("true", tree={"a": b"a"})
    large = await bench.run("true", tree={**TREE, "more": b"more"})
    await executor.close()

    assert (small.sandbox["inputs"], large.sandbox["inputs"]) == ("copy", "overlay")
    assert small.evidence
    assert large.evidence
    assert small.evidence.profile != large.evidence.profile


async def test_disabled_copies_everything_and_says_why(options: ExecutorOptions) -> None:
    options = replace(options, tree_cache=TreeCacheOptions(enabled=False, from_entries=0))
    executor = NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)
    bench = Bench(executor, executor._store, options.scratch, BUILD_ROOT)

    outcome = await bench.run("true", tree=TREE)
    await executor.close()

    assert outcome.sandbox["inputs"] == "copy"
    assert "configured" in executor.no_overlay
