"""One action on its way through the scheduler, from its Action to its answer (REAPI)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Protocol

from armitage.attest.facts import outputs_of
from armitage.attest.judge import Judgement
from armitage.attest.notary import Notary, Run
from armitage.clock import Clock
from armitage.errors import PreconditionFailed
from armitage.reapi.actions import ActionSpec, CommandSpec, coeffects_text
from armitage.reapi.attested import subjects_of
from armitage.reapi.completeness import Completeness
from armitage.reapi.digests import Notation
from armitage.reapi.invocations import Invocations
from armitage.reapi.operations import Answer
from armitage.reapi.request_metadata import request_metadata
from armitage.reapi.results import action_result, timed_out_result
from armitage.scheduler.events import Ending
from armitage.scheduler.service import Attempt, Conclusion
from armitage.transport.port import Call
from cas.action_cache import ActionCache
from cas.digest import Digest
from cas.errors import CasError
from cas.keys import key_of
from cas.store import BlobStore, Retention
from executor.coeffects import Coeffects
from executor.errors import InputsMissing, TimedOut, WorkerFailure
from executor.spec import Outcome, Requester, Work

_log = logging.getLogger(__name__)

_MAX_SUBJECTS = 20_000
"""More MISSING violations would not fit a message of 4 MiB; clients ask again after uploading."""


class OutputStream(Protocol):
    """Where live stdout or stderr of one action goes (REAPI `LogStream`)."""

    name: str
    """The resource name for readers."""

    def append(self, data: bytes) -> None:
        """Adds bytes; never blocks."""

    def finish(self) -> None:
        """Ends the stream. Idempotent."""


@dataclass(frozen=True, slots=True)
class JobServices:
    """What jobs work with."""

    store: BlobStore
    action_cache: ActionCache
    completeness: Completeness
    invocations: Invocations
    retention: Retention
    clock: Clock
    charge: Callable[[str, Collection[Digest]], None]
    """Charges outputs to the quota of the instance of that name."""
    notary: Notary | None = None
    """None where no record is kept: then nothing is attested."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is to be executed, and for whom."""

    identifier: str
    """Safe as a file name."""
    operation: str
    instance: str
    action_cache_key: str
    action: Digest
    notation: Notation
    spec: ActionSpec
    command: CommandSpec
    platform: tuple[tuple[str, str], ...]
    coeffects: Coeffects
    """What the platform declares."""
    call: Call
    """The Execute call, whose invocation is to keep the outputs."""
    queued_at: float


def missing_blobs(digests: Sequence[Digest], notation: Notation) -> PreconditionFailed:
    """Makes the error that tells a client to upload blobs (REAPI `Execute`, MISSING violations)."""
    shown = ", ".join(str(digest) for digest in digests[:3])
    more = f" and {len(digests) - 3} more" if len(digests) > 3 else ""
    subjects = [notation.subject(digest) for digest in digests[:_MAX_SUBJECTS]]
    return PreconditionFailed(f"blobs are missing; upload them first: {shown}{more}", subjects)


class ExecutionJob:
    """Builds the Work, feeds the output streams, records the result, logs one line.

    It takes over what is held under `operation:NAME`, and lets it go in `close`.
    """

    def __init__(
        self,
        services: JobServices,
        request: JobRequest,
        streams: tuple[OutputStream, OutputStream] | None,
    ) -> None:
        self.context: Context = copy_context()
        self._services = services
        self._request = request
        self._holder = f"operation:{request.operation}"
        self._streams = streams
        self._has_concluded = False

    @property
    def stream_names(self) -> tuple[str, str]:
        """The resource names of live stdout and stderr; empty where there are none."""
        return ("", "") if self._streams is None else (self._streams[0].name, self._streams[1].name)

    def work(self, attempt: int) -> Work:
        """Answers what to run."""
        request = self._request
        return Work(
            name=f"{request.identifier}-{attempt}",
            digest_function=request.action.function,
            input_root=request.spec.input_root,
            arguments=request.command.arguments,
            environment=request.command.environment,
            working_directory=request.command.working_directory,
            outputs=request.command.outputs,
            platform=request.platform,
            timeout_s=request.spec.timeout_s,
            coeffects=request.coeffects,
            action=request.action,
            requester=self._requester(),
        )

    def _requester(self) -> Requester:
        request, told = self._request, request_metadata(self._request.call)
        return Requester(
            instance=request.instance,
            operation=request.operation,
            invocation=told.tool_invocation_id,
            target=told.target_id,
            identity=request.call.identity or "",
        )

    def stdout(self, data: bytes) -> None:
        """Passes live output on."""
        if self._streams is not None:
            self._streams[0].append(data)

    def stderr(self, data: bytes) -> None:
        """Passes live output on."""
        if self._streams is not None:
            self._streams[1].append(data)

    async def conclude(self, outcome: Outcome | Exception, attempt: Attempt) -> Conclusion:
        """Records the result where it may be cached, and answers it."""
        self._has_concluded = True
        try:
            if isinstance(outcome, Outcome):
                answer = await self._succeed(outcome, attempt)
            else:
                answer = self._fail(outcome, attempt)
        except Exception as error:  # noqa: BLE001 (whatever it is becomes the answer)
            answer = Answer.of_error(error)
        self._log_end(outcome, attempt, answer)
        return Conclusion(answer, answer.size_bytes, is_shareable=not answer.status)

    def close(self, ending: Ending) -> None:
        """Lets the inputs go and ends the streams."""
        self._services.retention.release(self._holder)
        for stream in self._streams or ():
            stream.finish()
        if not self._has_concluded and ending is not Ending.DROPPED:
            self._log_line(f"was {ending.value}", {})

    async def _succeed(self, outcome: Outcome, attempt: Attempt) -> Answer:
        request, services = self._request, self._services
        result = action_result(
            outcome,
            worker=attempt.worker,
            queued_at=request.queued_at,
            with_root_directories=request.command.with_root_directories,
        ).SerializeToString()
        verdict = await services.completeness.check(result, request.action.function)
        if not verdict.is_complete:
            raise WorkerFailure(
                f"{len(verdict.missing)} outputs are gone from the store just after they were"
                f" made, among them {verdict.missing[0]}"
            )
        judged = await self._judge(outcome, attempt)
        services.charge(request.action_cache_key, verdict.closure)
        services.invocations.hold(request.call, verdict.closure)
        if outcome.exit_code == 0:
            await self._keep(result, judged)
        return Answer(
            result=result,
            held_for=services.invocations.holder(request.call),
            message=outcome.message,
        )

    async def _judge(self, outcome: Outcome, attempt: Attempt) -> tuple[Run, Judgement] | None:
        """Has the checker decide; None where there is no evidence, or nobody to ask. Raises
        PreconditionFailed when it does not approve.
        """
        request, notary = self._request, self._services.notary
        if outcome.evidence is None or notary is None:
            return None
        succeeded = outcome.exit_code == 0
        run = Run(
            instance=request.action_cache_key,
            action=request.action,
            command=request.spec.command,
            input_root=request.spec.input_root,
            invocation=f"{request.identifier}-{attempt.number}",
            declared=coeffects_text(request.platform) or "",
            used=outcome.evidence,
            outputs=outputs_of(outcome),
            subjects=await subjects_of(outcome, self._services.store) if succeeded else (),
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            started_s=outcome.timings.worker_start,
            finished_s=outcome.timings.worker_completed,
            platform=request.platform,
        )
        return run, await notary.judge(run)

    async def _keep(self, result: bytes, judged: tuple[Run, Judgement] | None) -> None:
        """Has the result attested, and then remembered; in what order is armitage.attest.notary's
        matter.
        """
        request, notary = self._request, self._services.notary

        async def keep() -> None:
            if not request.spec.do_not_cache:
                await self._cache(result)

        if judged is None or notary is None:
            await keep()
        else:
            key = (request.action_cache_key, key_of(request.action))
            await notary.attest(*judged, key, keep)

    async def _cache(self, result: bytes) -> None:
        """Remembers a result. Failing to do so is no reason to lose it for the one who waits."""
        request = self._request
        try:
            await self._services.action_cache.put(request.action_cache_key, request.action, result)
        except CasError as error:
            _log.warning("the result of action %s could not be cached: %s", request.action, error)

    def _fail(self, error: Exception, attempt: Attempt) -> Answer:
        match error:
            case TimedOut():
                result = timed_out_result(
                    error, worker=attempt.worker, queued_at=self._request.queued_at
                )
                return Answer.of_error(error, result.SerializeToString())
            case InputsMissing(digests=digests):
                return Answer.of_error(missing_blobs(digests, self._request.notation))
            case _:
                return Answer.of_error(error)

    def _log_end(self, outcome: Outcome | Exception, attempt: Attempt, answer: Answer) -> None:
        spent = {
            "worker": attempt.worker,
            "attempt": attempt.number,
            "queued_s": _seconds(attempt.queued_s),
            "total_s": _seconds(self._services.clock.wall() - self._request.queued_at),
        }
        if isinstance(outcome, Exception):
            self._log_line(f"failed: {outcome}", spent)
            return
        timings = outcome.timings
        spent["staging_s"] = _seconds(timings.input_fetch_completed - timings.worker_start)
        spent["run_s"] = _seconds(outcome.resources.wall_s)
        spent["upload_s"] = _seconds(timings.output_upload_completed - timings.output_upload_start)
        lost = "; its result was not recorded" if answer.status else ""
        self._log_line(f"exited with {outcome.exit_code}{lost}", spent)

    def _log_line(self, what: str, fields: Mapping[str, object]) -> None:
        """Logs in the context of the call that asked for the action."""
        digest = self._request.action.hash[:12]
        self.context.copy().run(_log.info, "action %s %s", digest, what, extra=dict(fields))


def _seconds(duration: float) -> str:
    return f"{duration:.3f}"
