"""The one gate from errors to statuses: the only place that knows which exception is which code
(REAPI, per-method errors).
"""

from __future__ import annotations

import logging
import secrets

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from armitage import errors
from armitage.transport.port import Code, Status
from cas import errors as cas_errors
from executor import errors as executor_errors

_log = logging.getLogger(__name__)

_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (errors.InvalidRequest, Code.INVALID_ARGUMENT),
    (errors.NotFound, Code.NOT_FOUND),
    (errors.OutOfRange, Code.OUT_OF_RANGE),
    (errors.PreconditionFailed, Code.FAILED_PRECONDITION),
    (errors.Aborted, Code.ABORTED),
    (errors.PermissionDenied, Code.PERMISSION_DENIED),
    (errors.Unauthenticated, Code.UNAUTHENTICATED),
    (errors.Exhausted, Code.RESOURCE_EXHAUSTED),
    (errors.Unavailable, Code.UNAVAILABLE),
    (errors.Unsupported, Code.UNIMPLEMENTED),
    (errors.Cancelled, Code.CANCELLED),
    (DecodeError, Code.INVALID_ARGUMENT),
    (cas_errors.InvalidDigest, Code.INVALID_ARGUMENT),
    (cas_errors.DigestMismatch, Code.INVALID_ARGUMENT),
    (cas_errors.BlobTooLarge, Code.INVALID_ARGUMENT),
    (cas_errors.BadCompressedData, Code.INVALID_ARGUMENT),
    (cas_errors.BlobNotFound, Code.NOT_FOUND),
    (cas_errors.OffsetOutOfRange, Code.OUT_OF_RANGE),
    (cas_errors.StoreFull, Code.RESOURCE_EXHAUSTED),
    (cas_errors.StoreUnavailable, Code.UNAVAILABLE),
    (executor_errors.InvalidInput, Code.INVALID_ARGUMENT),
    (executor_errors.InputsMissing, Code.FAILED_PRECONDITION),
    (executor_errors.InvalidOutput, Code.FAILED_PRECONDITION),
    (executor_errors.SandboxUnavailable, Code.FAILED_PRECONDITION),
    (executor_errors.DevicesUnavailable, Code.FAILED_PRECONDITION),
    (executor_errors.TimedOut, Code.DEADLINE_EXCEEDED),
    (executor_errors.WorkerFailure, Code.INTERNAL),
)


def code_of(error: BaseException) -> Code:
    """The code that `status_of` answers, for who only counts: nothing is logged."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Code.INTERNAL


def status_of(error: BaseException) -> Status:
    """Turns any exception into a status.

    Unknown ones are our bugs: logged in full, answered with an incident number only.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            return _with_details(code, str(error), _details(error))
    incident = secrets.token_hex(4)
    _log.error("internal error, incident %s", incident, exc_info=error)
    return Status(Code.INTERNAL, f"internal error; the server's log has it as incident {incident}")


def rpc_status(status: Status) -> status_pb2.Status:
    """The same status as a google.rpc.Status, for fields such as `ExecuteResponse.status`."""
    if status.details:
        return status_pb2.Status.FromString(status.details)
    return status_pb2.Status(code=status.code, message=status.message)


def _with_details(code: Code, message: str, details: list[Message]) -> Status:
    if not details:
        return Status(code, message)
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    full = status_pb2.Status(code=code, message=message, details=packed)
    return Status(code, message, full.SerializeToString())


def _details(error: BaseException) -> list[Message]:
    match error:
        case errors.InvalidRequest(violations=violations) if violations:
            return [
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=field, description=description
                        )
                        for field, description in violations
                    ]
                )
            ]
        case errors.PreconditionFailed(missing=missing) if missing:
            return [
                error_details_pb2.PreconditionFailure(
                    violations=[
                        error_details_pb2.PreconditionFailure.Violation(
                            type="MISSING", subject=subject
                        )
                        for subject in missing
                    ]
                )
            ]
        case errors.Exhausted(retry_after_s=delay) | errors.Unavailable(retry_after_s=delay):
            return [] if delay is None else [_retry_info(delay)]
        case _:
            return []


def _retry_info(delay_s: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(int(delay_s * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)
