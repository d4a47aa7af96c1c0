"""What is told of a run (executor.account)."""

import signal

import pytest

from executor.account import ended_by, explain, with_network
from executor.cgroup import Usage
from executor.evidence import Evidence
from executor.options import ExecutorOptions
from executor.ports import NetworkUse
from executor.process import Ending
from executor.spec import EndedBy

OPTIONS = ExecutorOptions(memory_bytes=1 << 20, output_limit_bytes=10)
WHOLE = {"stdout": False, "stderr": False}


@pytest.mark.parametrize(
    ("ending", "usage", "by", "message"),
    [
        (Ending(3), Usage(), EndedBy.EXIT, ""),
        (Ending(137, signal=9), Usage(), EndedBy.SIGNAL, "killed by signal 9 (SIGKILL)"),
        (
            Ending(168, signal=40),
            Usage(),
            EndedBy.SIGNAL,
            "killed by signal 40 (a real-time signal)",
        ),
        (
            Ending(137, signal=9),
            Usage(out_of_memory=True),
            EndedBy.MEMORY,
            "a process was killed: out of memory (the limit is 1 MiB)",
        ),
        (
            Ending(153, signal=signal.SIGXFSZ),
            Usage(),
            EndedBy.LIMIT,
            f"killed: a file grew to the limit of {OPTIONS.file_bytes} bytes",
        ),
        (
            Ending(1),
            Usage(out_of_processes=True),
            EndedBy.LIMIT,
            "the limit of 4096 processes was reached",
        ),
        (
            Ending(2),
            Usage(out_of_memory=True),
            EndedBy.MEMORY,
            "a process was killed: out of memory (the limit is 1 MiB)",
        ),
        (
            Ending(0),
            Usage(out_of_memory=True),
            EndedBy.EXIT,
            "a process was killed: out of memory (the limit is 1 MiB)",
        ),
        (
            Ending(0),
            Usage(out_of_processes=True),
            EndedBy.EXIT,
            "the limit of 4096 processes was reached",
        ),
    ],
)
def test_what_ended_a_command_is_told(
    ending: Ending, usage: Usage, by: EndedBy, message: str
) -> None:
    assert ended_by(ending, usage) is by
    assert explain(ending, usage, WHOLE, None, OPTIONS) == message


def test_truncated_streams_and_refused_exchanges_are_named_after_it() -> None:
    use = NetworkUse("session", refused=("example.org: not declared",))

    said = explain(Ending(1, "first"), Usage(), {"stdout": False, "stderr": True}, use, OPTIONS)

    assert said == "first; stderr was truncated at 10 bytes; example.org: not declared"


def test_an_executor_without_evidence_has_none_of_the_network_either() -> None:
    use = NetworkUse("session", credentials=("forge",))

    assert with_network(None, use) is None
    assert with_network(Evidence(None), use) == Evidence(
        None, network_session="session", credentials=("forge",)
    )
