"""Who may import whom (docs/architecture.md, "Rings")."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = {
    "cas": {"cas", "blake3"},
    "executor": {"executor", "cas"},
}
OWN_FILE = {
    "compression.py": {"backports", "compression", "brotli", "zstandard"},
    "chunking.py": {"pyfastcdc"},
    "nvml.py": {"pynvml"},
    "program.py": {"wasmtime"},
    "determinism.py": {"wasmtime"},
    "interfaces.py": {"wasmtime"},
    "s3.py": {"obstore"},
}
CORES = [
    "cas/eviction.py",
    "cas/digest.py",
    "cas/objects.py",
    "cas/recollection.py",
    "cas/retry.py",
    "executor/layers.py",
    "executor/spec.py",
    "executor/isospin/device.py",
    "executor/isospin/pool.py",
    "armitage/canonical.py",
    "armitage/log/merkle.py",
    "armitage/log/note.py",
    "armitage/log/checkpoint.py",
    "armitage/log/tiles.py",
    "armitage/log/receipt.py",
    *(
        f"armitage/attest/{name}.py"
        for name in ("canonical", "claim", "dsse", "entries", "facts", "statement")
    ),
    "armitage/trust/evaluate.py",
    "armitage/trust/policy.py",
    "armitage/scheduler/core.py",
    "armitage/scheduler/events.py",
    "armitage/scheduler/platforms.py",
    "armitage/scheduler/queue.py",
    *(
        path.relative_to(ROOT).as_posix()
        for package in ("http2", "rpc")
        for path in sorted((ROOT / "armitage/transport" / package).glob("*.py"))
    ),
]
NO_IO = {"asyncio", "socket", "ssl", "os", "time", "random", "subprocess", "grpc", "aiohttp"}
COMPOSITION = {"armitage.daemon", "armitage.config", "armitage.cli"}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(package: str) -> list[Path]:
    return [p for p in (ROOT / package).rglob("*.py") if "_proto" not in p.parts]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_lies_below(package: str) -> None:
    for path in sources(package):
        allowed = PACKAGES[package] | OWN_FILE.get(path.name, set())
        tops = {name.partition(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
        assert tops <= allowed, f"{path} imports {tops - allowed}"


@pytest.mark.parametrize("core", CORES)
def test_core_does_no_io(core: str) -> None:
    tops = {name.partition(".")[0] for name in imports_of(ROOT / core)}
    assert not tops & NO_IO


def test_only_the_grpcio_adapter_and_clients_know_grpc() -> None:
    for path in sources("armitage"):
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith(("armitage/transport/grpcio", "armitage/client/")):
            continue
        tops = {name.partition(".")[0] for name in imports_of(path)}
        assert "grpc" not in tops, relative


def test_only_the_composition_root_is_above_the_rest() -> None:
    for path in sources("armitage"):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if any(module == top or module.startswith(top + ".") for top in COMPOSITION):
            continue
        assert not imports_of(path) & COMPOSITION, module


def test_packages_import_from_elsewhere(tmp_path: Path) -> None:
    """The installed packages are ours, not PyPI's `cas` and `executor` (docs/architecture.md,
    "Names").
    """
    code = (
        "import armitage, cas, executor; print(armitage.__file__, cas.__file__, executor.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len({Path(f).parents[1] for f in done.stdout.split()}) == 1
