"""Runs an action at a server and sees it through broken connections (REAPI `Execute`,
`WaitExecution`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from google.longrunning import operations_pb2 as longrunning
from google.rpc import error_details_pb2, status_pb2

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.client.errors import ExecutionFailed, UntrustworthyAnswer
from armitage.client.remote import Remote
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.transport.port import Code
from cas.digest import Digest

_PASSING = frozenset({Code.UNAVAILABLE, Code.ABORTED, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL})
"""What a broken connection or a restarting server looks like, once an operation is under way."""
_REFUSING_FOR_NOW = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to keep trying when the server cannot be heard."""

    give_up_after_s: float = 60.0
    """Since the last message heard."""
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Update:
    """The operation as the server last told of it."""

    operation: str
    metadata: reapi.ExecuteOperationMetadata
    response: reapi.ExecuteResponse | None
    """Set in the last update, and only there."""


async def execute(
    remote: Remote,
    action: Digest,
    *,
    skip_cache_lookup: bool = False,
    priority: int = 0,
    patience: Patience | None = None,
    monotonic: Callable[[], float],
) -> AsyncGenerator[Update, None]:
    """Runs an action; ends after the update that holds the response.

    A broken stream is taken up again by WaitExecution; an operation that the server has forgotten
    is executed anew. Raises CallFailed when the server refuses, or stays silent beyond patience.
    """
    patience = patience or Patience()
    request = reapi.ExecuteRequest(
        instance_name=remote.instance,
        action_digest=wire_digest(action),
        skip_cache_lookup=skip_cache_lookup,
        execution_policy=reapi.ExecutionPolicy(priority=priority),
        digest_function=remote.wire_function,
    )
    operation = ""
    heard, pause_s = monotonic(), patience.first_pause_s
    while True:
        failure: CallFailed | None = None
        try:
            async with aclosing(_attempt(remote, request, operation)) as messages:
                async for message in messages:
                    operation = message.name
                    heard, pause_s = monotonic(), patience.first_pause_s
                    yield (update := _update(message))
                    if update.response is not None:
                        return
        except CallFailed as error:
            failure = error
        if failure and operation and failure.code == Code.NOT_FOUND:
            operation = ""
        elif failure and failure.code not in (_PASSING if operation else _REFUSING_FOR_NOW):
            raise failure
        if monotonic() - heard > patience.give_up_after_s:
            raise failure or CallFailed(
                rpcs.EXECUTE.path,
                Code.UNAVAILABLE,
                "the server keeps ending the stream without an answer",
                status_pb2.Status(),
            )
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries)
        pause_s = min(pause_s * 2, patience.longest_pause_s)


def _attempt(
    remote: Remote, request: reapi.ExecuteRequest, operation: str
) -> AsyncGenerator[longrunning.Operation, None]:
    if operation:
        return remote.channel.stream(
            rpcs.WAIT_EXECUTION, reapi.WaitExecutionRequest(name=operation)
        )
    return remote.channel.stream(rpcs.EXECUTE, request)


def _update(operation: longrunning.Operation) -> Update:
    metadata = reapi.ExecuteOperationMetadata()
    if operation.HasField("metadata"):
        operation.metadata.Unpack(metadata)
    if not operation.done:
        return Update(operation.name, metadata, None)
    response = reapi.ExecuteResponse()
    if not operation.HasField("response") or not operation.response.Unpack(response):
        raise UntrustworthyAnswer(f"operation {operation.name} is done without an ExecuteResponse")
    return Update(operation.name, metadata, response)


def failure_of(status: status_pb2.Status) -> ExecutionFailed:
    """The error that a `ExecuteResponse.status` other than OK tells of."""
    return ExecutionFailed(Code(status.code).name, status.message)


def only_blobs_are_missing(status: status_pb2.Status) -> bool:
    """Whether uploading again would help (REAPI: FAILED_PRECONDITION, every violation MISSING)."""
    if status.code != Code.FAILED_PRECONDITION:
        return False
    violations = []
    for detail in status.details:
        failure = error_details_pb2.PreconditionFailure()
        if detail.Unpack(failure):
            violations += [violation.type for violation in failure.violations]
    return bool(violations) and set(violations) == {MISSING}


async def tail_log(remote: Remote, name: str) -> AsyncIterator[bytes]:
    """Streams a LogStream as it grows; ends with it. Raises CallFailed."""
    request = rpcs.READ.request(resource_name=name)
    async with aclosing(remote.channel.stream(rpcs.READ, request)) as responses:
        async for response in responses:
            yield response.data
