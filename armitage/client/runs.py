"""One command, run remotely: its action, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.blobs import Source
from armitage.client.download import FileToWrite, LinkToWrite, Plan, plan_tree, split_path
from armitage.client.errors import UntrustworthyAnswer, UsageError
from armitage.client.remote import Remote
from armitage.client.trees import LocalTree, build_tree, read_tree_blob
from armitage.reapi.digests import wire_digest
from cas.digest import Digest, DigestFunction


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be run (REAPI `Command` and `Action`)."""

    arguments: Sequence[str]
    input: Path | None = None
    """None is an empty input root."""
    outputs: Sequence[str] = ()
    """Relative to the working directory."""
    environment: Mapping[str, str] | None = None
    platform: Sequence[tuple[str, str]] = ()
    working_directory: str = ""
    timeout_s: float | None = None
    do_not_cache: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """An action with every blob that it needs."""

    action: Digest
    blobs: Mapping[Digest, Source]
    tree: LocalTree


def check_output_path(path: str) -> str:
    """Answers the path as REAPI wants it. Raises UsageError."""
    trimmed = path.rstrip("/").removeprefix("./")
    parts = trimmed.split("/")
    if path.startswith("/") or not trimmed or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"output {path!r}: write a path below the working directory")
    return trimmed


def pack(run: Run, function: DigestFunction) -> Packed:
    """Reads the input directory and makes the action (blocks). Raises UsageError."""
    if run.input is None:
        empty = reapi.Directory().SerializeToString()
        tree = LocalTree(function.digest(empty), {function.digest(empty): empty})
    else:
        tree = build_tree(run.input, function)
    platform = reapi.Platform(
        properties=[
            reapi.Platform.Property(name=name, value=value) for name, value in sorted(run.platform)
        ]
    )
    command = _command(run, platform).SerializeToString()
    action = reapi.Action(
        command_digest=wire_digest(function.digest(command)),
        input_root_digest=wire_digest(tree.root),
        do_not_cache=run.do_not_cache,
        platform=platform,
    )
    if run.timeout_s is not None:
        timeout = Duration()
        timeout.FromNanoseconds(int(run.timeout_s * 1e9))
        action.timeout.CopyFrom(timeout)
    encoded = action.SerializeToString()
    digest = function.digest(encoded)
    blobs = {**tree.blobs, function.digest(command): command, digest: encoded}
    return Packed(digest, blobs, tree)


def _command(run: Run, platform: reapi.Platform) -> reapi.Command:
    environment = sorted((run.environment or {}).items())
    return reapi.Command(
        arguments=run.arguments,
        environment_variables=[
            reapi.Command.EnvironmentVariable(name=name, value=value) for name, value in environment
        ],
        output_paths=sorted(set(run.outputs)),
        platform=platform,
        working_directory=run.working_directory,
    )


async def plan_outputs(remote: Remote, result: reapi.ActionResult, outputs: Sequence[str]) -> Plan:
    """Lays out what the command left. Raises UntrustworthyAnswer for outputs that nobody asked for,
    BlobMissing, CallFailed.
    """
    plan = Plan()
    for file in result.output_files:
        parts = _asked(file.path, outputs)
        digest = _digest(remote, file.digest)
        plan += Plan(files=(FileToWrite(parts, digest, file.is_executable),))
    links = {link.path: link.target for link in result.output_symlinks}
    for legacy in (*result.output_file_symlinks, *result.output_directory_symlinks):
        links.setdefault(legacy.path, legacy.target)
    for path, target in links.items():
        plan += Plan(links=(LinkToWrite(_asked(path, outputs), target),))
    for directory in result.output_directories:
        parts = _asked(directory.path, outputs)
        tree = await read_tree_blob(remote, _digest(remote, directory.tree_digest))
        plan += plan_tree(tree, parts)
    return plan


def absent_outputs(result: reapi.ActionResult, outputs: Sequence[str]) -> list[str]:
    """Answers which of the outputs asked for the command did not leave."""
    left = {file.path for file in result.output_files}
    left |= {directory.path for directory in result.output_directories}
    left |= {link.path for link in result.output_symlinks}
    left |= {link.path for link in result.output_file_symlinks}
    left |= {link.path for link in result.output_directory_symlinks}
    return [path for path in outputs if path not in left]


def _asked(path: str, outputs: Sequence[str]) -> tuple[str, ...]:
    if path not in outputs:
        raise UntrustworthyAnswer(f"the server sent output {path!r}, which was not asked for")
    return split_path(path)


def _digest(remote: Remote, wire: reapi.Digest) -> Digest:
    return Digest(remote.function, wire.hash, wire.size_bytes)
