"""engine.py: what it builds, what it says of it, and what it refuses. The builders are made up;
what they do on a GPU, no test here sees.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.engines import H100, Config, FakeTensor, FakeTensorRt, FakeTorch

from executor.isospin.builders import engine
from executor.isospin.builders.engine import Refused, World, parse_settings

ROOT = Path(__file__).parents[4]
OPEN = {"x": {"min": [1, 3], "opt": [4, 3], "max": [8, 3]}}


class Bench:
    """A directory with a model, and a world to build it in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trt = FakeTensorRt(FakeTensor("x", (-1, 3)), FakeTensor("y", (2,)))
        self.torch = FakeTorch()
        self.gpu = H100
        self.ran: list[list[str]] = []
        self.path("model").write_bytes(b"onnx")

    def path(self, name: str) -> Path:
        return self.directory / name

    def world(self) -> World:
        return World(load=self._load, gpu=lambda: self.gpu, run=self._run)

    def _load(self, name: str) -> Any:
        if name == "tensorrt":
            return self.trt
        if name == "tensorrt_llm":
            return SimpleNamespace(__version__="0.20.0")
        if name.partition(".")[0] == "torch":
            return self.torch.module(name)
        raise ImportError(name)

    def _run(self, command: list[str], **_: Any) -> Any:
        self.ran.append(command)
        self.path("engine").mkdir()
        (self.path("engine") / "rank0.engine").write_bytes(b"engine")
        return SimpleNamespace(returncode=0, stdout=b"built\n")

    def build(self, builder: str, *more: str, **config: Any) -> int:
        self.path("config").write_text(json.dumps(config))
        words = [f"--{name}={self.path(name)}" for name in ("model", "config", "engine", "info")]
        words += [f"--log={self.path('log')}", *more]
        return engine.main(["build", f"--builder={builder}", *words], self.world())

    def use(self, command: str, *more: str) -> int:
        words = [f"--engine={self.path('engine')}", f"--info={self.path('info')}", *more]
        return engine.main([command, *words], self.world())

    def json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_tensorrt_is_told_the_whole_configuration(bench: Bench) -> None:
    code = bench.build(
        "tensorrt", precision=["fp16", "tf32"], shapes=OPEN, workspace_mib=2, optimization_level=5
    )

    assert code == 0
    assert bench.json("engine") == {
        "flags": ["FP16", "TF32"],
        "level": 5,
        "network": 1,
        "pools": {"WORKSPACE": 2 << 20},
        "profiles": [{"x": [[1, 3], [4, 3], [8, 3]]}],
    }
    assert "a builder is made" in bench.path("log").read_text()


def test_fp32_means_fp32(bench: Bench) -> None:
    bench.build("tensorrt", shapes=OPEN)

    assert bench.json("engine")["flags"] == []


def test_strongly_typed_networks_are_made_so(bench: Bench) -> None:
    bench.build("tensorrt", shapes=OPEN, strongly_typed=True)

    assert bench.json("engine")["network"] == 2


def test_tensorrt_without_flags_of_precision_takes_the_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeTensorRt, "BuilderFlag", SimpleNamespace(TF32="TF32"))
    monkeypatch.setattr(FakeTensorRt, "NetworkDefinitionCreationFlag", SimpleNamespace())

    assert bench.build("tensorrt", shapes=OPEN) == 0
    assert bench.json("engine")["network"] == 0
    assert bench.build("tensorrt", shapes=OPEN, precision=["fp16"]) == 3
    assert "has no fp16 to choose and takes precisions from the model" in capsys.readouterr().err


def test_shapes_that_tensorrt_does_not_take_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Config, "add_optimization_profile", lambda *_: -1)

    assert bench.build("tensorrt", shapes=OPEN) == 3
    assert "shapes: TensorRT does not take them together" in capsys.readouterr().err


def test_engine_is_described_with_what_it_is_for(bench: Bench) -> None:
    bench.build("tensorrt", shapes=OPEN)

    info = bench.json("info")
    assert info["format"] == "armitage-engine/1"
    assert (info["builder"], info["version"]) == ("tensorrt", "10.9.0.34")
    assert (info["gpu"], info["arch"], info["driver"]) == H100
    assert len(info["key"]) == len(info["model_sha256"]) == len(info["engine_sha256"]) == 64


@pytest.mark.parametrize("name", ["version", "arch", "driver", "builder"])
def test_key_is_another_for_any_other_target(name: str) -> None:
    target = engine.Target("tensorrt", "10.9.0.34", "sm_90", "580.159.04")
    other = engine.Target(**{**vars(target), name: "another"})

    assert target.key != other.key


def test_timing_cache_goes_in_and_comes_out(bench: Bench) -> None:
    bench.path("old").write_bytes(b"cache")

    bench.build(
        "tensorrt",
        f"--timing-cache-in={bench.path('old')}",
        f"--timing-cache-out={bench.path('new')}",
        shapes=OPEN,
    )

    assert bench.path("new").read_bytes() == b"cache+timed"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--arch=sm_80", "for arch sm_80, and here is arch sm_90"),
        ("--driver=535.1", "for driver 535.1, and here is driver 580.159.04"),
        ("--version=8.6.1", "for version 8.6.1, and here is version 10.9.0.34"),
    ],
)
def test_action_for_another_target_builds_nothing(
    bench: Bench, more: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.build("tensorrt", more, shapes=OPEN) == 3

    assert words in capsys.readouterr().err
    assert words in bench.path("log").read_text()
    assert not bench.path("engine").exists()


Spoil = Callable[[Bench], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: b.path("model").write_bytes(b"junk"), "cannot read it: error 0: no onnx"),
        (lambda b: setattr(b.trt, "builds_nothing", True), "built nothing"),
        (lambda b: setattr(b.trt, "tensors", []), "no such input"),
        (
            lambda b: b.trt.tensors.append(FakeTensor("z", (-1,))),
            "shapes.z: the model leaves sizes open",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(
    bench: Bench, spoil: Spoil, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(bench)

    assert bench.build("tensorrt", shapes=OPEN) == 3
    assert words in capsys.readouterr().err


def test_timing_cache_of_another_gpu_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.path("old").write_bytes(b"foreign")

    assert bench.build("tensorrt", f"--timing-cache-in={bench.path('old')}", shapes=OPEN) == 3
    assert "of another GPU or TensorRT" in capsys.readouterr().err


def test_engine_loads_where_it_was_built(bench: Bench) -> None:
    bench.build("tensorrt", shapes=OPEN)

    assert bench.use("check") == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: setattr(b, "gpu", ("A100", "sm_80", H100[2])), "is for arch sm_90, and here"),
        (lambda b: setattr(b, "gpu", ("H100", "sm_90", "1.0")), "is for driver 580.159.04, and"),
        (lambda b: setattr(b.trt, "__version__", "11"), "is for version 10.9.0.34, and here"),
        (lambda b: b.path("engine").write_bytes(b"x"), "is not the engine that"),
        (lambda b: b.path("info").write_text("{}"), "does not begin with format"),
        (
            lambda b: b.path("info").write_text(
                b.path("info").read_text().replace(b.json("info")["key"], "0" * 64)
            ),
            "it was changed",
        ),
    ],
)
def test_engine_that_does_not_fit_is_not_loaded(
    bench: Bench, spoil: Spoil, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.build("tensorrt", shapes=OPEN)
    spoil(bench)

    assert bench.use("check") == 3
    assert words in capsys.readouterr().err


def test_trtllm_build_is_given_the_checkpoint_and_its_flags(bench: Bench) -> None:
    bench.path("model").unlink()
    bench.path("model").mkdir()
    (bench.path("model") / "config.json").write_text("{}")

    assert bench.build("trtllm", trtllm={"gemm_plugin": "auto", "max_batch_size": "8"}) == 0
    assert bench.ran == [
        [
            *("trtllm-build", "--checkpoint_dir", str(bench.path("model"))),
            *("--output_dir", str(bench.path("engine"))),
            *("--gemm_plugin", "auto", "--max_batch_size", "8"),
        ]
    ]
    assert bench.json("info")["version"] == "0.20.0"
    assert bench.use("check") == 0


def test_aotinductor_package_gives_the_numbers_of_eager_execution(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.path("model").write_text("3.0")

    assert bench.build("aotinductor") == 0
    assert (bench.json("info")["arch"], bench.json("info")["driver"]) == ("cpu", "")
    assert bench.use("compare", f"--model={bench.path('model')}") == 0
    assert json.loads(capsys.readouterr().out)["greatest_relative_difference"] == 0.0

    bench.torch.error = 0.01
    assert bench.use("compare", f"--model={bench.path('model')}") == 1
    difference = json.loads(capsys.readouterr().out)["greatest_relative_difference"]
    assert difference == pytest.approx(0.01)


def test_aotinductor_package_of_a_gpu_is_bound_to_it(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.path("model").write_text("3.0")
    bench.torch.has_gpu = True
    bench.build("aotinductor")
    assert bench.json("info")["arch"] == "sm_90"

    bench.torch.has_gpu = False
    assert bench.use("check") == 3
    assert "is for arch sm_90, and here is arch cpu" in capsys.readouterr().err


def test_missing_builder_names_what_to_add(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> Any:
        raise ImportError("No module named 'tensorrt'")

    words = [f"--{name}={bench.path(name)}" for name in ("model", "engine", "info")]
    code = engine.main(["build", "--builder=tensorrt", *words], World(load=load, gpu=lambda: H100))

    assert code == 3
    assert "add TensorRT's wheel to the action's toolchain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"precisoin": []}', "has 'precisoin', which is no setting"),
        ('{"precision": ["fp12"]}', "precision: a list of fp32"),
        ('{"precision": "fp16"}', "precision: a list of fp32"),
        ('{"precision": ["fp16"], "strongly_typed": true}', "leave this out"),
        ('{"workspace_mib": 0}', "workspace_mib: a number"),
        ('{"optimization_level": 9}', "optimization_level: a number"),
        ('{"shapes": []}', "shapes: write an object"),
        ('{"shapes": {"x": {"min": [1]}}}', "shapes.x: write min, opt and max"),
        ('{"shapes": {"x": {"min": [1], "opt": [1, 2], "max": [1]}}}', "equally long"),
        ('{"shapes": {"x": {"min": [1], "opt": [true], "max": [1]}}}', "lists of sizes"),
        ('{"shapes": {"x": {"min": [2], "opt": [1], "max": [3]}}}', "opt is not between"),
        ('{"trtllm": {"a": 1}}', "trtllm: an object of text"),
        ('{"trtllm": {"output_dir": "x"}}', "leave it out"),
    ],
)
def test_wrong_configuration_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_settings(text)

    assert words in str(raised.value)


def test_script_stands_alone(tmp_path: Path) -> None:
    """It is an input file of an action: it must run without this package, by a bare Python."""
    source = Path(engine.__file__)
    (tmp_path / "engine.py").write_bytes(source.read_bytes())
    (tmp_path / "model").touch()
    words = [f"--{name}={tmp_path / name}" for name in ("model", "engine", "info")]

    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "engine.py", "build", "--builder", "tensorrt", *words],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "engine.py: this Python has no tensorrt" in done.stderr


def test_nothing_of_ours_imports_the_script() -> None:
    for package in ("armitage", "executor", "cas"):
        for path in (ROOT / package).rglob("*.py"):
            names = {
                node.module
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom) and node.module
            }
            assert not any(name.startswith("executor.isospin.builders") for name in names), path
