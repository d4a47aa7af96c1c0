"""Statuses that fit in what clients take for trailers."""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from armitage.transport.port import Status

_TRAILER_BYTES = 5 * 1024
"""Clients refuse trailers over 8 KiB (gRPC's default); base64 makes this much of them about 7."""

_MESSAGE_BYTES = 1024


def fit(status: Status) -> Status:
    """Shortens the message and drops details until both fit, and answers the status as it is if
    they do.
    """
    message, details = status.message, status.details
    encoded = message.encode("utf-8", "replace")
    if len(encoded) > _MESSAGE_BYTES:
        message = encoded[:_MESSAGE_BYTES].decode("utf-8", "ignore") + "..."
    if details and len(details) + len(encoded) > _TRAILER_BYTES:
        details = _shortened(details, message)
    if message is status.message and details is status.details:
        return status
    return Status(status.code, message, details)


def _shortened(details: bytes, message: str) -> bytes:
    """Drops violations until the rest fits, and everything if that does not help. A client that
    mends the ones it is told of learns of the others when it tries again.
    """
    status = status_pb2.Status.FromString(details)
    status.message = message  # Clients check that it is the one of the other trailer.
    shorter: bytes = status.SerializeToString()
    while len(shorter) + len(message.encode()) > _TRAILER_BYTES:
        before = len(shorter)
        for packed in status.details:
            _halve(packed)
        shorter = status.SerializeToString()
        if len(shorter) == before:
            return b""
    return shorter


def _halve(packed: any_pb2.Any) -> None:
    for detail, field_name in (
        (error_details_pb2.PreconditionFailure(), "violations"),
        (error_details_pb2.BadRequest(), "field_violations"),
    ):
        if packed.Unpack(detail):
            violations = getattr(detail, field_name)
            del violations[max(1, len(violations) // 2) :]
            packed.Pack(detail)
