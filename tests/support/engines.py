"""TensorRT, TensorRT-LLM and PyTorch as far as engine.py uses them, made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

H100 = ("NVIDIA H100 80GB HBM3", "sm_90", "580.159.04")


@dataclass
class FakeTensor:
    name: str
    shape: tuple[int, ...]


class Config:
    """An IBuilderConfig that remembers what it was told."""

    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt = trt
        self.builder_optimization_level = -1
        self.flags: set[str] = {"TF32"}
        self.pools: dict[str, int] = {}
        self.profiles: list[dict[str, Any]] = []
        self.cache = b""

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return b"foreign" not in cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache + b"+timed")


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = (low, best, high)


class Network:
    def __init__(self, flags: int, tensors: list[FakeTensor]) -> None:
        self.flags = flags
        self.tensors = tensors
        self.num_inputs = len(tensors)

    def get_input(self, number: int) -> FakeTensor:
        return self.tensors[number]


class FakeTensorRt:
    """The module `tensorrt`: its engines are what it was told, as JSON."""

    __version__ = "10.9.0.34"
    MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
    BuilderFlag = SimpleNamespace(TF32="TF32", FP16="FP16", BF16="BF16", FP8="FP8", INT8="INT8")

    class NetworkDefinitionCreationFlag(IntEnum):
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1

    class ILogger:
        pass

    def __init__(self, *tensors: FakeTensor) -> None:
        self.tensors = list(tensors)
        self.builds_nothing = False

    def Builder(self, logger: Any) -> Any:
        logger.log("INFO", "a builder is made")
        return SimpleNamespace(
            create_network=lambda flags: Network(flags, self.tensors),
            create_builder_config=lambda: Config(self),
            create_optimization_profile=Profile,
            build_serialized_network=self._build,
        )

    def _build(self, network: Network, config: Config) -> bytes | None:
        if self.builds_nothing:
            return None
        plan = {
            "flags": sorted(config.flags),
            "level": config.builder_optimization_level,
            "network": network.flags,
            "pools": config.pools,
            "profiles": config.profiles,
        }
        return json.dumps(plan).encode()

    def OnnxParser(self, network: Network, logger: Any) -> Any:
        def parse(path: str) -> bool:
            return Path(path).read_bytes() == b"onnx"

        return SimpleNamespace(
            parse_from_file=parse, num_errors=1, get_error=lambda number: f"error {number}: no onnx"
        )

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: data or None)


@dataclass
class FakeTorch:
    """The modules `torch`, `torch.export` and `torch._inductor`; programs multiply by a number."""

    has_gpu: bool = False
    error: float = 0.0
    packages: dict[str, float] = field(default_factory=dict)

    def module(self, name: str) -> Any:
        if name == "torch":
            return SimpleNamespace(
                __version__="2.11.0",
                cuda=SimpleNamespace(is_available=lambda: self.has_gpu),
                no_grad=nullcontext,
                export=SimpleNamespace(load=self._load),
            )
        return SimpleNamespace(aoti_compile_and_package=self._package, aoti_load_package=self._open)

    def _load(self, path: str) -> Any:
        factor = float(Path(path).read_text())
        return SimpleNamespace(
            factor=factor,
            example_inputs=((FakeNumbers([1.0, 2.0]),), {}),
            module=lambda: lambda numbers: numbers.times(factor),
        )

    def _package(self, program: Any, package_path: str) -> str:
        assert package_path.endswith(".pt2")
        Path(package_path).write_text(str(program.factor))
        return package_path

    def _open(self, path: str) -> Callable[[FakeNumbers], FakeNumbers]:
        assert path.endswith(".pt2")
        factor = float(Path(path).read_text()) * (1 + self.error)
        return lambda numbers: numbers.times(factor)


@dataclass
class FakeNumbers:
    """A tensor of few talents."""

    values: list[float]

    def times(self, factor: float) -> FakeNumbers:
        return FakeNumbers([value * factor for value in self.values])

    def __sub__(self, other: FakeNumbers) -> FakeNumbers:
        return FakeNumbers([a - b for a, b in zip(self.values, other.values, strict=True)])

    def abs(self) -> FakeNumbers:
        return FakeNumbers([abs(value) for value in self.values])

    def max(self) -> float:
        return max(self.values)
