"""Compiles the modules that every call goes through, with mypyc, in place (decision 19).

    python hatch_modules.py                   compiles what has changed; nothing has: no time
    ARMITAGE_PURE=1 python hatch_modules.py   removes what was compiled

The Python stays the source, and runs as it is where there is no C compiler, Python.h or mypyc.
To have a module compiled, name its file or folder in MODULES.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODULES = (
    "armitage/canonical.py",
    "armitage/reapi/at_once.py",
    "armitage/transport/fast/connection.py",
    "armitage/transport/fast/link.py",
    "armitage/transport/http2",
    "armitage/transport/rpc",
)
"""Files, and folders of which every module is compiled, `__init__` apart."""
PACKAGES = ("armitage", "cas", "executor")
RECORD = Path("armitage/compiled.json")
"""Says what was compiled, and of which sources; armitage.compiled reads it."""
WORK = Path(".cache/compiled")
MYPY_FLAGS = ("--config-file=", "--follow-imports=silent", "--ignore-missing-imports")
OPT_LEVEL = "2"
C_FLAGS = ("-fPIC", "-fvisibility=hidden", "-fwrapv", "-DNDEBUG", "-Wno-error")
SUFFIX: str = sysconfig.get_config_var("EXT_SUFFIX")
HEADERS = Path(sysconfig.get_path("include"))


def host_compilers() -> list[str]:
    """The C compilers of this host, the one to use first."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return [found for name in names if name and (found := shutil.which(name))]


def build(root: Path) -> str:
    """Compiles below a checkout; answers why it could not, and then leaves nothing compiled."""
    problem = obstacle()
    if not problem:
        record = _record(root)
        if _is_made(root, record):
            return ""
        _remove(root)
        problem = _compile_apart(root)
        if not problem:
            made = json.loads((root / WORK / "made.json").read_text())
            text = json.dumps({**record, "made": made}, indent=1)
            (root / RECORD).write_text(text + "\n")
            return ""
    _remove(root)
    return problem


def obstacle() -> str:
    """Why nothing can be compiled here, with the remedy; empty if it can."""
    if os.environ.get("ARMITAGE_PURE"):
        return "ARMITAGE_PURE is set"
    if sys.implementation.name != "cpython":
        return f"mypyc compiles for CPython, not for {sys.implementation.name}"
    if not host_compilers():
        return "no C compiler; install gcc and libc6-dev"
    if not (HEADERS / "Python.h").exists():
        return f"no {HEADERS / 'Python.h'}; on Debian: apt-get install libpython3-dev"
    for name in ("mypyc", "setuptools"):
        if importlib.util.find_spec(name) is None:
            return f"no {name}; install what scripts/lock/build.txt lists"
    return ""


def made(root: Path) -> list[str]:
    """The files that were made, the record among them, relative to the checkout."""
    return [*_read(root).get("made", []), str(RECORD)]


def _read(root: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads((root / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return read


def _is_made(root: Path, record: dict[str, Any]) -> bool:
    there = _read(root)
    return there.get("key") == record["key"] and {
        str(path.relative_to(root)) for path in _outputs(root)
    } == set(there["made"])


def _outputs(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in (root / package).rglob(f"*{SUFFIX}")]


def _remove(root: Path) -> None:
    for path in (*_outputs(root), root / RECORD):
        path.unlink(missing_ok=True)


def _modules(root: Path) -> list[Path]:
    """Relative to the checkout."""
    found: set[Path] = set()
    for name in MODULES:
        given = root / name
        found |= set(given.glob("*.py")) if given.is_dir() else {given}
    return sorted(path.relative_to(root) for path in found if path.name != "__init__.py")


def _record(root: Path) -> dict[str, Any]:
    """What is compiled and of what: the modules, and those whose types and constants they use."""
    modules = _modules(root)
    sources = {*modules}.union(*(_imports(root, module) for module in modules))
    digests = {str(path): _digest((root / path).read_bytes()) for path in sorted(sources)}
    tools = [Path(__file__).read_bytes().decode(), version("mypy"), sys.version, SUFFIX]
    names = [str(path) for path in modules]
    return {
        "key": _digest(json.dumps([names, digests, tools, host_compilers()[0]]).encode()),
        "modules": names,
        "sources": digests,
    }


def _imports(root: Path, module: Path) -> set[Path]:
    """Those of our files that a module names in its imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((root / module).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {Path(name.replace(".", "/") + ".py") for name in names}
    return {path for path in files if path.parts[0] in PACKAGES and (root / path).is_file()}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _compile_apart(root: Path) -> str:
    """In a process of its own, since mypyc works in the current directory and exits on errors."""
    command = [sys.executable, str(Path(__file__).resolve()), "--compile"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()[-2000:] if done.returncode else ""


def _compile() -> None:
    """Generates C of the modules and compiles it, a file for each CPU at a time."""
    from mypyc.build import mypycify

    for stale in ("c", "mypy"):
        shutil.rmtree(WORK / stale, ignore_errors=True)
    files = [str(path) for path in _modules(Path())]
    groups = [
        ([file for file in files if file.startswith(f"{package}/")], f"{package}._compiled")
        for package in PACKAGES
    ]
    extensions = mypycify(
        [*MYPY_FLAGS, f"--cache-dir={WORK / 'mypy'}", *files],
        opt_level=OPT_LEVEL,
        debug_level="0",
        multi_file=True,
        separate=[(group, name) for group, name in groups if group],
        target_dir=str(WORK / "c"),
    )
    folders = [HEADERS, WORK / "c", *(WORK / "c" / package for package in PACKAGES)]
    jobs = []
    for extension in extensions:
        flags = [*extension.extra_compile_args, *C_FLAGS]
        flags += [f"-I{folder}" for folder in (*folders, *extension.include_dirs)]
        jobs += [(Path(source), flags) for source in extension.sources]
    objects = _objects(jobs)
    made = [_link(each.name, [objects[Path(name)] for name in each.sources]) for each in extensions]
    (WORK / "made.json").write_text(json.dumps(sorted(made)))


def _objects(jobs: Iterable[tuple[Path, list[str]]]) -> dict[Path, Path]:
    """Compiles C; what was compiled before is kept, under a name made of all that it depends on."""
    kept = WORK / "objects"
    kept.mkdir(parents=True, exist_ok=True)
    compiler = host_compilers()[0]
    headers = b"".join(path.read_bytes() for path in sorted((WORK / "c").rglob("*.h")))
    tools = f"{compiler} {version('mypy')} {sys.version} {_digest(headers)}"

    def compiled(job: tuple[Path, list[str]]) -> tuple[Path, Path]:
        source, flags = job
        name = _digest(f"{tools} {source} {flags} ".encode() + source.read_bytes())
        target = kept / f"{name}.o"
        if not target.exists():
            part = target.with_suffix(f".{os.getpid()}")
            subprocess.run([compiler, "-c", *flags, "-o", str(part), str(source)], check=True)
            part.replace(target)
        return source, target

    # The largest first, or it would be waited for alone.
    ordered = sorted(dict(jobs).items(), key=_size, reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = dict(pool.map(compiled, ordered))
    for old in set(kept.iterdir()) - set(objects.values()):
        old.unlink()
    return objects


def _size(job: tuple[Path, list[str]]) -> int:
    return job[0].stat().st_size


def _link(module: str, objects: list[Path]) -> str:
    target = Path(module.replace(".", "/") + SUFFIX)
    part = target.with_suffix(f".{os.getpid()}")
    command = [host_compilers()[0], "-shared", "-s", "-o", str(part), *map(str, objects)]
    subprocess.run(command, check=True)
    part.replace(target)  # One that is loaded cannot be written to.
    return str(target)


if __name__ == "__main__":
    if sys.argv[1:] == ["--compile"]:
        _compile()
    else:
        told = build(Path(__file__).resolve().parent)
        sys.exit(None if os.environ.get("ARMITAGE_PURE") else told or None)
