"""What a guest with a device has beside the base: its driver, in the order it is loaded."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest

from executor.errors import SandboxUnavailable
from executor.microvm import cpio
from executor.microvm.driver import build_driver


def test_modules_are_unpacked_and_listed_in_order_with_their_firmware(tmp_path: Path) -> None:
    modules = [tmp_path / "nvidia.ko", tmp_path / "nvidia-uvm.ko.xz"]
    modules[0].write_bytes(b"first")
    modules[1].write_bytes(lzma.compress(b"second"))
    (tmp_path / "firmware/nvidia").mkdir(parents=True)
    (tmp_path / "firmware/nvidia/gsp.bin").write_bytes(b"gsp")

    reader = cpio.Reader(io.BytesIO(build_driver(modules, tmp_path / "firmware").data))
    found = {entry.name: b"".join(reader.data()) for entry in reader.entries()}

    assert found["driver/order"] == b"nvidia\nnvidia-uvm\n"
    assert (found["driver/nvidia.ko"], found["driver/nvidia-uvm.ko"]) == (b"first", b"second")
    assert found["lib/firmware/nvidia/gsp.bin"] == b"gsp"
    assert b"insmod" in found["driver/devices.sh"]


@pytest.mark.parametrize(
    ("modules", "words"),
    [(["absent.ko"], "absent.ko"), (["a/x.ko", "b/x.ko"], "two of them have one name")],
)
def test_modules_that_cannot_be_are_named(tmp_path: Path, modules: list[str], words: str) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.ko").touch()

    with pytest.raises(SandboxUnavailable, match=words):
        build_driver([tmp_path / one for one in modules], None)
