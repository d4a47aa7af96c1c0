"""Who calls and why: the REAPI `RequestMetadata` header."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.transport.port import Call

HEADER = "build.bazel.remote.execution.v2.requestmetadata-bin"

_MAX_FIELD_CHARS = 256
"""Longer values are cut: they are ids and labels, and end up in logs and in memory."""


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    """What a client says of itself. Unproven: for logs, retention and fairness, not for rights."""

    tool_name: str = ""
    tool_version: str = ""
    action_id: str = ""
    tool_invocation_id: str = ""
    correlated_invocations_id: str = ""
    action_mnemonic: str = ""
    target_id: str = ""
    configuration_id: str = ""


def request_metadata(call: Call) -> RequestMetadata:
    """Answers what the call's header says; all fields are empty where it is absent or malformed.

    A malformed header is no error: it is advice (REAPI, `RequestMetadata`), and a call must not
    fail for it.
    """
    header = call.metadata.get(HEADER)
    return _parse(header) if isinstance(header, bytes) else _NOTHING


_NOTHING = RequestMetadata()


@lru_cache(maxsize=1024)
def _parse(header: bytes) -> RequestMetadata:
    try:
        wire = reapi.RequestMetadata.FromString(header)
    except DecodeError:
        return _NOTHING
    return RequestMetadata(
        tool_name=wire.tool_details.tool_name[:_MAX_FIELD_CHARS],
        tool_version=wire.tool_details.tool_version[:_MAX_FIELD_CHARS],
        action_id=wire.action_id[:_MAX_FIELD_CHARS],
        tool_invocation_id=wire.tool_invocation_id[:_MAX_FIELD_CHARS],
        correlated_invocations_id=wire.correlated_invocations_id[:_MAX_FIELD_CHARS],
        action_mnemonic=wire.action_mnemonic[:_MAX_FIELD_CHARS],
        target_id=wire.target_id[:_MAX_FIELD_CHARS],
        configuration_id=wire.configuration_id[:_MAX_FIELD_CHARS],
    )
