"""engine.py and the real TensorRT's Python modules: every name that it takes is there.

They load without a GPU: in the place of TensorRT's own libraries, some gigabytes, are functions
that do nothing. So nothing is built here.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from executor.isospin.builders import engine

CACHE = Path(__file__).parents[4] / ".cache" / "e2e"
TYPES = {
    "trt": "",
    "self._trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
    "network.get_input(n)": "ITensor",
    "config.get_timing_cache()": "ITimingCache",
}
"""By the expressions of engine.py; "" is the module itself."""
OURS = {"__version__"}
"""Given by the package around the module that is loaded here."""
ABSENT = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)
TELL = """
import importlib.util, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
trt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trt)
names = {"": dir(trt)}
for name in dir(trt):
    if isinstance(getattr(trt, name), type):
        names[name] = dir(getattr(trt, name))
print(json.dumps(names))
"""


def names_used() -> list[tuple[str, str]]:
    """The names that engine.py takes of TensorRT, each with the type that must have it."""
    tree = ast.parse(Path(engine.__file__).read_text())
    (builder,) = (
        one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "TensorRt"
    )
    found = {
        (TYPES[ast.unparse(node.value)], node.attr)
        for node in ast.walk(builder)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in TYPES
    }
    # Of the module, what belongs to an enumeration: `trt.MemoryPoolType.WORKSPACE`.
    found |= {
        (node.value.attr, node.attr)
        for node in ast.walk(builder)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and ast.unparse(node.value.value) == "trt"
    }
    return sorted(one for one in found if one[1] not in OURS)


@pytest.fixture(scope="module", params=["tensorrt10", "tensorrt11"])
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """The names of a real module, and of each of its types."""
    home = CACHE / request.param
    modules = list(home.glob("lib/python*/site-packages/tensorrt_bindings/tensorrt.so"))
    if not modules:
        pytest.skip(f"{request.param} is not there: run tests/e2e/prepare")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt-get install gcc libc6-dev")
    place = tmp_path_factory.mktemp(request.param)
    source = place / "absent.c"
    source.write_text("".join(f"void {one}(void) {{}}\n" for one in ABSENT))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{request.param.removeprefix('tensorrt')}"
        output = str(place / name)
        subprocess.run(
            [compiler, "-shared", "-o", output, source, f"-Wl,-soname,{name}"], check=True
        )
    told = subprocess.run(
        [home / "bin" / "python", "-c", TELL, modules[0]],
        env={**os.environ, "LD_LIBRARY_PATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    names: dict[str, list[str]] = json.loads(told.stdout)
    return names


def test_every_name_that_is_used_is_in_tensorrt(real: dict[str, list[str]]) -> None:
    used = names_used()

    assert len(used) > 25
    assert [f"{of}.{name}" for of, name in used if name not in real[of]] == []


def test_precisions_are_flags_of_tensorrt_10_and_only_tf32_of_11(
    real: dict[str, list[str]],
) -> None:
    flags = [one for one in engine.PRECISIONS if one.upper() in real["BuilderFlag"]]

    is_ten = "EXPLICIT_BATCH" in real["NetworkDefinitionCreationFlag"]
    assert flags == (["tf32", "fp16", "bf16", "fp8", "int8"] if is_ten else ["tf32"])
