"""From an image in a file to an action that has it as its root."""

import json
from pathlib import Path

import pytest
from support.command_line import Cli
from support.executing import sandbox_missing
from support.oci import Entry, Layout, link

from armitage.client.oci import host_platform

BUSYBOX = Path("/bin/busybox")


def image() -> Layout:
    layout = Layout()
    architecture = host_platform().partition("/")[2]
    lower = [
        Entry("bin/busybox", BUSYBOX.read_bytes(), 0o755),
        link("bin/sh", "busybox"),
        Entry("etc/issue", b"lower\n"),
        Entry("etc/gone", b"x"),
    ]
    upper = [Entry("etc/issue", b"upper\n"), Entry("etc/.wh.gone"), link("proc", "/etc")]
    layout.index(layout.image(lower, upper, architecture=architecture, how="zstd"))
    return layout


@pytest.mark.sandbox
@pytest.mark.skipif(bool(sandbox_missing()), reason=sandbox_missing())
def test_an_action_runs_in_an_imported_image(online: Cli, tmp_path: Path) -> None:
    image().write(tmp_path / "image.tar")

    imported = online("image", "import", "image.tar")
    assert imported.code == 0, imported.err
    rootfs = imported.out.strip()
    script = "busybox ls /etc; busybox cat /etc/issue; [ -d /proc/self ] && echo > /etc/x"
    ran = online("run", "--platform", rootfs, "--", "/bin/sh", "-c", script)

    assert rootfs.startswith("rootfs=cas:sha256:")
    assert imported.err.startswith(f"armitage: image.tar: {host_platform()}, 2 layers, 2 files, ")
    assert ran.out == "issue\nupper\n"
    assert "Read-only file system" in ran.err


def test_what_was_imported_is_said_as_json(online: Cli, tmp_path: Path) -> None:
    layout = Layout()
    layout.index(layout.image([Entry("a", b"1"), Entry("null", kind=b"3")], architecture="arm64"))
    layout.write(tmp_path / "layout")

    done = online("image", "import", "--json", "layout", "--platform", "linux/arm64")

    value = json.loads(done.out)
    assert value.pop("rootfs").startswith("cas:sha256:")
    assert value.pop("uploaded_bytes") > 0
    assert value == {
        "platform": "linux/arm64",
        "layers": 1,
        "files": 1,
        "size_bytes": 1,
        "left_out": ["null"],
        "uploaded_blobs": 2,
    }
    assert done.err.endswith("armitage: left out, being devices or the like: null\n")


def test_a_root_that_nobody_stored_is_asked_for(online: Cli) -> None:
    absent = f"rootfs=cas:{'0' * 64}/10"

    done = online("run", "--platform", absent, "--", "/bin/true")

    assert done.code == 125
    assert (
        f"FAILED_PRECONDITION: blobs are missing; upload them first: sha256:{'0' * 64}/10"
        in done.err
    )


def test_an_image_over_the_limit_is_refused(online: Cli, tmp_path: Path) -> None:
    image().write(tmp_path / "image.tar")

    done = online("image", "import", "image.tar", "--max-bytes", "10KiB")

    assert done.code == 2
    assert "over 10240 bytes; allow more with --max-bytes" in done.err
