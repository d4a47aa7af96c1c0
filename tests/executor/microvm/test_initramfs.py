"""The guest's kernel is found, and its initramfs holds what the guest takes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest

from executor.errors import SandboxUnavailable
from executor.microvm import cpio
from executor.microvm.initramfs import Kernel, build_initramfs, find_kernel

NAMES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console", "squashfs")
NETWORK = ("failover", "net_failover", "virtio_net")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with two kernels and the modules of both."""
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-49-cloud-amd64"):
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / "boot" / f"vmlinuz-{release}").write_bytes(b"kernel")
        modules = tmp_path / "lib/modules" / release / "kernel" / "drivers"
        modules.mkdir(parents=True)
        for name in (*NAMES, *NETWORK):
            (modules / f"{name}.ko").write_bytes(name.encode())
    (tmp_path / "busybox").write_bytes(b"static")
    return tmp_path


def contents(data: bytes) -> dict[str, bytes]:
    reader = cpio.Reader(io.BytesIO(data))
    return {entry.name: b"".join(reader.data()) for entry in reader.entries()}


def test_newest_kernel_is_found_with_its_modules(host: Path) -> None:
    kernel = find_kernel(None, None, host)

    assert kernel.image.name == "vmlinuz-6.1.0-49-cloud-amd64"
    assert kernel.modules.name == "6.1.0-49-cloud-amd64"


def test_host_without_kernel_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="apt-get install linux-image-cloud-amd64"):
        find_kernel(None, None, tmp_path)


def test_initramfs_loads_modules_in_their_order(host: Path) -> None:
    found = contents(build_initramfs(find_kernel(None, None, host), host / "busybox").data)

    assert found["modules/order"].decode().split() == list(NAMES)
    assert found["modules/network"].decode().split() == list(NETWORK)
    assert found["modules/squashfs.ko"] == b"squashfs"
    assert found["bin/busybox"] == b"static"
    assert found["bin/sh"] == b"busybox"
    assert found["init"].startswith(b"#!/bin/sh\n")


def test_equal_inputs_give_an_equal_initramfs(host: Path) -> None:
    kernel = find_kernel(None, None, host)

    first, second = (build_initramfs(kernel, host / "busybox") for _ in range(2))

    assert first.hash == second.hash


def test_modules_that_are_built_in_are_left_out(host: Path) -> None:
    kernel = find_kernel(None, None, host)
    (kernel.modules / "kernel/drivers/virtio.ko").unlink()
    with pytest.raises(SandboxUnavailable, match="has no virtio, built in"):
        build_initramfs(kernel, host / "busybox")
    (kernel.modules / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")

    found = contents(build_initramfs(kernel, host / "busybox").data)

    assert "modules/virtio.ko" not in found


def test_compressed_modules_are_unpacked_or_refused(host: Path) -> None:
    kernel = Kernel(
        host / "boot/vmlinuz-6.1.0-9-cloud-amd64", host / "lib/modules/6.1.0-9-cloud-amd64"
    )
    plain = kernel.modules / "kernel/drivers/squashfs.ko"
    plain.unlink()
    plain.with_suffix(".ko.xz").write_bytes(lzma.compress(b"unpacked"))
    assert (
        contents(build_initramfs(kernel, host / "busybox").data)["modules/squashfs.ko"]
        == b"unpacked"
    )

    plain.with_suffix(".ko.xz").rename(plain.with_suffix(".ko.zst"))
    with pytest.raises(SandboxUnavailable, match="compressed so cannot be read"):
        build_initramfs(kernel, host / "busybox")


def test_dynamic_busybox_is_refused(host: Path) -> None:
    (host / "busybox").write_bytes(b"\x7fELF" + b"\0" * 500 + b"/lib64/ld-linux-x86-64.so.2\0")

    with pytest.raises(SandboxUnavailable, match="busybox-static"):
        build_initramfs(find_kernel(None, None, host), host / "busybox")
