"""Images of toolchains: reproducible, and whole or not there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from executor.errors import SandboxUnavailable
from executor.microvm.image import make_image

pytestmark = pytest.mark.skipif(
    not shutil.which("mksquashfs"), reason="mksquashfs is missing: apt-get install squashfs-tools"
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "host/usr/bin").mkdir(parents=True)
    (tmp_path / "host/usr/bin/tool").write_text("a tool")
    (tmp_path / "host/bin").symlink_to("usr/bin")
    (tmp_path / "host/home").mkdir()
    return tmp_path / "host"


def test_image_holds_what_is_named_and_links_as_they_are(host: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"

    assert make_image(["/us*", "/bin", "/absent"], image, host) == ["/bin", "/usr"]

    listed = subprocess.run(
        ["unsquashfs", "-ll", image], capture_output=True, text=True, check=True
    )
    assert "squashfs-root/bin -> usr/bin" in listed.stdout
    assert "squashfs-root/usr/bin/tool" in listed.stdout
    assert "home" not in listed.stdout


def test_equal_files_give_equal_images(host: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_image(["/usr"], tmp_path / name, host)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_failure_leaves_the_old_image(host: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_text("old")

    with pytest.raises(SandboxUnavailable, match="none of /absent exists"):
        make_image(["/absent"], image, host)
    with pytest.raises(SandboxUnavailable, match="failed"):
        make_image(["/usr"], tmp_path / "nowhere" / "image", host)

    assert image.read_text() == "old"
    assert not list(tmp_path.glob(".*draft"))
