"""GPUs as NVIDIA's management library knows them: who they are, and whether they are well.

The one file that knows `pynvml` (PyPI's nvidia-ml-py), which need not be installed.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from executor.errors import DevicesUnavailable
from executor.isospin.device import Device

DRIVER_FILES = (
    "/usr/lib/*-linux-gnu/lib{name}.so*",
    "/usr/lib64/lib{name}.so*",
    "/usr/local/nvidia/lib*/lib{name}.so*",
)
_LIBRARIES = ("cuda", "nvidia-*", "nvcuvid", "cudadebugger")
_SHARED_NODES = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
)
_CAPABILITIES = "/proc/driver/nvidia/capabilities"
_UNCORRECTED, _SINCE_START = 1, 0


def load_nvml() -> Any:
    """Answers the library's Python module.

    Raises DevicesUnavailable when it is not installed.
    """
    try:
        import pynvml
    except ImportError:
        raise DevicesUnavailable(
            "GPUs are looked for with nvidia-ml-py, which is not installed: pip install"
            " 'armitage[gpu]'"
        ) from None
    return pynvml


class NvmlDiscovery:
    """Looks for GPUs and MIG slices. Blocking, and for one thread at a time."""

    def __init__(
        self, nvml: Any, *, root: Path = Path("/"), files: Sequence[str] = DRIVER_FILES
    ) -> None:
        """`nvml` is the module; below `root` lie the host's device nodes and libraries."""
        self._nvml = nvml
        self._root = root
        self._files = files

    def find(self) -> tuple[Device, ...]:
        """Answers all there are, with what is wrong with each.

        Raises DevicesUnavailable, saying why, when there is no driver to ask.
        """
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise DevicesUnavailable(f"no GPU driver answers: {error}") from error
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            cuda = _cuda(nvml.nvmlSystemGetCudaDriverVersion_v2())
            files = self._driver_files()
            found = [
                device
                for index in range(nvml.nvmlDeviceGetCount())
                for device in self._devices(index, driver, cuda, files)
            ]
        except nvml.NVMLError as error:
            raise DevicesUnavailable(f"the GPU driver answers, but fails: {error}") from error
        finally:
            nvml.nvmlShutdown()
        return tuple(found)

    def _devices(
        self, index: int, driver: str, cuda: str, files: tuple[str, ...]
    ) -> Iterator[Device]:
        """Answers the GPU of an index, or its slices. One that fails hides no other."""
        nvml = self._nvml
        try:
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            minor = nvml.nvmlDeviceGetMinorNumber(gpu)
            nodes = (*self._present(f"/dev/nvidia{minor}"), *self._present(*_SHARED_NODES))
            about: dict[str, Any] = {
                "driver": driver,
                "cuda": cuda,
                "files": files,
                "sm": _sm(nvml.nvmlDeviceGetCudaComputeCapability(gpu)),
                "fault": self._fault(gpu),
            }
            if not self._is_sliced(gpu):
                yield self._describe(gpu, nodes=nodes, **about)
                return
            for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                piece = self._slice(gpu, number)
                if piece is not None:
                    doors = self._doors(minor, piece)
                    profile = _profile(str(nvml.nvmlDeviceGetName(piece)))
                    yield self._describe(piece, nodes=(*nodes, *doors), profile=profile, **about)
        except nvml.NVMLError as error:
            yield Device(
                uuid=f"unknown-{index}",
                name=f"GPU {index}",
                memory_mib=0,
                sm=0,
                driver=driver,
                fault=f"the driver cannot say what it is: {error}",
            )

    def _describe(self, handle: Any, **more: Any) -> Device:
        nvml = self._nvml
        return Device(
            uuid=str(nvml.nvmlDeviceGetUUID(handle)),
            name=str(nvml.nvmlDeviceGetName(handle)),
            memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
            **more,
        )

    def _is_sliced(self, gpu: Any) -> bool:
        return bool(self._asked(lambda: self._nvml.nvmlDeviceGetMigMode(gpu)[0], 0))

    def _slice(self, gpu: Any, number: int) -> Any:
        """Answers one slice, None where there is none under that number."""
        try:
            return self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_NOT_FOUND:
                return None
            raise

    def _doors(self, minor: int, piece: Any) -> Iterator[str]:
        """Answers the nodes that open a slice; the driver says their minor numbers in /proc."""
        instance = self._nvml.nvmlDeviceGetGpuInstanceId(piece)
        compute = self._nvml.nvmlDeviceGetComputeInstanceId(piece)
        base = f"{_CAPABILITIES}/gpu{minor}/mig/gi{instance}"
        for path in (f"{base}/access", f"{base}/ci{compute}/access"):
            try:
                lines = self._at(path).read_text().splitlines()
            except OSError:
                continue  # A driver that makes no such nodes guards slices by other means.
            for line in lines:
                name, _, number = line.partition(":")
                if name == "DeviceFileMinor":
                    yield f"/dev/nvidia-caps/nvidia-cap{int(number)}"

    def _fault(self, gpu: Any) -> str:
        """Answers why nobody should work with a GPU; empty when it is well."""
        nvml = self._nvml
        remapped = self._asked(lambda: nvml.nvmlDeviceGetRemappedRows(gpu), (0, 0, 0, 0))
        if remapped[3]:
            return "remapping of broken memory failed; replace it"
        if remapped[2] or self._asked(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu), 0):
            return "broken memory waits to be set aside; reset it"
        errors = self._asked(
            lambda: nvml.nvmlDeviceGetTotalEccErrors(gpu, _UNCORRECTED, _SINCE_START), 0
        )
        return f"{errors} uncorrected memory errors since the driver was loaded" if errors else ""

    def _asked(self, ask: Callable[[], Any], otherwise: Any) -> Any:
        """Answers what the driver says; `otherwise` where a GPU does not know such a thing."""
        try:
            return ask()
        except self._nvml.NVMLError as error:
            if error.value in (
                self._nvml.NVML_ERROR_NOT_SUPPORTED,
                self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            ):
                return otherwise
            raise

    def _driver_files(self) -> tuple[str, ...]:
        found: set[str] = set()
        for pattern in self._files:
            names = _LIBRARIES if "{name}" in pattern else ("",)
            for name in names:
                found.update(self._glob(pattern.replace("{name}", name)))
        return tuple(sorted(found))

    def _glob(self, pattern: str) -> list[str]:
        prefix = len(str(self._root).rstrip("/"))
        return [path[prefix:] for path in glob.glob(str(self._at(pattern)))]

    def _present(self, *paths: str) -> list[str]:
        return [path for path in paths if os.path.exists(self._at(path))]

    def _at(self, path: str) -> Path:
        return self._root / path.removeprefix("/")


def _sm(capability: tuple[int, int]) -> int:
    return capability[0] * 10 + capability[1]


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _profile(name: str) -> str:
    """Answers the profile of a slice by its name, which ends so: `... MIG 1g.10gb`."""
    return name.rpartition("MIG ")[2] or "unknown"
