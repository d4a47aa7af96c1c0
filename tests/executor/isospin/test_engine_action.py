"""engine.py as it is meant to run: sandboxed, with a lease, its outputs the next action's inputs.

PyTorch is made up and sees no GPU, and the leased device has no nodes; all else is real.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.executing import Bench, JsonCodec, Seen, Tree, put_tree, sandbox_missing
from support.gpus import Shelf, gpu

from armitage.clock import SystemClock
from cas.digest import DigestFunction
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, GpuGrant
from executor.errors import DevicesUnavailable
from executor.isospin.builders import engine
from executor.isospin.leasing import GpuLeases, GpuOptions, LeasingExecutor
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.spec import Outcome, OutputRequest, Work

MISSING = sandbox_missing()
PYTHON = "/usr/bin/python3"
TORCH = b"""
__version__ = "2.11.0"
class cuda:
    is_available = staticmethod(lambda: False)
class _Program:
    def __init__(self, path):
        self.factor = float(open(path).read())
"""
EXPORT = b"from torch import _Program as load\n"
INDUCTOR = b"""
def aoti_compile_and_package(program, package_path):
    assert package_path.endswith(".pt2")
    open(package_path, "w").write(f"compiled {program.factor}")
    return package_path
def aoti_load_package(path):
    assert path.endswith(".pt2")
    assert open(path).read().startswith("compiled ")
"""

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason=f"the sandbox would show no {PYTHON}"),
]


def tree(**more: bytes) -> Tree:
    torch: Tree = {
        "__init__.py": TORCH,
        "export.py": EXPORT,
        "_inductor": {"__init__.py": INDUCTOR},
    }
    script = Path(engine.__file__).read_bytes()
    return {"engine.py": script, "torch": torch, "model.pt2": b"3.0", **more}


async def run(bench: Bench, tree: Tree, *words: str, platform: dict[str, str]) -> Outcome:
    names = ("engine", "engine.json", "log")
    work = Work(
        name="engine",
        digest_function=DigestFunction.SHA256,
        input_root=await put_tree(bench.store, tree),
        arguments=(PYTHON, "engine.py", *words),
        outputs=tuple(OutputRequest(name) for name in names),
        platform=tuple(platform.items()),
        coeffects=Coeffects(gpu=GpuGrant(sm=90)),
    )
    return await bench.executor.execute(work, Seen())


async def test_engine_is_built_under_a_lease_and_loads_in_the_next_action(tmp_path: Path) -> None:
    store = MemoryStore()
    options = ExecutorOptions(scratch=tmp_path / "scratch", max_timeout_s=60)
    namespace = NamespaceExecutor(store, JsonCodec(), options, SystemClock().wall)
    leases = GpuLeases(Shelf(gpu("a", nodes=(), files=())), GpuOptions())
    await leases.refresh()
    bench = Bench(LeasingExecutor(namespace, leases), store, tmp_path / "scratch", BUILD_ROOT)
    build = (
        *("build", "--builder=aotinductor", "--model=model.pt2", "--engine=engine"),
        *("--info=engine.json", "--log=log", "--version=2.11.0"),
    )
    check = ("check", "--engine=engine", "--info=engine.json")

    made = await run(bench, tree(), *build, platform={"gpu-arch": "sm_90"})
    assert made.exit_code == 0, await bench.errors(made)
    outputs = {file.path: await store.get(file.digest) for file in made.files}
    assert json.loads(outputs["engine.json"])["version"] == "2.11.0"
    assert b"compiled" in outputs["log"]
    assert made.evidence is not None
    assert [one.uuid for one in made.evidence.gpus] == ["a"]

    outputs.pop("log")
    loaded = await run(bench, tree(**outputs), *check, platform={})
    assert loaded.exit_code == 0, await bench.errors(loaded)

    spoilt = {**outputs, "engine": b"compiled elsewhere"}
    refused = await run(bench, tree(**spoilt), *check, platform={})
    assert refused.exit_code == 3
    assert "is not the engine that" in await bench.errors(refused)

    with pytest.raises(DevicesUnavailable, match="architecture sm_80"):
        await run(bench, tree(), *build, platform={"gpu-arch": "sm_80"})
    await leases.close()
    await namespace.close()
