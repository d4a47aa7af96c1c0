"""What can go wrong with an action, other than its command failing.

One class for each thing that a caller does differently.
"""

from __future__ import annotations

from collections.abc import Sequence

from cas.digest import Digest


class ExecutorError(Exception):
    """The root of this package's errors."""


class InvalidInput(ExecutorError):
    """The action can never run as it stands: malformed tree, no arguments, a path that leaves the
    root.
    """


class InputsMissing(ExecutorError):
    """Blobs that the action needs are not in the store; uploading them and asking again will help.

    Lists all that were found missing.
    """

    def __init__(self, digests: Sequence[Digest]) -> None:
        shown = ", ".join(str(digest) for digest in digests[:3])
        more = f" and {len(digests) - 3} more" if len(digests) > 3 else ""
        super().__init__(f"inputs are missing from the store: {shown}{more}")
        self.digests = tuple(digests)


class InvalidOutput(ExecutorError):
    """The command ran, but what it left at an output path cannot be an output (wrong type, a
    socket, a name that is not UTF-8, too large).
    """


class TimedOut(ExecutorError):
    """The command was killed at its timeout, with its whole process tree.

    What it had printed is in the store.
    """

    def __init__(self, timeout_s: float, stdout: Digest, stderr: Digest) -> None:
        super().__init__(f"the command was killed at its timeout of {timeout_s:g} s")
        self.timeout_s = timeout_s
        self.stdout = stdout
        self.stderr = stderr


class SandboxUnavailable(ExecutorError):
    """This host cannot make the sandbox. The message says why and what to install or allow."""


class DevicesUnavailable(ExecutorError):
    """This host does not have the devices that an action declares, or none is to be had now."""


class WorkerFailure(ExecutorError):
    """The machinery failed, not the action (disk full in scratch space, launcher died); another try
    may succeed.
    """
