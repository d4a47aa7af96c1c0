"""What is told of a run that came to its own end. Sans I/O."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace

from executor.cgroup import Usage
from executor.evidence import Evidence
from executor.options import ExecutorOptions
from executor.ports import NetworkUse
from executor.process import Ending
from executor.spec import EndedBy, ResourceUse


def ended_by(ending: Ending, usage: Usage) -> EndedBy:
    """Answers what ended the command. What it coped with, such as the death of a child of its that
    took too much memory, has not.
    """
    if ending.exit_code == 0:
        return EndedBy.EXIT
    if usage.out_of_memory:
        return EndedBy.MEMORY
    if ending.is_over_limit or ending.signal == signal.SIGXFSZ or usage.out_of_processes:
        return EndedBy.LIMIT
    return EndedBy.EXIT if ending.signal is None else EndedBy.SIGNAL


def explain(
    ending: Ending,
    usage: Usage,
    is_truncated: Mapping[str, bool],
    use: NetworkUse | None,
    options: ExecutorOptions,
) -> str:
    """Answers what a person has to be told; `is_truncated` goes by the name of a stream."""
    notes = [ending.message] if ending.message else []
    if usage.out_of_memory:
        limit = (options.memory_bytes or 0) >> 20
        notes.append(f"a process was killed: out of memory (the limit is {limit} MiB)")
    elif ending.signal == signal.SIGXFSZ:
        notes.append(f"killed: a file grew to the limit of {options.file_bytes} bytes")
    elif ending.signal is not None:
        notes.append(f"killed by signal {ending.signal} ({_signal_name(ending.signal)})")
    if usage.out_of_processes:
        notes.append(f"the limit of {options.processes} processes was reached")
    for stream, truncated in is_truncated.items():
        if truncated:
            notes.append(f"{stream} was truncated at {options.output_limit_bytes} bytes")
    return "; ".join((*notes, *(use.refused if use else ())))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"


def resources(wall_s: float, usage: Usage) -> ResourceUse:
    """Answers what the command used."""
    return ResourceUse(
        wall_s=wall_s,
        cpu_s=usage.cpu_s,
        peak_memory_bytes=usage.peak_memory_bytes,
        read_bytes=usage.read_bytes,
        written_bytes=usage.written_bytes,
    )


def with_network(evidence: Evidence | None, use: NetworkUse | None) -> Evidence | None:
    """Adds what was used of the network to the evidence."""
    if evidence is None or use is None:
        return evidence
    return replace(
        evidence,
        network_session=use.session,
        reached=use.reached,
        credentials=use.credentials,
        dropped=use.dropped,
    )
