"""What is compiled is told, and nothing runs that was compiled of other sources."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from support.pure import Sources

from armitage.compiled import Compiled, inspect
from armitage.errors import ConfigError

ROOT = Path(__file__).parents[2]
SUFFIX = EXTENSION_SUFFIXES[0]
BODY = b"answer = 42\n"


def compiled(root: Path) -> Path:
    """A package with one module, as compilation leaves it."""
    package = root / "armitage"
    package.mkdir()
    (package / "hot.py").write_bytes(BODY)
    (package / f"hot{SUFFIX}").touch()
    record = {
        "modules": ["armitage/hot.py"],
        "sources": {"armitage/hot.py": sha256(BODY).hexdigest()},
        "made": [f"armitage/hot{SUFFIX}"],
    }
    (package / "compiled.json").write_text(json.dumps(record))
    return package


def test_python_alone_is_never_stale(tmp_path: Path) -> None:
    assert inspect(tmp_path) == Compiled((), ())


def test_what_was_compiled_of_these_sources_is_fresh(tmp_path: Path) -> None:
    compiled(tmp_path)

    found = inspect(tmp_path)

    found.check()
    assert found == Compiled(("armitage/hot.py",), ())


def test_an_edited_or_removed_source_is_stale(tmp_path: Path) -> None:
    source = compiled(tmp_path) / "hot.py"
    source.write_bytes(BODY + b" ")
    edited = inspect(tmp_path)
    source.unlink()
    removed = inspect(tmp_path)

    assert edited.stale == removed.stale == ("armitage/hot.py",)
    with pytest.raises(ConfigError, match=r"armitage/hot\.py; python hatch_modules\.py compiles"):
        edited.check()


def test_an_extension_that_the_record_does_not_have_is_stale(tmp_path: Path) -> None:
    package = compiled(tmp_path)
    (package / f"odd{SUFFIX}").touch()
    odd = inspect(tmp_path)
    (package / "compiled.json").unlink()
    unrecorded = inspect(tmp_path)

    assert odd.stale == (f"armitage/odd{SUFFIX}",)
    assert unrecorded.stale == (f"armitage/hot{SUFFIX}", f"armitage/odd{SUFFIX}")


@pytest.mark.skipif("ARMITAGE_PURE" in os.environ, reason="ARMITAGE_PURE is set")
def test_the_modules_of_this_checkout_are_compiled() -> None:
    if not inspect().modules:
        pytest.skip("apt-get install gcc libpython3-dev, then python hatch_modules.py")
    code = "import armitage.transport.rpc.server as hot; print(hot.__file__)"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout.endswith(f"armitage/transport/rpc/server{SUFFIX}\n")


def test_the_tests_can_choose_python() -> None:
    spec = Sources().find_spec(
        "armitage.transport.rpc.server", [str(ROOT / "armitage/transport/rpc")]
    )

    assert spec is not None
    assert spec.origin == str(ROOT / "armitage/transport/rpc/server.py")
