"""Which call, and whatever else is known of it, the running code serves.

A transport runs each call in a context (contextvars) of its own, so what is set here lasts as long
as the call and is seen by nothing else. Setting costs next to nothing; the words are made only when
a log line is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import MappingProxyType

from armitage.reapi.request_metadata import request_metadata
from armitage.transport.port import Call

_call: ContextVar[Call | None] = ContextVar("armitage_call", default=None)
_bound: ContextVar[Mapping[str, str]] = ContextVar("armitage_bound", default=MappingProxyType({}))


def remember_call(call: Call) -> Token[Call | None]:
    """Makes the call known to the rest of its context, or until it is forgotten."""
    return _call.set(call)


def forget_call(token: Token[Call | None]) -> None:
    """Takes `remember_call` back, where a call has no context of its own."""
    _call.reset(token)


def add_fields(**fields: str) -> None:
    """Adds fields for the rest of the context (usually: of the call)."""
    _bound.set({**_bound.get(), **fields})


@contextmanager
def bound_fields(**fields: str) -> Iterator[None]:
    """Adds fields, such as the action that a worker runs, to what is logged inside."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def current_fields() -> dict[str, str]:
    """What is known here: the call's method, client and RequestMetadata, then the added fields."""
    call = _call.get()
    if call is None:
        return dict(_bound.get())
    said = request_metadata(call)
    client = "/".join(part for part in (said.tool_name, said.tool_version) if part)
    known = {
        "method": call.path,
        "peer": call.peer,
        "identity": call.identity or "",
        "client": client,
        "invocation": said.tool_invocation_id,
        "action": said.action_id,
        "target": said.target_id,
    }
    return {name: value for name, value in known.items() if value} | dict(_bound.get())
