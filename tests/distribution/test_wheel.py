import subprocess
import sys
import venv
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from armitage.compiled import inspect
from armitage.version import version

ROOT = Path(__file__).parents[2]
COMPILED = [Path(name).with_suffix("").as_posix() for name in inspect().modules]
SUFFIX = EXTENSION_SUFFIXES[0]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_just_the_three_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.partition("/")[0] for name in names}
    assert tops == {"armitage", "cas", "executor", f"armitage-{version()}.dist-info"}
    assert "armitage/py.typed" in names
    assert {f"{name}{SUFFIX}" for name in COMPILED} <= set(names)
    assert "-py3-none-" not in wheel.name
    assert "armitage/_proto/build/bazel/remote/execution/v2/remote_execution_pb2.py" in names


def test_the_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Dependencies come from the present environment; the three packages only from the wheel."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    ours = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run(
        [*ours, "install", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True
    )
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    # A .pth file that starts with an underscored directory name would run our editable hook, too.
    code = f"import sys; sys.path.append({dependencies!r}); from armitage.cli.entry import main; "

    def run(arguments: str) -> str:
        done = subprocess.run(
            [str(python), "-P", "-c", f"{code} sys.exit(main({arguments}))"],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return done.stdout

    assert run("['--version']") == f"armitage {version()}\n"
    assert "[grpc]" in run("['config', 'show', '--storage', 'memory']")
    where = subprocess.run(
        [str(python), "-P", "-c", f"{code} import cas, executor; print(cas, executor)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.count(str(site)) == 2
    script = (tmp_path / "venv" / "bin" / "armitage").read_text()
    assert "from armitage.cli.entry import main" in script
