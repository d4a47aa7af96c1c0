"""What `armitage doctor` says of GPUs."""

from __future__ import annotations

import sys

import pytest
from support.gpus import FakeGpu, FakeNvml

from executor.isospin.nvml import NvmlDiscovery
from executor.isospin.probe import probe_gpus


def test_healthy_gpu_is_there_with_what_it_is() -> None:
    finding = probe_gpus(NvmlDiscovery(FakeNvml(FakeGpu(), FakeGpu(ecc=2))))

    assert finding.is_there
    assert finding.detail == (
        "NVIDIA H100 80GB HBM3 (sm_90, 81559 MiB, driver 580.159.04); NVIDIA H100 80GB HBM3"
        " (sm_90, 81559 MiB, driver 580.159.04): 2 uncorrected memory errors since the driver was"
        " loaded"
    )


def test_faulty_gpu_alone_is_none() -> None:
    assert not probe_gpus(NvmlDiscovery(FakeNvml(FakeGpu(ecc=2)))).is_there


def test_host_without_driver_says_so() -> None:
    finding = probe_gpus(NvmlDiscovery(FakeNvml(init=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)))

    assert (finding.is_there, finding.detail) == (False, "no GPU driver answers")


def test_missing_library_has_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert probe_gpus().remedy == "pip install 'armitage[gpu]'"
