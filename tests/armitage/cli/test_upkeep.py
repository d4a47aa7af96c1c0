"""`cas stat|stats|export|import`, `fsck` and `gc`, with a daemon on a disk and without."""

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Cli
from support.daemon import DaemonProcess, daemon_process
from support.packs import place_of

from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
from armitage.cli.output import time_text
from armitage.cli.upkeep import progress_text
from cas.digest import Digest, DigestFunction

SHA256 = DigestFunction.SHA256
SIZES = [0, 5, 5000, 200_000, 5_000_000]
TEXT = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03/6"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon_process(
        tmp_path_factory.mktemp("disk"),
        "--durability",
        "none",
        "--set",
        "worker.enabled=false",
        "--set",
        "upkeep.rate_bytes=1GiB",
    ) as daemon:
        yield daemon


@pytest.fixture
def kept(armitage: Cli, on_disk: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("ARMITAGE_SERVER", on_disk.url)
    return armitage


def put(cli: Cli, directory: Path, seed: int, size: int, *flags: str) -> Digest:
    data = random.Random(seed).randbytes(size)
    (directory / "blob").write_bytes(data)
    assert cli("cas", "put", "blob", *flags).code == 0
    return SHA256.digest(data)


def text(digest: Digest) -> str:
    return f"{digest.hash}/{digest.size_bytes}"


def break_blob(data_dir: Path, digest: Digest) -> None:
    path, offset, _ = place_of(data_dir / "cas", digest)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_stat_shows_lease_and_holders_and_renews_neither(kept: Cli, tmp_path: Path) -> None:
    digest = put(kept, tmp_path, 1, 100)

    first, second = (
        json.loads(kept("cas", "stat", "--json", text(digest)).out)["blobs"][0] for _ in range(2)
    )
    shown = kept("cas", "stat", text(digest), text(SHA256.empty))

    assert first["present"]
    assert 11 * 3600 < second["lease_left_s"] <= first["lease_left_s"] <= 13 * 3600
    [holder] = second["holders"]
    assert holder["name"].startswith("invocation:")
    assert 0 < holder["left_s"] < first["holders"][0]["left_s"] <= 1800
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"present  {text(digest)}  lease 1")
    assert ", in 1 live builds for 29m" in lines[0]
    assert lines[1] == f"present  {text(SHA256.empty)}  for ever"


def test_stats_show_what_is_stored(kept: Cli, tmp_path: Path) -> None:
    put(kept, tmp_path, 2, 1000)

    shown = kept("cas", "stats")
    value = json.loads(kept("cas", "stats", "--json").out)

    assert shown.code == 0
    assert " of 100.0 GiB (0%)" in shown.out
    assert value["blobs"]["blobs"] >= 1
    assert value["blobs"]["bytes"] >= 1000
    assert value["results"]["results"] == 0


def test_what_is_exported_is_imported_elsewhere(
    kept: Cli, online: Cli, daemon: DaemonProcess, on_disk: DaemonProcess, tmp_path: Path
) -> None:
    flags = ("--server", on_disk.url)
    digests = [put(kept, tmp_path, 10 + at, size, *flags) for at, size in enumerate(SIZES)]
    named = [text(digest) for digest in digests if digest.size_bytes]

    all_of_it = kept("cas", "export", "--server", on_disk.url, "--out", "all.tar")
    some = kept("cas", "export", "--server", on_disk.url, "--json", "--out", "some.tar", *named)
    first = online("cas", "import", "--server", daemon.url, "--json", "some.tar")
    again = online("cas", "import", "--server", daemon.url, "all.tar")

    assert all_of_it.code == some.code == first.code == again.code == 0, again.err
    assert json.loads(some.out) == {"blobs": 4, "bytes": sum(SIZES), "missing": []}
    assert json.loads(first.out)["uploaded_blobs"] == 4
    with tarfile.open(tmp_path / "some.tar") as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
    for digest in digests[1:]:
        member = members[f"cas/sha256/{digest.hash[:2]}/{digest.hash}"]
        assert member is not None
        assert online("cas", "stat", "--server", daemon.url, text(digest)).code == 0
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert set(members) <= set(archive.getnames())


def test_an_export_names_what_is_missing(kept: Cli) -> None:
    done = kept("cas", "export", "--json", "--out", "gone.tar", TEXT)

    assert done.code == 1
    assert json.loads(done.out)["missing"] == [TEXT]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("cas/sha256/58/" + TEXT.partition("/")[0], b"hellO\n", "holds other bytes"),
        ("cas/sha256/59/" + TEXT.partition("/")[0], b"hello\n", "holds other bytes"),
        ("cas/md5/58/" + TEXT.partition("/")[0], b"hello\n", "is no blob"),
        ("../evil", b"hello\n", "is no blob"),
    ],
)
def test_an_archive_that_holds_anything_else_is_refused(
    online: Cli, tmp_path: Path, name: str, data: bytes, problem: str
) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(member, io.BytesIO(data))

    done = online("cas", "import", "bad.tar")

    assert done.code == 2
    assert problem in done.err


def test_what_is_no_archive_is_refused(online: Cli, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 1000)

    assert online("cas", "import", "text").code == 2


def test_a_running_daemon_is_scrubbed(kept: Cli, on_disk: DaemonProcess, tmp_path: Path) -> None:
    digest = put(kept, tmp_path, 20, 3000)
    sound = kept("fsck")
    break_blob(Path(str(on_disk.facts["data_dir"])), digest)

    broken = kept("fsck", "--json")

    assert (sound.code, sound.err) == (0, "")
    assert sound.out.startswith("read ")
    assert "no damage" in sound.out
    assert broken.code == 1
    assert json.loads(broken.out)["damaged"] == [str(digest)]
    assert kept("cas", "stat", text(digest)).code == 1
    assert kept("fsck").code == 0


def test_a_memory_store_has_nothing_to_scrub_or_collect(online: Cli) -> None:
    for command in ("fsck", "gc"):
        done = online(command)
        assert done.code == 5
        assert "nothing is kept on disk here" in done.err


def test_gc_says_what_it_did(kept: Cli, tmp_path: Path) -> None:
    put(kept, tmp_path, 30, 1000)

    done = kept("gc", "--to", "0", "--garbage-share", "0.01", "--json")
    wrong = kept("gc", "--garbage-share", "7")

    assert done.code == 0
    assert json.loads(done.out)["evicted_bytes"] == 0, "all of it is leased"
    assert wrong.code == 5


@pytest.mark.slow
def test_offline_a_store_is_checked_and_collected(armitage: Cli, tmp_path: Path) -> None:
    with daemon_process(
        tmp_path / "home", "--set", "worker.enabled=false", "--set", "disk.min_lease_s=0"
    ) as daemon:
        server = ("--server", daemon.url)
        blobs = []
        for seed, size in enumerate([5000, 200_000]):
            data = random.Random(seed).randbytes(size)
            (tmp_path / "blob").write_bytes(data)
            assert armitage("cas", "put", "blob", *server).code == 0
            blobs.append(SHA256.digest(data))
        in_use = armitage("fsck", "--offline", "--data-dir", "home/data")
        assert in_use.code == 6
        assert f"{daemon.process.pid}" in in_use.err

    break_blob(tmp_path / "home/data", blobs[0])
    shutil.copy(tmp_path / "blob", tmp_path / "kept")
    first = armitage("fsck", "--offline", "--data-dir", "home/data")
    second = armitage("fsck", "--offline", "--data-dir", "home/data", "--json")
    (tmp_path / "config").write_text("[disk]\nmin_lease_s = 0\n")
    where = ("--offline", "--config", "config", "--data-dir", "home/data")
    collected = armitage("gc", *where, "--to", "0", "--json")
    nowhere = armitage("fsck", "--offline", "--data-dir", "nowhere")
    no_bucket = armitage("fsck", "--offline", "--data-dir", "home/data", "--repair")

    assert first.code == 1
    assert first.out.splitlines()[0] == f"damaged   {blobs[0]}"
    assert "1 blobs damaged, 0 of them repaired" in first.out
    assert second.code == 0
    assert json.loads(second.out)["blobs"] == 1
    assert json.loads(collected.out)["evicted_bytes"] == 200_000
    assert nowhere.code == 6
    assert not (tmp_path / "nowhere").exists()
    assert no_bucket.code == 3
    assert hashlib.sha256((tmp_path / "kept").read_bytes()).hexdigest() == blobs[1].hash
    assert os.listdir(tmp_path / "home/data/cas/damaged")


def test_progress_has_a_bar_and_the_time_that_is_left() -> None:
    now = pb.ScrubProgress(done_bytes=1 << 30, total_bytes=4 << 30)

    assert (
        progress_text(now, 60.0) == "[######                  ]  25%  1.0 GiB of 4.0 GiB, 3m left"
    )
    now.damaged_results = 2
    assert progress_text(now, 60.0).endswith("3m left, 2 damaged")
    assert "left" not in progress_text(pb.ScrubProgress(), 1.0)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (43_260, "12h 01m")]
)
def test_times_are_rounded_down(seconds: float, shown: str) -> None:
    assert time_text(seconds) == shown
