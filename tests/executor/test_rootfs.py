"""Actions whose root is a tree of the store or a directory that the worker's operator named."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import (
    SHA256,
    Bench,
    JsonCodec,
    Link,
    Tree,
    put_tree,
)
from support.sandboxes import BUSYBOX, image, open_bench

from armitage.clock import SystemClock
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, FilesystemGrant
from executor.errors import InputsMissing, InvalidInput, SandboxUnavailable
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.rootfs import rootfs_of, view_root
from executor.spec import Work
from executor.unsandboxed import UnsandboxedExecutor

pytestmark = pytest.mark.sandbox


@pytest.fixture
def options(options: ExecutorOptions, tmp_path: Path) -> ExecutorOptions:
    return replace(options, rootfs={"small": str(tmp_path / "small")})


async def named(bench: Bench, tree: Tree) -> dict[str, str]:
    digest = await put_tree(bench.store, tree)
    return {"rootfs": f"cas:{digest.hash}/{digest.size_bytes}"}


def kept(bench: Bench) -> int:
    return len(list((bench.scratch / "trees").glob("rootfs.*")))


async def test_the_tree_is_the_root_and_nothing_of_the_host_is(bench: Bench) -> None:
    rootfs = await named(bench, image(etc={"issue": b"mine"}, hello=b"hi"))

    printed = await bench.says("busybox ls -A /; busybox cat /etc/issue /hello", platform=rootfs)

    assert printed.split() == ["bin", "build", "dev", "etc", "hello", "proc", "tmp", "minehi"]


async def test_the_tree_cannot_be_changed_and_inputs_and_tmp_can(bench: Bench) -> None:
    rootfs = await named(bench, image(etc={"issue": b"mine"}))
    script = """
        for place in / /bin /etc; do echo x > $place/x && echo "wrote $place"; done
        echo x > /etc/issue && echo "wrote /etc/issue"
        busybox chmod 777 /etc/issue && echo "changed /etc/issue"
        echo out > out; echo x > /tmp/x; busybox cat out /etc/issue
    """

    outcome = await bench.sh(script, platform=rootfs, outputs=["out"])

    assert await bench.text(outcome) == "out\nmine"
    assert [file.path for file in outcome.files] == ["out"]


@pytest.mark.parametrize("content", ["/", "/bin", "..", "/proc/1/root", "../../../../../etc"])
async def test_links_where_ours_go_lead_nothing_astray(bench: Bench, content: str) -> None:
    names = ("build", "dev", "proc", "tmp", "etc", "sys")
    rootfs = await named(bench, image(**dict.fromkeys(names, Link(content))))
    script = """
        for name in build dev proc tmp sys; do [ -L /$name ] && echo "/$name is a link"; done
        [ -c /dev/null ] && [ -d /proc/self ] && echo there
        busybox cat /etc/shadow /etc/passwd /etc/hostname 2> /dev/null
        busybox readlink /etc
    """

    outcome = await bench.sh(script, platform=rootfs)

    assert await bench.text(outcome) == f"there\n{content}\n"


async def test_own_places_in_the_tree_are_not_shown(bench: Bench) -> None:
    hidden: Tree = {"secret": b"x"}
    names = ("build", "dev", "proc", "tmp", "sys")
    rootfs = await named(bench, image(**dict.fromkeys(names, hidden)))

    printed = await bench.says("busybox ls -d /*/secret || echo none", platform=rootfs)

    assert printed == "none\n"


@pytest.fixture
def given() -> Iterator[Path]:
    """Not below /tmp, which is the sandbox's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place, "file").write_text("given")
        yield Path(place)


async def test_what_is_given_is_seen_in_directories_that_the_tree_has(
    options: ExecutorOptions, given: Path
) -> None:
    beside: Tree = {"sibling": b"+sibling"}
    coeffects = Coeffects(filesystem=(FilesystemGrant(str(given), False),))
    script = f"busybox cat {given}/file /var/tmp/sibling"
    async with open_bench(replace(options, filesystem_allow=(str(given),))) as bench:
        for tmp in (beside, {**beside, given.name: {"file": b"hidden"}}):
            rootfs = await named(bench, image(var={"tmp": tmp}))

            printed = await bench.says(script, platform=rootfs, coeffects=coeffects)

            assert printed == "given+sibling"


async def test_a_large_input_tree_is_shown_beside_it(bench: Bench) -> None:
    rootfs = await named(bench, image())
    inputs: Tree = {str(number): b"%d" % number for number in range(300)}
    script = "busybox ls | busybox wc -l; echo x > 7; echo y > 300; busybox cat 7 300 299"

    for _ in range(2):
        outcome = await bench.sh(script, platform=rootfs, tree=inputs, outputs=["300"])
        assert await bench.text(outcome) == "300\nx\ny\n299"
        assert [file.path for file in outcome.files] == ["300"]


def test_a_place_is_made_where_the_tree_lacks_it_and_no_link_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "etc" / "ssl").mkdir(parents=True)
    (tmp_path / "etc" / "hosts").touch()
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "run").touch()

    view = view_root(str(tmp_path), "x", None, ["/etc/resolv.conf", "/usr/lib", "/dev/x", "/new/x"])

    assert view.directories == ("/etc",)
    assert [mount.target for mount in view.mounts] == ["/etc/hosts", "/etc/ssl", "/run", "/usr"]
    assert view.links == (("/lib", "usr/lib"),)
    for place in ("/lib/x", "/lib", "/run/x"):
        with pytest.raises(InvalidInput, match="is a symbolic link or a file"):
            view_root(str(tmp_path), "x", None, [place])
    (tmp_path / "etc" / "resolv.conf").symlink_to("/run/resolv.conf")
    with pytest.raises(InvalidInput, match=r"/etc/resolv\.conf of its root filesystem"):
        view_root(str(tmp_path), "x", None, ["/etc/resolv.conf"])


async def test_a_configured_directory_is_named_without_its_path(
    bench: Bench, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    (small / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, small / "bin" / "busybox")
    (small / "bin" / "sh").symlink_to("busybox")
    (small / "proc").symlink_to("/")

    outcome = await bench.sh("busybox ls /bin; echo > /bin/x", platform={"rootfs": "small"})

    assert await bench.text(outcome) == "busybox\nsh\n"
    assert outcome.sandbox["root"] == f"rootfs=small ({small})"
    assert sorted(os.listdir(small / "bin")) == ["busybox", "sh"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "which is neither cas:HASH/SIZE nor under executor.rootfs"),
        ("big", r"neither .* \(it has: small\)"),
        ("/usr", "neither"),
        ("cas:", "has no size; write cas:HASH/SIZE"),
        ("cas:" + "0" * 64, "has no size"),
        ("cas:xyz/1", "is not 64 lowercase hex"),
        (f"cas:{'0' * 64}/-1", "has no size"),
        (f"cas:md5:{'0' * 32}/1", "is not a valid DigestFunction"),
    ],
)
async def test_what_names_no_root_is_refused(bench: Bench, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        await bench.sh("true", platform={"rootfs": text})


async def test_a_named_directory_that_is_not_there_is_the_workers_fault(bench: Bench) -> None:
    with pytest.raises(SandboxUnavailable, match="is no directory on this worker"):
        await bench.sh("true", platform={"rootfs": "small"})


async def test_all_missing_blobs_are_named_and_nothing_is_left(bench: Bench) -> None:
    absent = Digest(SHA256, "0" * 64, 10)
    lacking = await put_tree(bench.store, {"one": b"gone"}, leave_out=b"gone")

    for root, missing in ((absent, absent), (lacking, SHA256.digest(b"gone"))):
        with pytest.raises(InputsMissing) as raised:
            await bench.sh("true", platform={"rootfs": f"cas:sha256:{root.hash}/{root.size_bytes}"})
        assert raised.value.digests == (missing,)
    assert bench.leftovers() == []


async def test_a_root_and_the_input_root_as_root_exclude_each_other(bench: Bench) -> None:
    rootfs = await named(bench, image())

    with pytest.raises(InvalidInput, match="leave out one of the two"):
        await bench.sh("true", platform=rootfs | {"chroot-input-root": "true"})


def test_two_roots_are_refused() -> None:
    work = Work("x", SHA256, SHA256.empty, ("x",), platform=(("rootfs", "a"), ("rootfs", "b")))

    with pytest.raises(InvalidInput, match="rootfs 2 times"):
        rootfs_of(work)


def test_a_digest_may_be_of_another_function_than_the_actions() -> None:
    blake = DigestFunction.BLAKE3.digest(b"x")
    text = f"cas:blake3:{blake.hash}/1"

    assert rootfs_of(Work("x", SHA256, SHA256.empty, (), platform=(("rootfs", text),))) == blake


async def test_a_tree_is_made_once_and_the_least_used_goes(options: ExecutorOptions) -> None:
    async with open_bench(replace(options, rootfs_trees=2)) as bench:
        one, two, three = [await named(bench, image(mark=mark)) for mark in (b"1", b"2", b"3")]
        script = "busybox cat /mark"

        both = [bench.says(script, platform=one) for _ in range(3)]
        assert await asyncio.gather(*both) == ["1", "1", "1"]
        assert kept(bench) == 1
        await bench.says(script, platform=two)
        inodes = {path.name for path in (bench.scratch / "trees").iterdir()}
        await bench.says(script, platform=one)
        assert await bench.says(script, platform=three) == "3"

        assert kept(bench) == 2
        left = {path.name for path in (bench.scratch / "trees").iterdir()}
        assert left & inodes == {"rootfs.0"}
    assert bench.leftovers() == []


async def test_an_action_waits_while_what_others_use_leaves_no_room(
    options: ExecutorOptions,
) -> None:
    async with open_bench(replace(options, rootfs_trees=1)) as bench:
        roots = [await named(bench, image(mark=b"%d" % number)) for number in range(3)]
        script = "busybox cat /mark; busybox sleep 0.05"

        printed = await asyncio.gather(*(bench.says(script, platform=root) for root in roots))

        assert printed == ["0", "1", "2"]
        assert kept(bench) == 1


async def test_a_tree_over_the_limit_is_refused(options: ExecutorOptions) -> None:
    async with open_bench(replace(options, rootfs_bytes=1000)) as bench:
        rootfs = await named(bench, image())

        with pytest.raises(SandboxUnavailable, match=r"executor\.rootfs_bytes = 1000"):
            await bench.sh("true", platform=rootfs)
        assert bench.leftovers() == []


async def test_the_profile_names_the_root(bench: Bench) -> None:
    rootfs = await named(bench, image())

    plain = await bench.sh("true")
    rooted = await bench.sh("true", platform=rootfs)
    again = await bench.sh("true", platform=rootfs)

    assert plain.evidence is not None
    assert rooted.evidence is not None
    assert again.evidence is not None
    assert rooted.evidence.profile is not None
    assert rooted.evidence.profile != plain.evidence.profile
    assert rooted.evidence.profile == again.evidence.profile
    profile = (await bench.store.get(rooted.evidence.profile)).decode()
    assert f'"root":"rootfs=cas:sha256:{rootfs["rootfs"].removeprefix("cas:")}"' in profile
    assert '"shown"' not in profile


async def test_executors_without_a_sandbox_refuse_it(tmp_path: Path) -> None:
    store = MemoryStore()
    options = ExecutorOptions(scratch=tmp_path / "scratch")
    executor = UnsandboxedExecutor(store, JsonCodec(), options, SystemClock().wall)
    try:
        bench = Bench(executor, store, options.scratch, None)
        with pytest.raises(InvalidInput, match="which only sandbox:namespace gives"):
            await bench.sh("true", platform={"rootfs": "small"})
    finally:
        await executor.close()


@pytest.mark.parametrize("path", ["", "scratch/below", "."])
def test_a_root_that_would_show_what_is_the_daemons_is_refused(tmp_path: Path, path: str) -> None:
    shown = tmp_path / path if path else Path("/")
    options = ExecutorOptions(scratch=tmp_path / "scratch", rootfs={"x": str(shown)})

    with pytest.raises(SandboxUnavailable, match="the daemon's own"):
        NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)


@pytest.mark.parametrize("rootfs", [{"": "/x"}, {"cas:x": "/x"}, {"x": "relative"}])
def test_settings_that_cannot_be_meant_are_refused(rootfs: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="rootfs: "):
        ExecutorOptions(rootfs=rootfs)
