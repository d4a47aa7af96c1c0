"""Builds, checks and tries engines: models compiled for one kind of GPU (docs/isospin.md).

A script of its own: it is an input file of an action and runs in the action's Python, with nothing
but the standard library and the builder that it is told to use. Engines do not move between GPU
architectures, drivers or versions of their builder, so an action says for which of these it is, and
this script refuses to build, load or try anything under others.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "armitage-engine/1"
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
_PACKAGE = "engine.pt2"
"""PyTorch takes and makes packages under names that end so, and an engine may have any."""
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute, of cuda.h."""


class Refused(Exception):
    """What was asked for cannot be; the message says why, and what to do."""


@dataclass(frozen=True)
class Target:
    """What an engine is for. Two engines of one model are interchangeable only if this is equal."""

    builder: str
    version: str
    """Of the builder."""
    arch: str
    """`sm_90`; `cpu` for a package that runs on the processor."""
    driver: str
    """Empty for `cpu`."""

    @property
    def key(self) -> str:
        """SHA-256 over all of it, in one line."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, wanted: Mapping[str, str], what: str) -> None:
        """Raises Refused when this is not what is wanted. Empty wishes are none."""
        for name, value in wanted.items():
            here = getattr(self, name)
            if value and value != here:
                raise Refused(
                    f"{what} is for {name} {value}, and here is {name} {here or 'none'}: engines do"
                    " not move between them; build it anew for this one"
                )


@dataclass(frozen=True)
class Shape:
    """The shapes that one input of a model may have."""

    min: list[int]
    opt: list[int]
    max: list[int]


@dataclass(frozen=True)
class Settings:
    """The build configuration: a JSON object with these members."""

    precision: list[str] = field(default_factory=lambda: ["fp32"])
    """What the builder may use beside fp32."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """By input, for those with dimensions that the model leaves open."""
    workspace_mib: int = 1024
    optimization_level: int = 3
    strongly_typed: bool = False
    """Precisions are those of the model, and `precision` is to be left out."""
    trtllm: dict[str, str] = field(default_factory=dict)
    """Flags of trtllm-build, without dashes, beside --checkpoint_dir and --output_dir."""


def parse_settings(text: str) -> Settings:
    """Reads a build configuration. Raises Refused, naming the member that is wrong."""
    try:
        members = json.loads(text)
    except ValueError as error:
        raise Refused(f"the build configuration is no JSON: {error}") from None
    if not isinstance(members, dict):
        raise Refused("the build configuration is no JSON object")
    unknown = sorted(members.keys() - Settings.__dataclass_fields__.keys())
    if unknown:
        raise Refused(f"the build configuration has {unknown[0]!r}, which is no setting")
    if "shapes" in members:
        members["shapes"] = _shapes(members["shapes"])
    settings = Settings(**members)
    _check_settings(settings)
    return settings


def _shapes(value: object) -> dict[str, Shape]:
    if not isinstance(value, dict):
        raise Refused("shapes: write an object of inputs")
    shapes = {}
    for name, shape in value.items():
        if not isinstance(shape, dict) or shape.keys() != {"min", "opt", "max"}:
            raise Refused(f"shapes.{name}: write min, opt and max, a list of sizes each")
        rows = [shape["min"], shape["opt"], shape["max"]]
        sizes = [row for row in rows if isinstance(row, list) and all(map(_is_size, row))]
        if len(sizes) != len(rows) or len({len(row) for row in rows}) != 1:
            raise Refused(f"shapes.{name}: min, opt and max are lists of sizes, equally long")
        if not all(low <= best <= high for low, best, high in zip(*rows, strict=True)):
            raise Refused(f"shapes.{name}: opt is not between min and max")
        shapes[name] = Shape(*rows)
    return shapes


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_settings(settings: Settings) -> None:
    asked: object = settings.precision
    if not isinstance(asked, list) or any(one not in PRECISIONS for one in asked):
        raise Refused(f"precision: a list of {', '.join(PRECISIONS)}, not {settings.precision!r}")
    if settings.strongly_typed and settings.precision != ["fp32"]:
        raise Refused("precision: strongly_typed takes precisions from the model; leave this out")
    if not _is_size(settings.workspace_mib) or settings.workspace_mib < 1:
        raise Refused("workspace_mib: a number of MiB, at least 1")
    if not _is_size(settings.optimization_level) or settings.optimization_level > 5:
        raise Refused("optimization_level: a number from 0 to 5")
    flags: object = settings.trtllm
    if not isinstance(flags, dict) or not all(isinstance(one, str) for one in flags.values()):
        raise Refused("trtllm: an object of text, flags of trtllm-build without their dashes")
    for name in ("checkpoint_dir", "output_dir"):
        if name in settings.trtllm:
            raise Refused(f"trtllm.{name}: the action says this itself; leave it out")


@dataclass(frozen=True)
class Files:
    """What one build reads and writes."""

    model: Path
    engine: Path
    cache_in: Path | None
    cache_out: Path | None


@dataclass(frozen=True)
class World:
    """What this script takes from around it; tests have their own."""

    load: Callable[[str], Any] = importlib.import_module
    gpu: Callable[[], tuple[str, str, str]] | None = None
    """Answers name, architecture and driver of the first visible GPU."""
    run: Callable[..., Any] = subprocess.run

    def module(self, name: str, remedy: str) -> Any:
        """Imports a builder. Raises Refused when the action's Python does not have it."""
        try:
            return self.load(name)
        except ImportError as error:
            raise Refused(f"this Python has no {name} ({error}); {remedy}") from error

    def hardware(self) -> tuple[str, str, str]:
        """Answers name, architecture and driver of the GPU that was leased. Raises Refused."""
        return (self.gpu or first_gpu)()


def first_gpu() -> tuple[str, str, str]:
    """Asks CUDA's driver for the first visible GPU, and NVML for the driver's version.

    Raises Refused where there is none.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise Refused(
            f"no GPU driver is visible here ({error}); declare the coeffect gpu"
        ) from None
    device, name, version = ctypes.c_int(), ctypes.create_string_buffer(96), ctypes.c_int()
    driver = ctypes.create_string_buffer(96)
    calls: list[Callable[[], int]] = [
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, len(name), device),
        nvml.nvmlInit_v2,
        lambda: nvml.nvmlSystemGetDriverVersion(driver, len(driver)),
    ]
    for call in calls:
        if code := call():
            raise Refused(f"the GPU driver answers with error {code}; is a GPU leased to this?")
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        if code := cuda.cuDeviceGetAttribute(ctypes.byref(version), attribute, device):
            raise Refused(f"the GPU driver does not tell the architecture: error {code}")
        numbers.append(version.value)
    return name.value.decode(), f"sm_{numbers[0] * 10 + numbers[1]}", driver.value.decode()


class TensorRt:
    """TensorRT's own builder: ONNX in, a serialised engine out."""

    name = "tensorrt"

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self._trt = world.module("tensorrt", "add TensorRT's wheel to the action's toolchain")
        self._say = say
        self._logger = _logger(self._trt, say)
        self._hardware = world.hardware

    def target(self) -> tuple[Target, str]:
        """Answers what is built for here, and the GPU's name."""
        name, arch, driver = self._hardware()
        return Target(self.name, str(self._trt.__version__), arch, driver), name

    def build(self, files: Files, settings: Settings) -> None:
        """Builds. Raises Refused, with what TensorRT said in the log."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        wanted = "STRONGLY_TYPED" if settings.strongly_typed else "EXPLICIT_BATCH"
        # Either goes without saying in versions that have no such flag.
        flag = getattr(trt.NetworkDefinitionCreationFlag, wanted, None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(files.model)):
            errors = [str(parser.get_error(number)) for number in range(parser.num_errors)]
            raise Refused(f"{files.model}: TensorRT cannot read it: {'; '.join(errors)}")
        config = self._config(builder, network, settings)
        cache = files.cache_in.read_bytes() if files.cache_in else b""
        # What was timed on another GPU must not decide here.
        if not config.set_timing_cache(config.create_timing_cache(cache), False):
            raise Refused(f"{files.cache_in}: the timing cache is of another GPU or TensorRT")
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refused("TensorRT built nothing; the log says why")
        files.engine.write_bytes(bytes(plan))
        if files.cache_out:
            files.cache_out.write_bytes(bytes(config.get_timing_cache().serialize()))

    def _config(self, builder: Any, network: Any, settings: Settings) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
        config.builder_optimization_level = settings.optimization_level
        # TensorRT takes TF32 unless told otherwise, which is not what fp32 says.
        config.clear_flag(trt.BuilderFlag.TF32)
        for precision in settings.precision:
            if precision != "fp32":
                config.set_flag(self._flag(precision))
        profile = builder.create_optimization_profile()
        inputs = {
            network.get_input(n).name: network.get_input(n) for n in range(network.num_inputs)
        }
        for name, shape in settings.shapes.items():
            if name not in inputs:
                raise Refused(f"shapes.{name}: the model has no such input ({', '.join(inputs)})")
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        for name, tensor in inputs.items():
            if -1 in tuple(tensor.shape) and name not in settings.shapes:
                raise Refused(f"shapes.{name}: the model leaves sizes open; say min, opt and max")
        if settings.shapes and config.add_optimization_profile(profile) < 0:
            raise Refused("shapes: TensorRT does not take them together; the log says why")
        return config

    def _flag(self, precision: str) -> Any:
        """TensorRT 11 has no flags but TF32's: networks are typed strongly there."""
        flag = getattr(self._trt.BuilderFlag, precision.upper(), None)
        if flag is None:
            raise Refused(
                f"precision: TensorRT {self._trt.__version__} has no {precision} to choose and"
                " takes precisions from the model: convert that (ModelOpt), and leave this out"
            )
        return flag

    def load(self, engine: Path) -> None:
        """Loads an engine. Raises Refused."""
        runtime = self._trt.Runtime(self._logger)
        if runtime.deserialize_cuda_engine(engine.read_bytes()) is None:
            raise Refused(f"{engine}: TensorRT cannot load it; the log says why")


def _logger(trt: Any, say: Callable[[str], None]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            say(f"{severity}: {text}")

    return Logger()


class TensorRtLlm:
    """trtllm-build: a TensorRT-LLM checkpoint in, a directory with engines out."""

    name = "trtllm"

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self._version = str(world.module("tensorrt_llm", "add TensorRT-LLM to it").__version__)
        self._world = world
        self._say = say

    def target(self) -> tuple[Target, str]:
        """Answers what is built for here, and the GPU's name."""
        name, arch, driver = self._world.hardware()
        return Target(self.name, self._version, arch, driver), name

    def build(self, files: Files, settings: Settings) -> None:
        """Builds. Raises Refused, with what trtllm-build said in the log."""
        if files.cache_in or files.cache_out:
            raise Refused("trtllm-build keeps its timing cache to itself; leave --timing-cache out")
        command = ["trtllm-build", "--checkpoint_dir", str(files.model)]
        command += ["--output_dir", str(files.engine)]
        command += [
            word for name, value in settings.trtllm.items() for word in (f"--{name}", value)
        ]
        self._say(f"running {command}")
        done = self._world.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._say(done.stdout.decode(errors="replace"))
        if done.returncode:
            raise Refused(f"trtllm-build ended with {done.returncode}; the log says why")

    def load(self, engine: Path) -> None:
        """Cannot tell without running the model: that the files are whole was checked."""


class AotInductor:
    """PyTorch's ahead-of-time compiler: an exported program (`.pt2`) in, a package out."""

    name = "aotinductor"

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self._torch = world.module("torch", "add PyTorch to the action's toolchain")
        world.module("torch.export", "it is a part of PyTorch 2.6 or newer")
        self._inductor = world.module("torch._inductor", "it is a part of PyTorch 2.6 or newer")
        self._hardware = world.hardware
        self._say = say

    def target(self) -> tuple[Target, str]:
        """Answers what is built for here: the GPU if PyTorch sees one, else the processor."""
        name, arch, driver = "processor", "cpu", ""
        if self._torch.cuda.is_available():
            name, arch, driver = self._hardware()
        return Target(self.name, str(self._torch.__version__), arch, driver), name

    def build(self, files: Files, settings: Settings) -> None:
        """Builds. Raises Refused."""
        if files.cache_in or files.cache_out:
            raise Refused("PyTorch has no timing cache to hand over; leave --timing-cache out")
        if settings.precision != ["fp32"] or settings.shapes:
            raise Refused("precision, shapes: for aotinductor the exported program has them")
        program = self._torch.export.load(str(files.model))
        with tempfile.TemporaryDirectory(dir=files.engine.parent) as place:
            package = Path(place, _PACKAGE)
            self._inductor.aoti_compile_and_package(program, package_path=str(package))
            package.replace(files.engine)
        self._say(f"compiled {files.engine}")

    def load(self, engine: Path) -> None:
        """Loads a package. Raises whatever PyTorch does."""
        with tempfile.TemporaryDirectory() as place:
            self._open(engine, Path(place))

    def _open(self, engine: Path, place: Path) -> Any:
        """Answers what a package runs; the place must stay while it does."""
        package = place / _PACKAGE
        package.symlink_to(engine.resolve())
        return self._inductor.aoti_load_package(str(package))

    def compare(self, engine: Path, model: Path) -> float:
        """Runs a package and the program that it was made of, eagerly, on the program's own example
        inputs; answers the greatest difference of any number, as a part of the greatest number.
        """
        torch = self._torch
        program = torch.export.load(str(model))
        arguments, keywords = program.example_inputs
        with torch.no_grad(), tempfile.TemporaryDirectory() as place:
            eager = program.module()(*arguments, **keywords)
            fast = self._open(engine, Path(place))(*arguments, **keywords)
        worst = 0.0
        for one, other in zip(_tensors(eager), _tensors(fast), strict=True):
            scale = float(one.abs().max()) or 1.0
            worst = max(worst, float((one - other).abs().max()) / scale)
        return worst


def _tensors(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


BUILDERS = {one.name: one for one in (TensorRt, TensorRtLlm, AotInductor)}


def build(args: argparse.Namespace, world: World) -> int:
    """Builds an engine, and says beside it what it is for."""
    settings_text = args.config.read_text() if args.config else "{}"
    lines: list[str] = []
    try:
        settings = parse_settings(settings_text)
        builder = BUILDERS[args.builder](world, lines.append)
        target, name = builder.target()
        target.check(_wanted(args), "this action")
        files = Files(args.model, args.engine, args.timing_cache_in, args.timing_cache_out)
        builder.build(files, settings)
        info = {
            "format": FORMAT,
            **asdict(target),
            "key": target.key,
            "gpu": name,
            "model_sha256": hash_of(args.model),
            "config_sha256": hashlib.sha256(settings_text.encode()).hexdigest(),
            "engine_sha256": hash_of(args.engine),
        }
        args.info.write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")
    except Refused as error:
        lines.append(f"refused: {error}")
        raise
    finally:
        if args.log:
            args.log.write_text("".join(f"{line}\n" for line in lines))
    return 0


def check(args: argparse.Namespace, world: World) -> Any:
    """Sees that an engine is whole and for this hardware, driver and version, and loads it."""
    info = _read_info(args.info)
    if hash_of(args.engine) != info["engine_sha256"]:
        raise Refused(f"{args.engine} is not the engine that {args.info} describes")
    builder = BUILDERS[info["builder"]](world, lambda text: print(text, file=sys.stderr))
    target, _ = builder.target()
    wanted = {name: info[name] for name in ("version", "arch", "driver")}
    target.check(wanted, f"engine {args.engine}")
    if target.key != info["key"]:
        raise Refused(f"{args.info}: its key is not that of what it says; it was changed")
    builder.load(args.engine)
    return builder


def compare(args: argparse.Namespace, world: World) -> int:
    """Runs an engine beside its model and compares the numbers."""
    builder = check(args, world)
    if not isinstance(builder, AotInductor):
        raise Refused(f"comparing is for aotinductor; {builder.name} engines are only loaded here")
    worst = builder.compare(args.engine, args.model)
    print(json.dumps({"greatest_relative_difference": worst, "tolerance": args.tolerance}))
    return 0 if worst <= args.tolerance else 1


def _read_info(path: Path) -> dict[str, str]:
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path}: is no JSON: {error}") from None
    names = ("builder", "version", "arch", "driver", "key", "engine_sha256")
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise Refused(f"{path}: does not begin with format {FORMAT}")
    if (
        any(not isinstance(info.get(name), str) for name in names)
        or info["builder"] not in BUILDERS
    ):
        raise Refused(f"{path}: lacks one of {', '.join(names)}, or has another builder's name")
    return info


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a directory's names and files, in order."""
    if path.is_dir():
        lines = [
            f"{hash_of(one)}  {one.relative_to(path)}\n"
            for one in sorted(path.rglob("*"))
            if one.is_file()
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wanted(args: argparse.Namespace) -> dict[str, str]:
    return {"arch": args.arch, "driver": args.driver, "version": args.version}


def parser() -> argparse.ArgumentParser:
    """The command line, which docs/isospin.md documents."""
    top = argparse.ArgumentParser(prog="engine.py", allow_abbrev=False, description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    make = commands.add_parser("build", help="build an engine", allow_abbrev=False)
    make.add_argument("--builder", choices=sorted(BUILDERS), required=True)
    make.add_argument("--model", type=Path, required=True, help="ONNX, a checkpoint, or .pt2")
    make.add_argument("--config", type=Path, help="build configuration (JSON)")
    make.add_argument("--engine", type=Path, required=True, help="output: the engine")
    make.add_argument("--info", type=Path, required=True, help="output: engine.json")
    make.add_argument("--log", type=Path, help="output: what the builder said")
    make.add_argument("--timing-cache-in", type=Path, help="what an earlier build has timed")
    make.add_argument("--timing-cache-out", type=Path, help="output: the same, with what this has")
    for name, text in (("arch", "sm_90"), ("driver", "580.159.04"), ("version", "10.9.0.34")):
        make.add_argument(f"--{name}", default="", help=f"refuse any other; such as {text}")
    make.set_defaults(run=build)
    for name, run, text in (
        ("check", lambda args, world: 0 if check(args, world) else 1, "load an engine, if it fits"),
        ("compare", compare, "run an engine beside its model and compare the numbers"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.add_argument("--engine", type=Path, required=True)
        command.add_argument("--info", type=Path, required=True, help="its engine.json")
        command.set_defaults(run=run)
        if name == "compare":
            command.add_argument("--model", type=Path, required=True)
            command.add_argument("--tolerance", type=float, default=1e-3)
    return top


def main(argv: Sequence[str] | None = None, world: World | None = None) -> int:
    """Runs one command. 0: done; 1: the numbers differ; 3: refused, for the reason on stderr."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args, world or World()))
    except (Refused, OSError) as error:
        print(f"engine.py: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
