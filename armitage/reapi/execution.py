"""Execution: Execute and WaitExecution (REAPI `Execution`).

What is wrong with a request (a malformed Action, no worker that matches, a full queue) is the
call's status. Missing blobs are the answer of an operation that is done at once, like everything
that goes wrong later: their names would not fit the trailers of a call.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.notary import Notary
from armitage.clock import Clock
from armitage.errors import InvalidRequest, Unsupported
from armitage.observability.context import add_fields
from armitage.reapi import rpcs
from armitage.reapi.actions import (
    ActionLimits,
    ActionSpec,
    CommandSpec,
    coeffects_of,
    parse_action,
    parse_command,
)
from armitage.reapi.completeness import Completeness
from armitage.reapi.digests import Candidates, Notation
from armitage.reapi.execution_job import (
    ExecutionJob,
    JobRequest,
    JobServices,
    OutputStream,
    missing_blobs,
)
from armitage.reapi.inputs import InputLimits, InputTrees
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.reapi.operations import (
    Answer,
    Inlining,
    OperationMessages,
    Subject,
    operation_name,
)
from armitage.reapi.request_metadata import request_metadata
from armitage.reapi.trees import DirectoryCodec
from armitage.reapi.trusting import TrustGate
from armitage.scheduler.core import OperationState
from armitage.scheduler.service import Scheduler, Submission, Watch
from armitage.transport.port import Call, Method, ServerStream
from cas.action_cache import ActionCache
from cas.digest import Digest
from cas.errors import BlobNotFound
from cas.keys import key_of
from cas.store import BlobStore, Retention

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How executions are taken."""

    actions: ActionLimits = field(default_factory=ActionLimits)
    inputs: InputLimits = field(default_factory=InputLimits)
    remind_s: float = 60.0
    """A waiting client is told the unchanged state again after this long, so that nothing between
    takes the stream for dead, and its invocation counts as alive.
    """
    settle_s: float = 0.05
    """How long news of an action's stage may wait for its end, which then goes out alone: a message
    costs as much as all the rest of the scheduling.
    """


OpenStreams = Callable[[str], tuple[OutputStream, OutputStream]]
"""Opens the live stdout and stderr of the operation so named."""


@dataclass(frozen=True, slots=True)
class _Request:
    """An ExecuteRequest, read as far as it goes without the store."""

    call: Call
    since: float
    """When it came, by the scheduler's clock."""
    message: reapi.ExecuteRequest
    instance: Instance
    notation: Notation
    candidates: Candidates
    identifier: str
    operation: str


class ExecutionService:
    """Executes actions, and answers from the action cache those already executed."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        store: BlobStore,
        retention: Retention,
        action_cache: ActionCache,
        instances: Instances,
        invocations: Invocations,
        completeness: Completeness,
        codec: DirectoryCodec,
        clock: Clock,
        new_id: Callable[[], str],
        options: ExecutionOptions | None = None,
        limits: Limits | None = None,
        open_streams: OpenStreams | None = None,
        notary: Notary | None = None,
        gate: TrustGate | None = None,
        why_disabled: str = "it is off in its configuration",
    ) -> None:
        """Takes `new_id` for operations: unguessable, unique and safe as a file name; what to tell
        clients of instances whose `exec_enabled` is false; who attests, None where no record is
        kept; and who says what of the cache may be served, None where all of it.
        """
        self._scheduler = scheduler
        self._store = store
        self._retention = retention
        self._action_cache = action_cache
        self._instances = instances
        self._invocations = invocations
        self._completeness = completeness
        self._clock = clock
        self._new_id = new_id
        self._options = options or ExecutionOptions()
        self._open_streams = open_streams
        self._why_disabled = why_disabled
        self._inputs = InputTrees(store, codec, self._options.inputs)
        self._messages = OperationMessages(store, limits or Limits())
        self._notary = notary
        self._gate = gate
        self._job_services = JobServices(
            store,
            action_cache,
            completeness,
            invocations,
            retention,
            clock,
            instances.charge,
            notary,
        )

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            ServerStream(rpcs.EXECUTE.path, self.execute),
            ServerStream(rpcs.WAIT_EXECUTION.path, self.wait_execution),
        ]

    async def execute(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams the states of a new operation until it is done.

        Raises InvalidRequest, NotFound (instance), PreconditionFailed (platform), Unavailable,
        Exhausted, Unsupported.
        """
        accepted = self._read(request, call)
        add_fields(operation=accepted.operation, action_digest=accepted.candidates[0].hash)
        started = await self._start(accepted)
        if isinstance(started, OperationState):
            yield await self._messages.encode(started)
            return
        with started:
            async for message in self._stream(started, call):
                yield message

    async def wait_execution(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams the states of a known operation until it is done. Raises NotFound."""
        message = reapi.WaitExecutionRequest.FromString(request)
        add_fields(operation=message.name[:256])
        with self._scheduler.watch(message.name) as watch:
            async for update in self._stream(watch, call):
                yield update

    async def _stream(self, watch: Watch, call: Call) -> AsyncIterator[bytes]:
        async for state in watch.states(self._options.remind_s, self._options.settle_s):
            holder = self._invocations.holder(call)
            if state.is_done and holder is not None:
                await self._hold_result(state, call, holder)
            yield await self._messages.encode(state)

    async def _hold_result(self, state: OperationState, call: Call, holder: str) -> None:
        """Keeps the outputs for an invocation that did not submit the job itself."""
        answer, subject = state.answer, state.subject
        if not isinstance(answer, Answer) or not isinstance(subject, Subject):
            return
        if holder != answer.held_for and not answer.status:
            verdict = await self._completeness.check(answer.result, subject.action.function)
            self._invocations.hold(call, verdict.closure)

    # From request to operation.

    def _read(self, request: bytes, call: Call) -> _Request:
        message = reapi.ExecuteRequest.FromString(request)
        instance = self._instances.get(message.instance_name)
        if not instance.exec_enabled:
            raise Unsupported(
                f"instance {instance.name!r} does not execute actions: {self._why_disabled}"
            )
        notation = instance.digests.notation(message.digest_function)
        identifier = self._new_id()
        return _Request(
            call=call,
            since=self._scheduler.now(),
            message=message,
            instance=instance,
            notation=notation,
            candidates=notation.parse(message.action_digest),
            identifier=identifier,
            operation=operation_name(instance.name, identifier),
        )

    async def _start(self, request: _Request) -> Watch | OperationState:
        """Answers a watch of the operation, or its final state where no run is needed."""
        found = await self._find_action(request.candidates)
        if found is None:
            error = missing_blobs(request.candidates[:1], request.notation)
            return self._answer(request, request.candidates[0], Answer.of_error(error))
        action, data = found
        spec = parse_action(data, action.function, self._options.actions)
        if not (request.message.skip_cache_lookup or spec.do_not_cache):
            answer = await self._cached(request, action)
            if answer is not None:
                return self._answer(request, action, answer)
        holder = f"operation:{request.operation}"
        try:
            return await self._submit(request, action, spec, holder)
        except BaseException:
            self._retention.release(holder)
            raise

    async def _find_action(self, candidates: Candidates) -> tuple[Digest, bytes] | None:
        """Answers the candidate that is stored: it says the function of the whole action."""
        for candidate in candidates:
            data = await self._message(candidate, "Action")
            if data is not None:
                return candidate, data
        return None

    async def _message(self, digest: Digest, kind: str) -> bytes | None:
        limit = self._options.actions.max_message_bytes
        if digest.size_bytes > limit:
            raise InvalidRequest(f"{kind} {digest} is over this server's limit of {limit} bytes")
        try:
            return await self._store.get(digest)
        except BlobNotFound:
            return None

    async def _cached(self, request: _Request, action: Digest) -> Answer | None:
        """Answers a complete result of an earlier run, its blobs held for the caller."""
        if self._notary is not None:
            await self._notary.settle((request.instance.action_cache_key, key_of(action)))
        result = await self._action_cache.get(request.instance.action_cache_key, action)
        if result is None:
            return None
        try:
            verdict = await self._completeness.check(result, action.function)
        except InvalidRequest:  # What is stored is of no use: a miss, not the caller's fault.
            return None
        if not verdict.is_complete or reapi.ActionResult.FromString(result).exit_code:
            return None
        if self._gate is not None:
            why = await self._gate.refusal(request.instance.name, action, result)
            if why is not None:
                _log.info("the cached result of action %s is not served: %s", action, why)
                self._gate.explain(why)
                return None
        self._invocations.hold(request.call, verdict.closure)
        return Answer(result=result, is_cached=True)

    def _answer(self, request: _Request, action: Digest, answer: Answer) -> OperationState:
        subject = self._subject(request, action)
        return self._scheduler.record_answer(request.operation, subject, answer, answer.size_bytes)

    async def _submit(
        self, request: _Request, action: Digest, spec: ActionSpec, holder: str
    ) -> Watch | OperationState:
        data = await self._message(spec.command, "Command")
        command = None if data is None else parse_command(data, self._options.actions)
        tree = await self._inputs.walk(spec.input_root)
        needed = tree.digests | {action, spec.command}
        # Held before they are looked for: what is found now cannot be evicted any more.
        self._retention.hold(holder, needed)
        missing = await self._store.find_missing(needed)
        if missing or command is None:
            self._retention.release(holder)
            error = missing_blobs(missing or [spec.command], request.notation)
            return self._answer(request, action, Answer.of_error(error))
        return self._submit_job(request, action, spec, command, holder)

    def _submit_job(
        self, request: _Request, action: Digest, spec: ActionSpec, command: CommandSpec, holder: str
    ) -> Watch:
        """Submits a job of our own, or joins that of an equal action in flight."""
        pairs = command.platform if spec.platform is None else spec.platform
        platform = self._scheduler.rules.platform(pairs)
        key = None if spec.do_not_cache else (request.instance.name, platform, action)
        job = None if key is None else self._scheduler.shared_job(key)
        if job is None:
            job = self._job(request, action, spec, command, pairs)
        else:
            self._retention.release(holder)  # Equal actions have equal inputs: the other's hold.
        assert isinstance(job, ExecutionJob)
        return self._scheduler.submit(
            Submission(
                operation=request.operation,
                key=key,
                platform=platform,
                client=_client(request.call),
                priority=request.message.execution_policy.priority,
                job=job,
                subject=self._subject(request, action, job.stream_names),
                since=request.since,
            )
        )

    def _job(
        self,
        request: _Request,
        action: Digest,
        spec: ActionSpec,
        command: CommandSpec,
        platform: tuple[tuple[str, str], ...],
    ) -> ExecutionJob:
        return ExecutionJob(
            self._job_services,
            JobRequest(
                identifier=request.identifier,
                operation=request.operation,
                instance=request.instance.name,
                action_cache_key=request.instance.action_cache_key,
                action=action,
                notation=request.notation,
                spec=spec,
                command=command,
                platform=platform,
                coeffects=coeffects_of(platform),
                call=request.call,
                queued_at=self._clock.wall(),
            ),
            None if self._open_streams is None else self._open_streams(request.operation),
        )

    def _subject(
        self, request: _Request, action: Digest, streams: tuple[str, str] = ("", "")
    ) -> Subject:
        message = request.message
        return Subject(
            instance=request.instance.name,
            action=action,
            digest_function=message.digest_function,
            queued_at=self._clock.wall(),
            invocation=request_metadata(request.call).tool_invocation_id,
            inlining=Inlining(
                message.inline_stdout,
                message.inline_stderr,
                frozenset(message.inline_output_files),
            ),
            stdout_stream=streams[0],
            stderr_stream=streams[1],
        )


def _client(call: Call) -> str:
    """Names who competes for slots: the proven identity, else the invocation, else the host."""
    if call.identity:
        return call.identity
    invocation = request_metadata(call).tool_invocation_id
    return f"invocation:{invocation}" if invocation else call.peer.rpartition(":")[0]
