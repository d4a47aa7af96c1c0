"""Results: from what an executor found to an ActionResult (REAPI `ActionResult`)."""

from __future__ import annotations

from dataclasses import asdict

from google.protobuf.any_pb2 import Any
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi.digests import wire_digest
from executor.errors import TimedOut
from executor.spec import Outcome, OutputKind, OutputSymlink

_KILLED = 137
"""What a shell reports for SIGKILL; so that nobody takes a killed command for a success."""


def action_result(
    outcome: Outcome, *, worker: str, queued_at: float, with_root_directories: bool
) -> reapi.ActionResult:
    """Builds the result of a command that ran to its end. Paths stay exactly as they were asked."""
    result = reapi.ActionResult(exit_code=outcome.exit_code)
    for file in outcome.files:
        result.output_files.add(
            path=file.path, digest=wire_digest(file.digest), is_executable=file.is_executable
        )
    for directory in outcome.directories:
        entry = result.output_directories.add(
            path=directory.path,
            tree_digest=wire_digest(directory.tree),
            is_topologically_sorted=True,
        )
        if with_root_directories:
            entry.root_directory_digest.CopyFrom(wire_digest(directory.root))
    for link in outcome.symlinks:
        _add_symlink(result, link)
    if not outcome.stdout.is_empty:
        result.stdout_digest.CopyFrom(wire_digest(outcome.stdout))
    if not outcome.stderr.is_empty:
        result.stderr_digest.CopyFrom(wire_digest(outcome.stderr))
    _describe_run(result.execution_metadata, outcome, worker, queued_at)
    return result


def timed_out_result(error: TimedOut, *, worker: str, queued_at: float) -> reapi.ActionResult:
    """Builds what is left of a command that was killed at its timeout: what it had printed."""
    result = reapi.ActionResult(exit_code=_KILLED)
    if not error.stdout.is_empty:
        result.stdout_digest.CopyFrom(wire_digest(error.stdout))
    if not error.stderr.is_empty:
        result.stderr_digest.CopyFrom(wire_digest(error.stderr))
    metadata = result.execution_metadata
    metadata.worker = worker
    _set(metadata.queued_timestamp, queued_at)
    metadata.virtual_execution_duration.FromNanoseconds(int(error.timeout_s * 1e9))
    return result


def _add_symlink(result: reapi.ActionResult, link: OutputSymlink) -> None:
    """Fills the new list and the old one of its kind: clients read just one of them.

    Buck2 reads the new list only, Bazel before 6.3 the old ones only.
    """
    result.output_symlinks.add(path=link.path, target=link.target)
    if link.leads_to is OutputKind.DIRECTORY:
        result.output_directory_symlinks.add(path=link.path, target=link.target)
    else:
        result.output_file_symlinks.add(path=link.path, target=link.target)


def _describe_run(
    metadata: reapi.ExecutedActionMetadata, outcome: Outcome, worker: str, queued_at: float
) -> None:
    """Fills the times, made to rise even where the wall clock stepped back meanwhile."""
    timings = outcome.timings
    metadata.worker = worker
    latest = 0.0
    for field, at in (
        (metadata.queued_timestamp, queued_at),
        (metadata.worker_start_timestamp, timings.worker_start),
        (metadata.input_fetch_start_timestamp, timings.input_fetch_start),
        (metadata.input_fetch_completed_timestamp, timings.input_fetch_completed),
        (metadata.execution_start_timestamp, timings.execution_start),
        (metadata.execution_completed_timestamp, timings.execution_completed),
        (metadata.output_upload_start_timestamp, timings.output_upload_start),
        (metadata.output_upload_completed_timestamp, timings.output_upload_completed),
        (metadata.worker_completed_timestamp, timings.worker_completed),
    ):
        latest = max(latest, at)
        _set(field, latest)
    metadata.virtual_execution_duration.FromNanoseconds(int(outcome.resources.wall_s * 1e9))
    metadata.auxiliary_metadata.append(_resource_use(outcome))


def _resource_use(outcome: Outcome) -> Any:
    """Says what the command used and how it was confined, as a Struct, which all can read."""
    facts = Struct()
    for name, value in asdict(outcome.resources).items():
        if value is not None:
            facts[name] = value
    for name, value in outcome.sandbox.items():
        facts[f"sandbox.{name}"] = value
    box = Any()
    box.Pack(facts, deterministic=True)
    return box


def _set(field: Timestamp, at: float) -> None:
    field.FromNanoseconds(int(at * 1e9))
