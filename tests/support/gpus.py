"""A host's GPUs, made up: devices as values, and NVML as its Python module looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from executor.errors import DevicesUnavailable
from executor.isospin.device import Device


def gpu(uuid: str, memory_mib: int = 81_559, sm: int = 90, **more: Any) -> Device:
    return Device(
        uuid=uuid,
        name=more.pop("name", "NVIDIA H100 80GB HBM3"),
        memory_mib=memory_mib,
        sm=sm,
        driver=more.pop("driver", "580.159.04"),
        cuda="13.0",
        nodes=more.pop("nodes", (f"/dev/{uuid}", "/dev/nvidiactl")),
        files=more.pop("files", ("/usr/lib/x86_64-linux-gnu/libcuda.so.1",)),
        **more,
    )


class Shelf:
    """A Discovery whose devices tests put there and take away."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices

    def find(self) -> tuple[Device, ...]:
        if not self.devices:
            raise DevicesUnavailable("no GPU driver answers: the shelf is empty")
        return self.devices

    def spoil(self, uuid: str, fault: str) -> None:
        self.devices = tuple(
            replace(one, fault=fault) if one.uuid == uuid else one for one in self.devices
        )


class NVMLError(Exception):
    """As pynvml's: with the library's number."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeMemory:
    total: int


@dataclass
class FakeGpu:
    """What NVML says of one GPU or slice; a number in place of an answer is the error it gives."""

    uuid: str = "GPU-1"
    name: str = "NVIDIA H100 80GB HBM3"
    memory: int = 81_559 << 20
    capability: tuple[int, int] | int = (9, 0)
    minor: int = 0
    mig: int | None = None
    """None: this GPU knows no MIG."""
    slices: list[FakeGpu | None] = field(default_factory=list)
    instance: tuple[int, int] = (0, 0)
    remapped: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    retired: int | None = None
    ecc: int | None = 0


class FakeNvml:
    """The functions of `pynvml` that are used, under the same names."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_FUNCTION_NOT_FOUND = 13
    NVML_ERROR_GPU_IS_LOST = 15

    def __init__(self, *gpus: FakeGpu, init: int = 0) -> None:
        self.gpus = gpus
        self.init = init
        self.open = 0

    def nvmlInit(self) -> None:
        if self.init:
            raise NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.04"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13000

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> FakeMemory:
        return FakeMemory(handle.memory)

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> tuple[int, int]:
        if isinstance(handle.capability, int):
            raise NVMLError(handle.capability)
        return handle.capability

    def nvmlDeviceGetMinorNumber(self, handle: FakeGpu) -> int:
        return handle.minor

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:
        return [_known(handle.mig), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:
        return len(handle.slices)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> FakeGpu:
        piece = handle.slices[index]
        if piece is None:
            raise NVMLError(self.NVML_ERROR_NOT_FOUND)
        return piece

    def nvmlDeviceGetGpuInstanceId(self, handle: FakeGpu) -> int:
        return handle.instance[0]

    def nvmlDeviceGetComputeInstanceId(self, handle: FakeGpu) -> int:
        return handle.instance[1]

    def nvmlDeviceGetRemappedRows(self, handle: FakeGpu) -> tuple[int, int, int, int]:
        if handle.remapped is None:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return handle.remapped

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: FakeGpu) -> int:
        return _known(handle.retired)

    def nvmlDeviceGetTotalEccErrors(self, handle: FakeGpu, kind: int, since: int) -> int:
        assert (kind, since) == (1, 0)
        return _known(handle.ecc)


def _known(value: int | None) -> int:
    if value is None:
        raise NVMLError(FakeNvml.NVML_ERROR_NOT_SUPPORTED)
    return value
