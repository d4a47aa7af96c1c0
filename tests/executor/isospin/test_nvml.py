"""GPUs as NVML tells of them: identity, slices, health, nodes and libraries."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.gpus import FakeGpu, FakeNvml

from executor.errors import DevicesUnavailable
from executor.isospin.nvml import NvmlDiscovery, load_nvml


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's file system, with nodes of two GPUs, and a driver's libraries."""
    for name in (
        "dev/nvidia0",
        "dev/nvidia1",
        "dev/nvidiactl",
        "dev/nvidia-uvm",
        "usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04",
        "usr/lib/x86_64-linux-gnu/libcurl.so.4",
        "opt/driver/extra",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_identity_is_read_whole(host: Path) -> None:
    (device,) = NvmlDiscovery(FakeNvml(FakeGpu(uuid="GPU-7", minor=1)), root=host).find()

    assert (device.uuid, device.name) == ("GPU-7", "NVIDIA H100 80GB HBM3")
    assert (device.memory_mib, device.sm) == (81_559, 90)
    assert (device.driver, device.cuda, device.profile) == ("580.159.04", "13.0", "")
    assert device.nodes == ("/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm")
    assert device.files == (
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04",
    )
    assert device.fault == ""


def test_configured_files_are_shown_too(host: Path) -> None:
    found = NvmlDiscovery(FakeNvml(FakeGpu()), root=host, files=["/opt/driver"]).find()

    assert found[0].files == ("/opt/driver",)


def test_slices_take_the_place_of_their_gpu(host: Path) -> None:
    doors = host / "proc/driver/nvidia/capabilities/gpu0/mig/gi9"
    (doors / "ci0").mkdir(parents=True)
    (doors / "access").write_text("DeviceFileMinor: 84\nDeviceFileMode: 292\n")
    (doors / "ci0" / "access").write_text("DeviceFileMinor: 85\nDeviceFileMode: 292\n")
    piece = FakeGpu(
        uuid="MIG-1", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory=9_728 << 20, instance=(9, 0)
    )
    nvml = FakeNvml(FakeGpu(mig=1, slices=[None, piece]))

    (device,) = NvmlDiscovery(nvml, root=host).find()

    assert (device.uuid, device.profile, device.memory_mib) == ("MIG-1", "1g.10gb", 9_728)
    assert device.is_slice
    assert device.sm == 90
    assert device.nodes[0] == "/dev/nvidia0"
    assert device.nodes[-2:] == (
        "/dev/nvidia-caps/nvidia-cap84",
        "/dev/nvidia-caps/nvidia-cap85",
    )


@pytest.mark.parametrize(
    ("gpu", "fault"),
    [
        (FakeGpu(remapped=(0, 1, 0, 1)), "remapping of broken memory failed"),
        (FakeGpu(remapped=(0, 1, 1, 0)), "broken memory waits"),
        (FakeGpu(remapped=None, retired=1), "broken memory waits"),
        (FakeGpu(ecc=3), "3 uncorrected memory errors"),
        (FakeGpu(remapped=None, retired=None, ecc=None), ""),
    ],
)
def test_broken_memory_is_a_fault(gpu: FakeGpu, fault: str, tmp_path: Path) -> None:
    (device,) = NvmlDiscovery(FakeNvml(gpu), root=tmp_path).find()

    assert device.fault.startswith(fault)
    assert bool(device.fault) == bool(fault)


def test_lost_gpu_hides_no_other(tmp_path: Path) -> None:
    nvml = FakeNvml(FakeGpu(capability=FakeNvml.NVML_ERROR_GPU_IS_LOST), FakeGpu(uuid="GPU-2"))

    lost, well = NvmlDiscovery(nvml, root=tmp_path).find()

    assert "cannot say what it is" in lost.fault
    assert well.fault == ""
    assert nvml.open == 0


def test_host_without_driver_says_so() -> None:
    discovery = NvmlDiscovery(FakeNvml(init=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND))

    with pytest.raises(DevicesUnavailable, match="no GPU driver answers"):
        discovery.find()


def test_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with pytest.raises(DevicesUnavailable, match=r"pip install 'armitage\[gpu\]'"):
        load_nvml()


def test_fake_offers_only_what_the_real_library_has() -> None:
    nvml = load_nvml()

    names = [name for name in vars(FakeNvml) if name.lower().startswith("nvml")]

    assert len(names) > 20
    assert [name for name in names if not hasattr(nvml, name)] == []
    codes = [name for name in names if name.startswith("NVML_")]
    assert [getattr(nvml, name) for name in codes] == [getattr(FakeNvml, name) for name in codes]
