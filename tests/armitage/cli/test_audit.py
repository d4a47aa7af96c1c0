"""`armitage audit`, over a directory, and over a daemon that has one open."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.command_line import Cli
from support.daemon import DaemonProcess, daemon_process
from support.records import Fetch, hash_of, record

from armitage.audit.source import ArchiveSource
from armitage.cli import audit_verify
from armitage.clock import SystemClock
from armitage.witness.archive import Archive, open_archive

WHEEL = hash_of(b"wheel")


async def _keep(directory: Path) -> None:
    async with record(directory) as kept:
        await kept.session(
            Fetch("https://pypi.example/simple/a/", b"index"),
            Fetch("https://files.example/a.whl", b"wheel"),
            Fetch("https://evil.example/\x1b[2J", None, None, allowed=False, rule="undeclared"),
            action="ab" * 32,
            identity="CN=ci",
            invocation="monday",
        )
        await kept.session(Fetch("https://pypi.example/simple/a/", b"=index"), invocation="tuesday")


@pytest.fixture(scope="module")
def record_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept") / "record"
    asyncio.run(_keep(directory))
    return directory


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("audited")
    asyncio.run(_keep(directory / "data" / "record"))
    with daemon_process(directory, "--accept-unsandboxed") as running:
        yield running


@pytest.fixture(params=["directory", "server", "directory of a daemon"])
def where(request: pytest.FixtureRequest) -> list[object]:
    """The same record, reached in each way."""
    if request.param == "directory":
        return ["--data-dir", request.getfixturevalue("record_dir")]
    daemon = request.getfixturevalue("asked")
    if request.param == "server":
        return ["--server", daemon.http]
    return ["--data-dir", daemon.log.parent / "data"]


def test_each_way_to_the_record_answers_the_same(armitage: Cli, where: list[object]) -> None:
    listed = armitage("audit", "log", *where).out.splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["LOG", "STATUS"],
        ["1", "200"],
        ["2", "200"],
        ["3", "refused"],
        ["6", "200"],
    ]
    shown = json.loads(armitage("audit", "show", 2, *where).out)
    assert shown["record"]["url"] == "https://files.example/a.whl"
    assert armitage("audit", "verify", *where).out.endswith(
        "8 entries, 4 exchanges, 3 bodies with 16 B: all as it was signed\n"
    )
    why = armitage("audit", "why", WHEEL, *where)
    assert why.out.splitlines()[:3] == [
        f"artefact {WHEEL}",
        "  fetched by GET https://files.example/a.whl  (fetched (200))  [entry 2]",
        f"    asked for by action {'ab' * 32}  (CN=ci)",
    ]
    diff = armitage("audit", "diff", "monday", "tuesday", *where)
    assert diff.code == 1
    assert diff.out.endswith("0 requests alike, 3 not\n")


def test_filters_narrow_what_is_listed(armitage: Cli, record_dir: Path) -> None:
    def found(*flags: object) -> list[int]:
        done = armitage("audit", "log", "--json", "--data-dir", record_dir, *flags)
        return [row["index"] for row in json.loads(done.out)]

    assert found("--host", "*.example", "--limit", 2) == [3, 6]
    assert found("--refused") == [3]
    assert found("--digest", WHEEL[:8]) == [2]
    assert found("--action", "ab" * 32) == [1, 2, 3]
    assert found("--invocation", "tuesday", "--kind", "any") == [5, 6, 7]
    assert found("--before", 3, "--text", "simple") == [1]
    assert found("--since", "2030-01-01") == []


def test_older_entries_are_pointed_at(armitage: Cli, record_dir: Path) -> None:
    done = armitage("audit", "log", "--data-dir", record_dir, "--limit", 2)

    assert done.err == "armitage: there are older ones; --before 3 lists them\n"


def test_a_hostile_url_cannot_steer_the_terminal(armitage: Cli, record_dir: Path) -> None:
    for command in (["log"], ["diff", "monday", "tuesday"], ["why", "abab"]):
        out = armitage("audit", *command, "--data-dir", record_dir).out
        assert "\x1b" not in out
        assert "evil.example/\\x1b[2J" in out


def test_an_export_has_every_match(armitage: Cli, record_dir: Path, tmp_path: Path) -> None:
    lines = armitage("audit", "export", "--data-dir", record_dir, "--kind", "any").out.splitlines()
    armitage(
        *("audit", "export", "--format", "csv", "--output", "out.csv", "--data-dir", record_dir)
    )

    assert [json.loads(line)["index"] for line in lines] == list(range(8))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["index"] for row in rows] == ["1", "2", "3", "6"]
    assert rows[2]["url"] == "https://evil.example/\x1b[2J"


def test_a_spreadsheet_is_given_no_formulas() -> None:
    from armitage.cli.audit import _cell

    assert [_cell(value) for value in ("=1", "@x", "-", "https://a", 7)] == [
        *("'=1", "'@x", "'-", "https://a", 7)
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["log", "--since", "soon"], 2, "--since: 'soon' is no time"),
        (["log", "--digest", "x"], 2, "--digest: 'x' is no hash"),
        (["show", "99"], 1, "the record has 8 entries, none at 99"),
        (["why", "0000"], 1, "nothing on record names 0000"),
        (["diff", "monday", "never"], 1, "'never' is no action, session or invocation"),
        (["verify", "--key", "x"], 2, "--key: 'x' is not a public key"),
    ],
)
def test_what_cannot_be_answered_says_why(
    armitage: Cli, where: list[object], arguments: list[str], code: int, message: str
) -> None:
    done = armitage("audit", *arguments, *where)

    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_another_log_than_the_auditors_is_not_verified(armitage: Cli, where: list[object]) -> None:
    armitage("key", "new", "log.example/record", "other.key")
    other = armitage("key", "show", "other.key").out.strip()

    done = armitage("audit", "verify", "--key", other, *where)

    assert (done.code, done.out) == (6, "")
    assert "the log cannot be verified" in done.err


def test_no_server_and_no_evidence_are_told_apart(armitage: Cli, tmp_path: Path) -> None:
    nobody = armitage("audit", "log", "--server", "http://127.0.0.1:1")
    nothing = armitage("audit", "log", "--data-dir", tmp_path)
    wrong = armitage("audit", "log", "--server", "grpc://127.0.0.1:8980")

    assert (nobody.code, nothing.code, wrong.code) == (4, 2, 2)
    assert "is the daemon running there?" in nobody.err
    assert "no evidence is kept there" in nothing.err
    assert "write http://HOST:PORT" in wrong.err


def test_two_records_by_default_are_told_apart(
    armitage: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("witness", "record"):
        directory = tmp_path / "armitage" / name
        directory.mkdir(parents=True)
        (directory / "log.key").write_text("")

    done = armitage("audit", "log")

    assert done.code == 2
    assert "name one of them with --data-dir" in done.err


def test_a_daemon_that_was_killed_is_not_asked(armitage: Cli, tmp_path: Path) -> None:
    asyncio.run(_keep(tmp_path / "record"))
    (tmp_path / "record" / "http").write_text("http://127.0.0.1:1\n")

    assert armitage("audit", "verify", "--data-dir", tmp_path).code == 0


def test_a_checkpoint_that_no_witness_cosigned_is_not_taken_for_one(
    armitage: Cli, where: list[object]
) -> None:
    armitage("key", "new", "--witness", "w.example", "w.key")
    witness = armitage("key", "show", "w.key").out.strip()

    done = armitage("audit", "verify", "--witness", witness, *where)

    assert (done.code, done.out) == (6, "")
    assert "0 of the known witnesses cosigned log.example/record, 1 are needed" in done.err


def test_logs_that_ended_are_verified_with_the_one_that_follows(
    armitage: Cli, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    asyncio.run(_keep(data / "record"))

    done = armitage("key", "rotate-log", "log.example/next", "--data-dir", data)
    same = armitage("key", "rotate-log", "log.example/next", "--data-dir", data)
    armitage("key", "rotate-log", "log.example/last", "--data-dir", data)
    here = armitage("audit", "verify", "--json", "--data-dir", data)
    with daemon_process(tmp_path, "--accept-unsandboxed") as running:
        there = armitage("audit", "verify", "--json", "--server", running.http)

    assert "log.example/record ended with 9 entries" in done.out
    assert (same.code, same.out) == (3, "")
    assert (here.code, there.code) == (0, 0)
    told = json.loads(here.out)
    assert told == json.loads(there.out)
    logs = [told, *told["past"]]
    assert [(log["log"], log["entries"]) for log in logs] == [
        ("log.example/last", 1),
        ("log.example/next", 2),
        ("log.example/record", 9),
    ]
    assert logs[2]["bodies"] == 3


def test_a_log_that_ended_has_to_be_whole_and_the_one_that_is_followed(
    armitage: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_keep(tmp_path / "record"))
    asyncio.run(_keep(tmp_path / "other" / "record"))
    cut = (tmp_path / "record" / "log" / "checkpoint").read_bytes()
    armitage("key", "rotate-log", "log.example/next", "--data-dir", tmp_path / "record")

    class Cut(ArchiveSource):
        """Keeps back how the log ended."""

        async def checkpoint(self) -> bytes:
            return cut

    def answering(lie: Callable[[Archive, Archive], ArchiveSource]) -> Cli:
        @asynccontextmanager
        async def sources(_: object) -> AsyncIterator[list[ArchiveSource]]:
            clock = SystemClock()
            async with (
                open_archive(tmp_path / "record", "", clock) as kept,
                open_archive(tmp_path / "other" / "record", "", clock) as other,
            ):
                yield [ArchiveSource(kept), lie(kept, other)]

        monkeypatch.setattr(audit_verify, "open_sources", sources)
        return armitage

    short = answering(lambda kept, _: Cut(kept, kept.past.logs[0]))("audit", "verify")
    another = answering(lambda _, other: ArchiveSource(other))("audit", "verify")

    assert short.code == 1
    assert "FAULT  ends in another way than the log that follows it says" in short.out
    assert (another.code, another.out) == (6, "")
    assert "the log cannot be verified" in another.err


def test_a_log_before_that_is_not_there_is_named(armitage: Cli, tmp_path: Path) -> None:
    asyncio.run(_keep(tmp_path / "record"))
    armitage("key", "rotate-log", "log.example/next", "--data-dir", tmp_path)
    shutil.rmtree(tmp_path / "record" / "past" / "0001")

    done = armitage("audit", "verify", "--data-dir", tmp_path)

    assert done.code == 0
    assert (
        "log.example/next follows log.example/record, which was not there to be verified"
        in done.err
    )
