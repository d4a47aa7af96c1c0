import subprocess
import sys

import pytest
from support.command_line import Cli

from armitage.version import version

HEAVY = ("grpc", "google.protobuf", "aiohttp", "prometheus_client", "blake3", "cas", "executor")


def test_version_is_the_installed_one(armitage: Cli) -> None:
    done = armitage("--version")

    assert (done.code, done.out, done.err) == (0, f"armitage {version()}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "armitage: the following arguments are required: COMMAND; see armitage --help\n"),
        (["cas"], "armitage cas: the following arguments are required: COMMAND; see armitage cas "),
        (["cas", "stat"], "armitage cas stat: the following arguments are required: DIGEST; see "),
        (
            ["cas", "stat", "--jsno", "x"],
            "armitage cas stat: unrecognized arguments: --jsno; see armitage cas stat --help\n",
        ),
        (["status", "--serv", "x"], "armitage status: unrecognized arguments: --serv x; see "),
        (["status", "--digest-function", "md5"], "armitage status: argument --digest-function: "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    armitage: Cli, arguments: list[str], message: str
) -> None:
    done = armitage(*arguments)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from armitage.cli.entry import main\n"
        "main(['run', '--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stderr == "[]\n"


def test_an_error_of_ours_asks_for_a_report_without_a_traceback(
    armitage: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("our mistake")

    monkeypatch.setattr("executor.probe.probe", broken)

    done = armitage("doctor")
    debugged = armitage("--debug", "doctor")

    assert done.code == debugged.code == 70
    assert done.err.startswith("armitage: internal error: RuntimeError: our mistake; please report")
    assert "Traceback" not in done.err
    assert "Traceback" in debugged.err


def test_nothing_is_said_to_a_reader_that_left() -> None:
    code = (
        "import sys\nfrom armitage.cli.entry import main\nsys.exit(main(['conformance', '--list']))"
    )
    done = subprocess.run(
        f'set -o pipefail; {sys.executable} -P -c "{code}" | head -1',
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert done.stderr == ""
