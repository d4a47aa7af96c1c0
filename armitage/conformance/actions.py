"""Builds actions out of POSIX shell scripts, runs them, and reads what came of them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.longrunning import operations_pb2 as longrunning
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed, Channel
from armitage.conformance.model import Failed, Level
from armitage.conformance.session import Session, describe
from armitage.reapi import rpcs
from armitage.transport.port import Code

Stage = reapi.ExecutionStage
_MAX_RECONNECTS = 5
_SMALL_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class File:
    """An input file."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """An input symlink."""

    target: str


Tree = Mapping[str, Any]
"""Nodes by name: files, links, or the trees below."""


def build_tree(s: Session, tree: Tree) -> tuple[reapi.Digest, list[bytes]]:
    """Turns nested names into Directory blobs; answers the root's digest and all blobs."""
    directory = reapi.Directory()
    blobs: list[bytes] = []
    for name in sorted(tree):
        match tree[name]:
            case Link(target=target):
                directory.symlinks.add(name=name, target=target)
            case Mapping() as inner:
                digest, below = build_tree(s, inner)
                directory.directories.add(name=name, digest=digest)
                blobs += below
            case File(data=data, executable=executable):
                directory.files.add(name=name, digest=s.digest(data), is_executable=executable)
                blobs.append(data)
            case bytes(data):
                directory.files.add(name=name, digest=s.digest(data))
                blobs.append(data)
    raw = directory.SerializeToString(deterministic=True)
    return s.digest(raw), [*blobs, raw]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An action with every blob that it needs."""

    action: reapi.Action
    command: reapi.Command
    action_digest: reapi.Digest
    blobs: list[bytes]


def prepare(
    s: Session,
    arguments: Sequence[str],
    tree: Tree | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    nonce: str | None = None,
    timeout_s: float | None = None,
    do_not_cache: bool = False,
    action_platform: Sequence[tuple[str, str]] | None = None,
    command_platform: Sequence[tuple[str, str]] | None = None,
    **command_fields: object,
) -> Prepared:
    """Builds an action that nobody else has, by a random environment variable unless `nonce` is
    given. The platform of the options goes on both messages unless overridden.
    """
    variables = {"PATH": _SMALL_PATH} if environment is None else dict(environment)
    variables["CONFORMANCE_NONCE"] = nonce or secrets.token_hex(16)
    command = reapi.Command(arguments=arguments, **command_fields)  # type: ignore[arg-type]
    for name in sorted(variables):
        command.environment_variables.add(name=name, value=variables[name])
    on_command = s.options.platform if command_platform is None else command_platform
    for name, value in sorted(on_command):
        command.platform.properties.add(name=name, value=value)
    root, blobs = build_tree(s, tree or {})
    raw_command = command.SerializeToString(deterministic=True)
    action = reapi.Action(
        command_digest=s.digest(raw_command), input_root_digest=root, do_not_cache=do_not_cache
    )
    if timeout_s is not None:
        duration = duration_pb2.Duration()
        duration.FromNanoseconds(int(timeout_s * 1e9))
        action.timeout.CopyFrom(duration)
    on_action = s.options.platform if action_platform is None else action_platform
    for name, value in sorted(on_action):
        action.platform.properties.add(name=name, value=value)
    raw_action = action.SerializeToString(deterministic=True)
    return Prepared(action, command, s.digest(raw_action), [*blobs, raw_command, raw_action])


@dataclass
class Verdict:
    """How an execution ended, wherever the server said it: in the RPC or in the response."""

    status: status_pb2.Status
    at_rpc: bool
    response: reapi.ExecuteResponse = field(default_factory=reapi.ExecuteResponse)
    operations: list[longrunning.Operation] = field(default_factory=list)

    @property
    def code(self) -> Code:
        """The status code."""
        return Code(self.status.code)

    @property
    def result(self) -> reapi.ActionResult:
        """The action result, empty when there is none."""
        return self.response.result

    @property
    def name(self) -> str:
        """The operation's name, empty when the RPC failed first."""
        return self.operations[0].name if self.operations else ""

    def says(self) -> str:
        """Describes the status in one short line."""
        where = "" if self.at_rpc or self.code == Code.OK else "response.status "
        return where + describe(self.status)

    def expect_ok(self, exit_code: int | None = 0) -> reapi.ActionResult:
        """Answers the result. Raises Failed unless it ran, with this exit code unless None."""
        if self.code != Code.OK:
            raise Failed(f"Execute: {self.says()}")
        if exit_code is not None and self.result.exit_code != exit_code:
            stderr = self.result.stderr_raw.decode("utf-8", "replace")[:80]
            raise Failed(f"Execute: exit code {self.result.exit_code} {stderr}".rstrip())
        return self.result

    def missing(self) -> list[str]:
        """Answers the subjects of all MISSING violations."""
        return [v.subject for v in self.violations() if v.type == "MISSING"]

    def violations(self) -> list[error_details_pb2.PreconditionFailure.Violation]:
        """Answers all violations of preconditions."""
        found = []
        for box in self.status.details:
            failure = error_details_pb2.PreconditionFailure()
            if box.Is(failure.DESCRIPTOR) and box.Unpack(failure):
                found += list(failure.violations)
        return found


def request_for(
    s: Session,
    action: reapi.Digest,
    *,
    skip_cache_lookup: bool = False,
    priority: int = 0,
) -> reapi.ExecuteRequest:
    """Makes the request that executes an action."""
    request = reapi.ExecuteRequest(
        instance_name=s.instance,
        action_digest=action,
        skip_cache_lookup=skip_cache_lookup,
        digest_function=s.function,  # type: ignore[arg-type]
    )
    if priority:
        request.execution_policy.priority = priority
    return request


async def execute(
    s: Session,
    action: reapi.Digest,
    *,
    skip_cache_lookup: bool = False,
    priority: int = 0,
    channel: Channel | None = None,
) -> Verdict:
    """Executes an uploaded action to its end, reconnecting where the stream breaks off."""
    request = request_for(s, action, skip_cache_lookup=skip_cache_lookup, priority=priority)
    return await follow(s, operations_of(channel or s.channel, request, s))


def operations_of(
    channel: Channel, request: reapi.ExecuteRequest, s: Session
) -> AsyncGenerator[longrunning.Operation, None]:
    """Calls Execute."""
    return channel.stream(rpcs.EXECUTE, request, timeout=s.options.call_timeout_s)


def wait_for(s: Session, name: str) -> AsyncGenerator[longrunning.Operation, None]:
    """Calls WaitExecution."""
    request = reapi.WaitExecutionRequest(name=name)
    return s.channel.stream(rpcs.WAIT_EXECUTION, request, timeout=s.options.call_timeout_s)


async def follow(s: Session, stream: AsyncIterator[longrunning.Operation]) -> Verdict:
    """Follows an operation to its end."""
    seen: list[longrunning.Operation] = []
    for _ in range(_MAX_RECONNECTS):
        try:
            async for operation in stream:
                seen.append(operation)  # noqa: PERF401 (what came before an error must stay)
        except CallFailed as error:
            return Verdict(error.details, at_rpc=True, operations=seen)
        if not seen:
            raise Failed("the stream of operations ended OK without a message")
        if seen[-1].done:
            return _verdict(seen)
        stream = wait_for(s, seen[0].name)
    raise Failed("the stream of operations keeps ending before the operation is done")


def check_operation(s: Session, operation: longrunning.Operation, name: str) -> None:
    """Checks what holds for every Operation of an execution; one case does so for all."""
    which = operation.WhichOneof("result")
    s.check(which != "error", f"Operation.error is set: {describe(operation.error)}")
    s.check(operation.name, "an Operation has no name")
    s.check(operation.name == name, f"the operation's name changes to {operation.name}")
    metadata = metadata_of(operation)
    if metadata is None:
        s.fail("Operation.metadata is no ExecuteOperationMetadata")
        return
    completed = metadata.stage == Stage.COMPLETED
    s.check(completed == operation.done, f"done is {operation.done} in stage {metadata.stage}")
    s.check(not operation.done or which == "response", "a done Operation has no response")


def metadata_of(operation: longrunning.Operation) -> reapi.ExecuteOperationMetadata | None:
    """Answers an operation's metadata, or None when it is something else."""
    metadata = reapi.ExecuteOperationMetadata()
    return metadata if operation.metadata.Unpack(metadata) else None


def _verdict(operations: list[longrunning.Operation]) -> Verdict:
    response = reapi.ExecuteResponse()
    last = operations[-1]
    if last.WhichOneof("result") == "error":
        raise Failed(f"Operation.error is set, to {describe(last.error)}", Level.MUST)
    if not last.response.Unpack(response):
        raise Failed("Operation.response is no ExecuteResponse")
    return Verdict(response.status, at_rpc=False, response=response, operations=operations)


async def run_prepared(s: Session, prepared: Prepared, **options: object) -> Verdict:
    """Uploads an action and executes it."""
    await s.put(*prepared.blobs)
    return await execute(s, prepared.action_digest, **options)  # type: ignore[arg-type]


async def run_script(
    s: Session, script: str, tree: Tree | None = None, **fields: object
) -> Verdict:
    """Executes a shell script; fields are those of `prepare`."""
    prepared = prepare(s, ["/bin/sh", "-c", script], tree, **fields)  # type: ignore[arg-type]
    return await run_prepared(s, prepared)


async def stdout_of(s: Session, result: reapi.ActionResult) -> bytes:
    """Reads the standard output, inlined or not."""
    if result.stdout_raw:
        return result.stdout_raw
    return await s.get(result.stdout_digest) if result.stdout_digest.size_bytes else b""


async def parse(s: Session, kind: type[Message], digest: reapi.Digest) -> Message:
    """Reads and parses a message."""
    return kind.FromString(await s.get(digest))


async def tree_of(s: Session, directory: reapi.OutputDirectory) -> dict[str, reapi.FileNode | str]:
    """Flattens an output directory's Tree: files by path, symlink targets by path."""
    tree = reapi.Tree.FromString(await s.get(directory.tree_digest))
    by_key = {(d.hash, d.size_bytes): child for child, d in _named(s, tree)}
    flat: dict[str, reapi.FileNode | str] = {}
    _flatten(tree.root, "", by_key, flat)
    return flat


def _named(s: Session, tree: reapi.Tree) -> list[tuple[reapi.Directory, reapi.Digest]]:
    return [(child, s.digest(child)) for child in tree.children]


def _flatten(
    directory: reapi.Directory,
    prefix: str,
    by_key: Mapping[tuple[str, int], reapi.Directory],
    flat: dict[str, reapi.FileNode | str],
) -> None:
    for file in directory.files:
        flat[prefix + file.name] = file
    for link in directory.symlinks:
        flat[prefix + link.name] = link.target
    for node in directory.directories:
        key = (node.digest.hash, node.digest.size_bytes)
        if key not in by_key:
            raise Failed(f"the Tree lacks the child directory {prefix}{node.name}")
        flat[f"{prefix}{node.name}/"] = ""
        _flatten(by_key[key], f"{prefix}{node.name}/", by_key, flat)
