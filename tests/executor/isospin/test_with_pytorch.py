"""engine.py with the real PyTorch, in a sandbox and under a lease: a program becomes a package for
the GPU, or for the processor, and gives the numbers of eager execution.

For the processor the leased device is made up, and has no nodes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import pytorch
from support.executing import Bench, JsonCodec, Seen, Tree, put_tree, sandbox_missing
from support.gpus import Shelf, gpu

from armitage.clock import SystemClock
from cas.digest import DigestFunction
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, GpuGrant
from executor.errors import DevicesUnavailable
from executor.isospin.builders import engine
from executor.isospin.device import Device
from executor.isospin.leasing import GpuLeases, GpuOptions, LeasingExecutor
from executor.isospin.nvml import NvmlDiscovery, load_nvml
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.spec import Outcome, OutputRequest, Work

MISSING = sandbox_missing() or pytorch.MISSING
SCRIPT = Path(engine.__file__).read_bytes()
NO_NODES = gpu("stand-in", nodes=(), files=())

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(params=["processor", "gpu"])
def device(request: pytest.FixtureRequest) -> Device:
    if request.param == "processor":
        return NO_NODES
    try:
        return next(one for one in NvmlDiscovery(load_nvml()).find() if not one.fault)
    except (DevicesUnavailable, StopIteration) as error:
        pytest.skip(f"there is no GPU: {error}")


@pytest.fixture
async def bench(device: Device, tmp_path: Path) -> AsyncIterator[Bench]:
    store = MemoryStore()
    options = ExecutorOptions(
        scratch=tmp_path / "scratch", memory_bytes=16 << 30, toolchain=pytorch.toolchain()
    )
    namespace = NamespaceExecutor(store, JsonCodec(), options, SystemClock().wall)
    leases = GpuLeases(Shelf(device), GpuOptions())
    await leases.refresh()
    yield Bench(LeasingExecutor(namespace, leases), store, tmp_path / "scratch", BUILD_ROOT)
    await leases.close()
    await namespace.close()


async def run(bench: Bench, tree: Tree, *words: str, outputs: tuple[str, ...] = ()) -> Outcome:
    work = Work(
        name="engine",
        digest_function=DigestFunction.SHA256,
        input_root=await put_tree(bench.store, tree),
        arguments=(pytorch.PYTHON, "-I", *words),
        environment=(("HOME", "/tmp"), ("PATH", "/usr/bin:/bin")),
        outputs=tuple(map(OutputRequest, outputs)),
        coeffects=Coeffects(gpu=GpuGrant()),
    )
    outcome = await bench.executor.execute(work, Seen())
    assert outcome.exit_code == 0, await bench.errors(outcome)
    return outcome


async def test_package_gives_the_numbers_of_eager_execution(bench: Bench, device: Device) -> None:
    made = await run(
        bench, {"make.py": pytorch.SAVE_MODEL.encode()}, "make.py", outputs=("model.pt2",)
    )
    model = await bench.store.get(made.files[0].digest)

    build = ("engine.py", "build", "--builder=aotinductor", "--model=model.pt2", "--engine=engine")
    built = await run(
        bench,
        {"engine.py": SCRIPT, "model.pt2": model},
        *(*build, "--info=engine.json", "--log=log"),
        outputs=("engine", "engine.json"),
    )
    files = {one.path: await bench.store.get(one.digest) for one in built.files}
    info = json.loads(files["engine.json"])
    is_gpu = device is not NO_NODES
    assert (info["arch"], info["driver"]) == (
        (f"sm_{device.sm}", device.driver) if is_gpu else ("cpu", "")
    )
    assert built.evidence is not None
    assert [one.uuid for one in built.evidence.gpus] == [device.uuid]

    words = ("engine.py", "compare", "--engine=engine", "--info=engine.json", "--model=model.pt2")
    compared = await run(
        bench, {"engine.py": SCRIPT, "model.pt2": model, **files}, *words, "--tolerance=1e-3"
    )
    said = json.loads(await bench.store.get(compared.stdout))
    assert 0 <= said["greatest_relative_difference"] <= 1e-3
