"""A daemon whose actions run as plain processes and say themselves what they used: everything but
the sandbox is real. What is said is in the variable USED, which real sandboxes find out.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from armitage import daemon as daemons
from armitage.executors import Execution, Means
from executor.coeffects import SandboxKind
from executor.errors import SandboxUnavailable
from executor.evidence import Evidence, Opened, Reached
from executor.options import ExecutorOptions
from executor.ports import Executor
from executor.process import Job
from executor.unsandboxed import UnsandboxedExecutor


class TellingExecutor(UnsandboxedExecutor):
    """Believes what an action says in USED: `HOST:PORT`, `PATH` and `auth=NAME`, with spaces
    between; `nothing` for no evidence at all.
    """

    async def _evidence(self, job: Job) -> Evidence | None:
        words = dict(job.work.environment).get("USED", "").split()
        if words == ["nothing"]:
            return None
        hosts = [word.rpartition(":") for word in words if ":" in word]
        return Evidence(
            SandboxKind.NAMESPACE,
            reached=tuple(Reached(host, int(port)) for host, _, port in hosts),
            credentials=tuple(
                word.removeprefix("auth=") for word in words if word.startswith("auth=")
            ),
            opened=tuple(Opened(word, written=False) for word in words if word.startswith("/")),
        )


def let_actions_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every daemon execute so from now on."""

    async def open_executors(
        stack: AsyncExitStack, means: Means, options: ExecutorOptions, *_: object, **__: object
    ) -> tuple[Executor | None, Execution]:
        try:
            telling = TellingExecutor(means.store, means.codec, options, means.wall)
        except SandboxUnavailable as error:
            pytest.skip(str(error))
        stack.push_async_callback(telling.close)
        return telling, Execution(enabled=True, sandboxed=True, reason="as told")

    monkeypatch.setattr(daemons, "open_executors", open_executors)
