"""Operations: how executions in progress look on the wire, and the service to manage them (REAPI
`Execution`, google.longrunning `Operations`).

Operations live in memory. After a restart their names are unknown (NOT_FOUND), and clients execute
again, as REAPI `WaitExecution` has it; what had finished is in the action cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from google.longrunning import operations_pb2 as longrunning
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi import rpcs
from armitage.reapi.action_cache import inline_contents
from armitage.reapi.digests import wire_digest
from armitage.reapi.gate import rpc_status, status_of
from armitage.reapi.limits import Limits
from armitage.reapi.wire import length_delimited
from armitage.scheduler.core import OperationState, Stage
from armitage.scheduler.service import Scheduler
from armitage.transport.port import Call, Method, Unary
from cas.digest import Digest
from cas.store import BlobStore

_STAGES = {
    Stage.QUEUED: reapi.ExecutionStage.QUEUED,
    Stage.EXECUTING: reapi.ExecutionStage.EXECUTING,
    Stage.COMPLETED: reapi.ExecutionStage.COMPLETED,
}
_TYPE = "type.googleapis.com/"
_METADATA_TYPE = _TYPE + reapi.ExecuteOperationMetadata.DESCRIPTOR.full_name
_RESPONSE_TYPE = _TYPE + reapi.ExecuteResponse.DESCRIPTOR.full_name
_CACHED = b"\x10\x01"
"""`ExecuteResponse.cached_result = true`."""

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Inlining:
    """What a client wants to have in the message itself."""

    stdout: bool = False
    stderr: bool = False
    files: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.stdout or self.stderr or self.files)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an operation is about, kept for as long as it can be asked for."""

    instance: str
    action: Digest
    digest_function: reapi.DigestFunction.Value
    """As the client's request had it, which may be not at all."""
    queued_at: float
    """Wall time."""
    invocation: str = ""
    inlining: Inlining = field(default_factory=Inlining)
    stdout_stream: str = ""
    stderr_stream: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer of an execution, as parts of an ExecuteResponse."""

    result: bytes = b""
    """A serialised ActionResult, or nothing."""
    is_cached: bool = False
    status: bytes = b""
    """A serialised google.rpc.Status other than OK, or nothing."""
    held_for: str | None = None
    """The invocation whose holder keeps what the result refers to."""
    message: str = ""
    """What the machinery has to add, for a person to read."""

    @classmethod
    def of_error(cls, error: BaseException, result: bytes = b"") -> Answer:
        """Answers with an error, and what there is of a result."""
        return cls(result=result, status=rpc_status(status_of(error)).SerializeToString())

    @property
    def size_bytes(self) -> int:
        """The weight in memory."""
        return len(self.result) + len(self.status) + len(self.message)


class OperationMessages:
    """Writes Operation messages."""

    def __init__(self, store: BlobStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def encode(self, state: OperationState) -> bytes:
        """Writes an operation, with contents inlined as its client asked and as fits."""
        response = None if not state.is_done else await self._response(state)
        return _encode(_operation(state, response))

    async def _response(self, state: OperationState) -> bytes:
        answer = _answer(state)
        subject = _subject(state)
        result = answer.result
        if result and subject.inlining:
            result = await inline_contents(
                self._store,
                result,
                subject.action,
                self._limits,
                stdout=subject.inlining.stdout,
                stderr=subject.inlining.stderr,
                files=subject.inlining.files,
            )
        return _response(answer, result)


def brief_operation(state: OperationState) -> longrunning.Operation:
    """Makes the message without anything inlined."""
    if not state.is_done:
        return _operation(state, None)
    answer = _answer(state)
    return _operation(state, _response(answer, answer.result))


def _operation(state: OperationState, response: bytes | None) -> longrunning.Operation:
    metadata = _metadata(state).SerializeToString()
    operation = longrunning.Operation(
        name=state.name, metadata=Any(type_url=_METADATA_TYPE, value=metadata)
    )
    if response is not None:
        operation.done = True
        operation.response.type_url = _RESPONSE_TYPE
        operation.response.value = response
    return operation


def _metadata(state: OperationState) -> reapi.ExecuteOperationMetadata:
    subject = _subject(state)
    metadata = reapi.ExecuteOperationMetadata(
        stage=_STAGES[state.stage],
        action_digest=wire_digest(subject.action),
        digest_function=subject.digest_function,
        stdout_stream_name=subject.stdout_stream,
        stderr_stream_name=subject.stderr_stream,
    )
    partial = metadata.partial_execution_metadata
    partial.worker = state.worker
    partial.queued_timestamp.FromNanoseconds(int(subject.queued_at * 1e9))
    if not (state.is_done or state.is_watched):
        told = Struct()
        told["unwatched"] = True
        partial.auxiliary_metadata.add().Pack(told)
    return metadata


def _response(answer: Answer, result: bytes) -> bytes:
    """Writes an ExecuteResponse by hand: the result is there in bytes already."""
    parts = []
    if result:
        parts.append(length_delimited(1, result))
    if answer.is_cached:
        parts.append(_CACHED)
    if answer.status:
        parts.append(length_delimited(3, answer.status))
    if answer.message:
        parts.append(length_delimited(5, answer.message.encode("utf-8", "replace")))
    return b"".join(parts)


def _answer(state: OperationState) -> Answer:
    if state.error is not None:
        return Answer.of_error(state.error)
    assert isinstance(state.answer, Answer)
    return state.answer


def _subject(state: OperationState) -> Subject:
    assert isinstance(state.subject, Subject)
    return state.subject


def operation_name(instance: str, identifier: str) -> str:
    """Names an operation so that the instance can be told from the name."""
    return f"{instance}/operations/{identifier}" if instance else f"operations/{identifier}"


class OperationsService:
    """Gets, lists, cancels and deletes operations (google.longrunning `Operations`)."""

    def __init__(
        self, scheduler: Scheduler, store: BlobStore, *, limits: Limits | None = None
    ) -> None:
        self._scheduler = scheduler
        self._messages = OperationMessages(store, limits or Limits())
        self._max_list_bytes = (limits or Limits()).max_response_bytes

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(rpcs.GET_OPERATION.path, self.get_operation),
            Unary(rpcs.LIST_OPERATIONS.path, self.list_operations),
            Unary(rpcs.CANCEL_OPERATION.path, self.cancel_operation),
            Unary(rpcs.DELETE_OPERATION.path, self.delete_operation),
        ]

    async def get_operation(self, request: bytes, _call: Call) -> bytes:
        """Answers the present state. Who asks counts as one who waits. Raises NotFound."""
        message = longrunning.GetOperationRequest.FromString(request)
        state = self._scheduler.state(message.name)
        with self._scheduler.watch(message.name):
            return await self._messages.encode(state)

    async def list_operations(self, request: bytes, _call: Call) -> bytes:
        """Lists operations, oldest first, by page.

        `name` is an instance name, `INSTANCE/operations`, or empty for all. `filter` is terms
        joined by AND: `done=true|false`, `stage=queued|executing|completed`, `client=TEXT`,
        `invocation=TEXT`, `action=HASH`. Raises InvalidRequest for others.
        """
        message = longrunning.ListOperationsRequest.FromString(request)
        wanted = _parse_filter(message.filter)
        collection = message.name.removesuffix("operations").rstrip("/")
        states = (
            state
            for state in _after(self._scheduler.states(), message.page_token)
            if (not message.name or _subject(state).instance == collection) and wanted(state)
        )
        if message.page_size < 0:
            raise InvalidRequest(f"page_size {message.page_size} is negative")
        page_size = min(message.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        return self._page(list(islice(states, page_size + 1)), page_size)

    async def cancel_operation(self, request: bytes, _call: Call) -> bytes:
        """Cancels; does nothing to an operation that is done. Raises NotFound."""
        message = longrunning.CancelOperationRequest.FromString(request)
        self._scheduler.cancel(message.name)
        return _encode(Empty())

    async def delete_operation(self, request: bytes, _call: Call) -> bytes:
        """Forgets an operation; what runs goes on. Raises NotFound."""
        message = longrunning.DeleteOperationRequest.FromString(request)
        self._scheduler.delete(message.name)
        return _encode(Empty())

    def _page(self, states: list[OperationState], page_size: int) -> bytes:
        response = longrunning.ListOperationsResponse()
        size = 0
        for index, state in enumerate(states):
            operation = brief_operation(state)
            size += operation.ByteSize() + 8
            if index == page_size or (index and size > self._max_list_bytes):
                response.next_page_token = states[index - 1].name
                break
            response.operations.append(operation)
        return _encode(response)


def _after(states: Iterable[OperationState], token: str) -> Iterable[OperationState]:
    """Skips to behind the operation that the token names.

    Raises InvalidRequest when that one is gone: going on from nowhere would repeat or lose some.
    """
    remaining = iter(states)
    if token and not any(state.name == token for state in remaining):
        raise InvalidRequest("page_token is not, or no longer, of this list; start without one")
    return remaining


_TERM = re.compile(r"\s*(done|stage|client|invocation|action)\s*=\s*(\"[^\"]*\"|[^\s\"]+)\s*")


def _parse_filter(text: str) -> Callable[[OperationState], bool]:
    terms = []
    for part in re.split(r"\s+AND\s+", text.strip()) if text.strip() else []:
        match = _TERM.fullmatch(part)
        if match is None:
            raise InvalidRequest(
                f"filter {part[:100]!r} is not understood; join terms such as done=false,"
                " stage=queued, client=X, invocation=X or action=HASH by AND"
            )
        terms.append((match[1], match[2].strip('"')))
    return lambda state: all(_field(state, name) == value for name, value in terms)


def _field(state: OperationState, name: str) -> str:
    match name:
        case "done":
            return "true" if state.is_done else "false"
        case "stage":
            return state.stage.value
        case "client":
            return state.client
        case "invocation":
            return _subject(state).invocation
        case _:
            return _subject(state).action.hash


def _encode(message: Message) -> bytes:
    return message.SerializeToString()
