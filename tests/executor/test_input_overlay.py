"""What an action may do to a tree that it shares with others, and what comes of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import (
    SHA256,
    Bench,
    Exe,
    JsonCodec,
    Link,
    Tree,
    get_tree,
    launcher_missing,
    overlay_missing,
    put_tree,
)
from support.sandboxes import BUSYBOX, image, open_bench

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.errors import InputsMissing
from executor.launcher.overlay import _attributes_missing
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
LINK = Link("../../src/own")
FULL_LISTING = "find . -printf '%P %y %m %T@ %l\\n' | sort"
LISTING = f"{FULL_LISTING}; cat a d/one d/two d/below/deep"


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


SHARED: Tree = {
    "bin": {"run": Exe(b"same"), "data": b"same", "up": Link("../../src/own"), "gone": b"x"},
    "lib": {str(number): b"%d" % number for number in range(5)},
}


def with_own(own: bytes) -> Tree:
    """A tree of which nothing but the last part is another's."""
    return {"tools": SHARED, "src": {"own": own}}


@pytest.fixture
async def layered(options: ExecutorOptions) -> AsyncIterator[Bench]:
    """Shares directories with four entries."""
    options = replace(options, tree_cache=TreeCacheOptions(from_entries=4))
    async with open_bench(options) as bench:
        yield bench
        assert bench.leftovers() == []


def kept(bench: Bench) -> list[list[str]]:
    """All paths in each tree that is kept, without its top."""
    trees = sorted((bench.scratch / "trees").iterdir())
    return [sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) for tree in trees]


async def test_directory_is_laid_out_once_for_trees_that_differ_elsewhere(layered: Bench) -> None:
    script = "stat -c %i tools/bin/run tools/lib/3; cat src/own tools/bin/up"

    first = await layered.says(script, tree=with_own(b"1\n"))
    second = await layered.says(script, tree=with_own(b"2\n"))

    assert first.split()[:2] == second.split()[:2]
    assert (first.split()[2:], second.split()[2:]) == (["1", "1"], ["2", "2"])
    bin_, lib = sorted(SHARED["bin"]), sorted(SHARED["lib"])  # type: ignore[arg-type]
    assert kept(layered) == [
        ["tools", "tools/bin", *(f"tools/bin/{name}" for name in bin_)],
        ["tools", "tools/lib", *(f"tools/lib/{name}" for name in lib)],
    ]


async def test_shared_directory_is_as_it_would_be_in_a_copy(
    layered: Bench, options: ExecutorOptions
) -> None:
    copying = replace(
        options, scratch=layered.scratch.with_name("other"), tree_cache=TreeCacheOptions(False)
    )
    async with open_bench(copying) as copied:
        expected = await copied.says(FULL_LISTING, tree=with_own(b"1"))

    assert await layered.says(FULL_LISTING, tree=with_own(b"1")) == expected
    assert "tools/bin/run f 755" in expected
    assert "tools/bin/data f 644" in expected


async def test_nothing_done_to_a_shared_directory_reaches_others(layered: Bench) -> None:
    script = """
        rm -r tools/lib; mkdir tools/lib; echo new > tools/lib/3; chmod 777 tools tools/bin
        rm tools/bin/gone; echo more >> tools/bin/data; echo out > tools/bin/made
        mv tools/bin/run src/run; mv src/own tools/bin/own; mv tools renamed
    """
    before = await layered.says(FULL_LISTING, tree=with_own(b"1"))

    outcome = await layered.sh(script, tree=with_own(b"1"), outputs=["renamed", "src"])
    other = await layered.sh(script, tree=with_own(b"2"), outputs=["renamed", "src"])

    assert await layered.says(FULL_LISTING, tree=with_own(b"1")) == before
    for own, end in ((b"1", outcome), (b"2", other)):
        assert end.exit_code == 0, await layered.errors(end)
        found = [await get_tree(layered.store, one.root) for one in end.directories]
        assert found == [
            {
                "bin": {"data": b"samemore\n", "made": b"out\n", "own": own, "up": LINK},
                "lib": {"3": b"new\n"},
            },
            {"run": Exe(b"same")},
        ]


async def test_actions_with_other_trees_run_at_the_same_time(layered: Bench) -> None:
    script = "cat src/own tools/lib/4; rm -r tools; sleep 0.05; ls"
    trees = [with_own(b"%d " % number) for number in range(6)]

    printed = await asyncio.gather(*(layered.says(script, tree=tree) for tree in trees))

    assert printed == [f"{number} 4src\n" for number in range(6)]
    assert len(kept(layered)) == 2


async def test_outputs_and_working_directory_may_be_in_any_layer(layered: Bench) -> None:
    tree = {**with_own(b"1"), "way": Link("tools/lib")}
    outputs = ["new/a", "../tools/bin/new/b", "../src/new/c"]
    script = "pwd; for path in way/new/a tools/bin/new/b src/new/c; do echo > /build/$path; done"

    outcome = await layered.sh(script, tree=tree, working_directory="way", outputs=outputs)

    assert await layered.text(outcome) == "/build/way\n", await layered.errors(outcome)
    assert [file.path for file in outcome.files] == outputs


async def test_what_there_is_no_room_for_behaves_alike(options: ExecutorOptions) -> None:
    cache = TreeCacheOptions(from_entries=4, max_entries=6)
    code = "import os\ntry: os.rename('tools', 'e')\nexcept OSError as e: print(e.strerror)"
    async with open_bench(replace(options, tree_cache=cache)) as bench:
        outcome = await bench.run("python3", "-c", code, tree=with_own(b"1"))

        assert await bench.text(outcome) == "Invalid cross-device link\n"
        assert len(kept(bench)) == 1


async def test_missing_files_of_all_layers_are_named_at_once(layered: Bench) -> None:
    whole = MemoryStore()
    root = await put_tree(whole, with_own(b"own"))
    lost = {SHA256.digest(content) for content in (b"own", b"same", b"3")}
    for digest in whole._blobs.keys() - lost:
        await layered.store.put([digest], await whole.get(digest))

    with pytest.raises(InputsMissing) as raised:
        await layered.run("true", input_root=root)

    assert set(raised.value.digests) == lost


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
    assert {path.split("/")[0] for paths in kept(bench) for path in paths} == {"bin", "d", "tmp"}
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


def test_filesystem_that_cannot_mark_what_is_gone_is_named() -> None:
    complaint = _attributes_missing(Path("/proc"))  # It has none for anybody.

    assert "/proc is on a filesystem without user extended attributes" in complaint
    assert "executor.scratch" in complaint


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


async def test_what_the_store_has_evicted_goes_at_the_next_tidying(
    bench: Bench, options: ExecutorOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await bench.run("cat", "a", tree=TREE)).exit_code == 0
    executor, kept = bench.executor, options.scratch / "trees"
    assert isinstance(executor, NamespaceExecutor)

    await executor.tidy()
    assert list(kept.iterdir())

    monkeypatch.setattr(bench.store, "lease_of", lambda _: None)
    await executor.tidy()
    assert list(kept.iterdir()) == []
