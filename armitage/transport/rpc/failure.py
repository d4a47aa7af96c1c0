"""What ends a call within the transport itself, before any handler could say how."""

from __future__ import annotations

from armitage.transport.port import Code, Status


class RpcFailure(Exception):
    """The call must end with this status."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.status = Status(code, message)
