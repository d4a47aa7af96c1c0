"""From exceptions to one line for the user and an exit code."""

from __future__ import annotations

from armitage.attest.errors import AttestationError
from armitage.cli.exits import Exit, NotStarted
from armitage.client import errors as client
from armitage.client.channel import CallFailed
from armitage.errors import ConfigError
from armitage.transport.port import Code
from executor.errors import SandboxUnavailable

_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (client.BlobMissing, Exit.NO),
    (client.NotThere, Exit.NO),
    (client.NoAnswer, Exit.UNREACHABLE),
    (client.UsageError, Exit.USAGE),
    (client.InTheWay, Exit.USAGE),
    (client.ClientError, Exit.REFUSED),
    (AttestationError, Exit.REFUSED),
    (SandboxUnavailable, Exit.NO),
    (ConfigError, Exit.CONFIG),
    (NotStarted, Exit.NOT_STARTED),
)


def explain(error: Exception, server: str | None) -> tuple[Exit, str]:
    """What to tell the user, and with which exit code."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        inner = error.exceptions[0]
        assert isinstance(inner, Exception)
        return explain(inner, server)
    if isinstance(error, CallFailed):
        return _explain_call(error, server)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return Exit.USAGE, f"{error.filename}: {error.strerror}"
    return Exit.BUG, (
        f"internal error: {type(error).__name__}: {error}; please report it with the output of"
        " the same command after `armitage --debug`"
    )


def _explain_call(error: CallFailed, server: str | None) -> tuple[Exit, str]:
    if error.code == Code.UNAVAILABLE:
        with_tls = " with TLS" if server is not None and server.startswith("grpcs:") else ""
        return Exit.UNREACHABLE, (
            f"no answer from {server}: {_first_line(error.message)}; is the daemon running"
            f" there{with_tls}? (scripts/up or armitage serve starts one)"
        )
    if error.code == Code.DEADLINE_EXCEEDED:
        return Exit.UNREACHABLE, f"{server} did not answer in time ({error.path})"
    if error.code == Code.NOT_FOUND:
        return Exit.NO, error.message
    return Exit.REFUSED, f"{server} refused: {error.code.name}: {error.message}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "no reason given"
