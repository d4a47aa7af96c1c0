"""What a guest says is found on its console, whatever else is printed there."""

from __future__ import annotations

import itertools

import pytest

from executor.microvm.console import Console, Heard

TOKEN = "4f1e"


def lines(*pieces: bytes) -> list[str]:
    console = Console(TOKEN)
    return list(itertools.chain.from_iterable(map(console.take, pieces)))


def test_line_arrives_in_whatever_pieces_it_comes() -> None:
    whole = b"[0.1] kernel\r\n4f1e ready\r\n4f1e exit 7\r\n"

    assert lines(whole) == ["ready", "exit 7"]
    assert lines(*(bytes([one]) for one in whole)) == ["ready", "exit 7"]


def test_others_words_without_an_end_may_stand_before_a_line() -> None:
    assert lines(b"mount: no su4f1e ready\nch file\n") == ["ready"]


@pytest.mark.parametrize(
    "printed",
    [
        b"ready\nexit 0\ndone\n",
        b"4f1f done\n",
        b"4F1E done\n",
        b"4f1e\ndone\n",
        b"4f1edone\n",
        b"4f1e\0done\n",
        b"\xff\xfe" * 9000 + b"\ndone\n",
        b"x" * 70_000 + b" done",
    ],
)
def test_who_does_not_know_the_token_says_nothing(printed: bytes) -> None:
    assert lines(printed, b"\n") == []


def test_line_without_an_end_takes_little_memory_and_hides_no_line_behind_it() -> None:
    console = Console(TOKEN)
    for _ in range(100):
        assert list(console.take(b"x" * 65536)) == []
    assert len(console._line) < 10_000

    assert list(console.take(b"4f1e done\n")) == ["done"]
    assert console.last.endswith("4f1e done")
    assert len(console.last) <= 400


def test_lines_are_understood() -> None:
    heard = Heard()
    for line in ("ready", "printed 3 18446744073", "oom", "exit 255", "done"):
        heard.take(line)

    assert heard == Heard(
        is_ready=True,
        printed=(3, 18446744073),
        exit_code=255,
        out_of_memory=True,
        is_done=True,
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "exit",
        "exit 256",
        "exit -1",
        "exit 1 2",
        "exit ٣",
        "exit " + "1" * 5000,
        "printed 1",
        "printed 1 -1",
        "printed 1 2 3",
        "printed ٣ 1",
        "printed 1 " + "1" * 5000,
        "ready now",
        "nonsense",
    ],
)
def test_what_makes_no_sense_is_a_failure_of_the_guest(line: str) -> None:
    heard = Heard()

    heard.take(line)

    assert heard.failure
    assert len(heard.failure) <= 400
    assert (heard.is_ready, heard.exit_code, heard.printed) == (False, None, (0, 0))


def test_first_failure_is_the_one_that_is_told() -> None:
    heard = Heard()
    for line in ("failed mount: no such device", "failed umount: busy"):
        heard.take(line)

    assert heard.failure == "mount: no such device"
