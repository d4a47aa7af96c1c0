"""`armitage conformance` as its user sees it."""

import json
from collections.abc import Iterator

import pytest
from support.conformance import INSTANCE, conformance_daemon

from armitage.cli.entry import main
from armitage.conformance import CASES


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with conformance_daemon(tmp_path_factory.mktemp("command") / "daemon") as daemon:
        yield daemon.url


def test_list_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CASES)
    assert "FindMissingBlobs answers exactly the absent digests" in lines[4]


def test_cases_of_a_range_are_run_and_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", url, "--instance", INSTANCE, "--only", "5-7,21"]) == 0

    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "4 cases: 4 pass"


def test_json_is_json_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", url, "--instance", INSTANCE, "--only", "5", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert [result["number"] for result in document["results"]] == [5]


def test_failure_shows_in_the_exit_code(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A platform that no worker has fails the very first action.
    code = main(
        ["conformance", url, "--instance", INSTANCE, "--only", "67", "--platform", "OSFamily=none"]
    )

    assert code == 1
    assert "1 fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only", "999"], "no case has the number 999"),
        (["--only", "five"], "five"),
        (["--concurrency", "0"], "not a number above 0"),
        (["--level", "maybe"], "maybe"),
        (["--platform", "x"], "KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", "grpc://127.0.0.1:1", *flags]) == 2

    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_no_server_is_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "grpc://127.0.0.1:1", "--only", "5"]) == 4

    assert "no answer" in capsys.readouterr().err


def test_an_unknown_instance_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", url, "--instance", "none", "--only", "5"]) == 1

    assert "'none'" in capsys.readouterr().err
