"""What goes out after the messages of a call: statuses, with what handlers said beside them, that
fit in what clients take for trailers.
"""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from armitage.transport.port import Code, Status, Trailers, said_trailers
from armitage.transport.rpc.metadata import encode_message

_TRAILER_BYTES = 7 * 1024
"""As sent. Clients refuse trailers over 8 KiB (gRPC's default), of which names and padding want a
part.
"""

_TEXT_BYTES = 1024
"""Before it is percent-encoded, which makes at most three times as much of it."""


def fit(status: Status) -> Status:
    """Adds what the handler said, shortens texts and drops details until all fit, and answers the
    status as it is if it does.
    """
    message, details = _short(status.message, _TEXT_BYTES), status.details
    trailers = _short_trailers(said_trailers())
    texts = (message, *map("".join, trailers))
    left = _TRAILER_BYTES - sum(len(encode_message(text)) for text in texts)
    if len(details) * 4 > left * 3:  # They go in base64.
        details = _shortened(details, message, left * 3 // 4)
    if message is status.message and details is status.details and not trailers:
        return status
    return Status(status.code, message, details, trailers)


def ok_status() -> Status | None:
    """The status of a call that went well, where its handler said more than that; else None."""
    said = said_trailers()
    return Status(Code.OK, trailers=_short_trailers(said)) if said else None


def _short_trailers(said: Trailers) -> Trailers:
    """All together as long as a message may be; what comes after that is left out."""
    fitting: list[tuple[str, str]] = []
    left = _TEXT_BYTES
    for name, text in said:
        if left > len(name):
            fitting.append((name, _short(text, left - len(name))))
            left -= len(name) + len(text.encode("utf-8", "replace"))
    return tuple(fitting)


def _short(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[:limit].decode("utf-8", "ignore") + "..."


def _shortened(details: bytes, message: str, limit: int) -> bytes:
    """Drops violations until the rest fits, and everything if that does not help. A client that
    mends the ones it is told of learns of the others when it tries again.
    """
    status = status_pb2.Status.FromString(details)
    status.message = message  # Clients check that it is the one of the other trailer.
    shorter: bytes = status.SerializeToString()
    while len(shorter) > limit:
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
