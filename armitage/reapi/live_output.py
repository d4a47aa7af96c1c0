"""Live stdout and stderr of running actions, as logs that clients follow (REAPI `LogStream`)."""

from __future__ import annotations

from armitage.errors import Exhausted
from armitage.reapi.execution_job import OutputStream
from armitage.reapi.logstream import Log, LogStreams


class LiveOutput:
    """Gives each operation a log for stdout and one for stderr (REAPI `LogStream`)."""

    def __init__(self, logs: LogStreams) -> None:
        self._logs = logs

    def open(self, operation: str) -> tuple[OutputStream, OutputStream]:
        """Opens stdout and stderr."""
        instance = operation.rpartition("operations/")[0].removesuffix("/")
        return self._one(instance), self._one(instance)

    def _one(self, instance: str) -> OutputStream:
        """Live output is a comfort: where there is no room for it, the action runs without."""
        try:
            return _OutputLog(self._logs.create(instance))
        except Exhausted:
            return _OutputLog(None)


class _OutputLog:
    """A log as an action writes it."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.name = "" if log is None else log.name

    def append(self, data: bytes) -> None:
        """Adds bytes."""
        if self._log is not None:
            self._log.write(data)

    def finish(self) -> None:
        """Ends the log."""
        if self._log is not None:
            self._log.finish()
