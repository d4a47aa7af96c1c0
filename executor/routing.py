"""Which executor runs an action: the first that its coeffects accept and that can run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from executor.coeffects import SandboxKind
from executor.errors import SandboxUnavailable
from executor.ports import Executor, Progress
from executor.spec import Outcome, Work


def _always(work: Work) -> bool:
    del work
    return True


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of sandbox that this host has."""

    kind: SandboxKind
    executor: Executor
    suits: Callable[[Work], bool] = field(default=_always)
    """Whether the executor can do with an action at all. Asked only where several kinds are
    accepted: an executor says better than this what is wrong.
    """


class RoutingExecutor:
    """Runs each action in a kind of sandbox that it accepts. Owns none of the executors."""

    def __init__(
        self,
        routes: Sequence[Route],
        default: Executor,
        lacking: Mapping[SandboxKind, str] | None = None,
    ) -> None:
        """`routes` are in order of preference; `default` runs what accepts any kind; `lacking` says
        why this host does not have a kind, and what to do about it.
        """
        self._routes = {route.kind: route for route in routes}
        self._default = default
        self._lacking = dict(lacking or {})

    @property
    def kinds(self) -> tuple[SandboxKind, ...]:
        """The kinds of sandbox that actions may ask for, in order of preference."""
        return tuple(self._routes)

    def kind_of(self, work: Work) -> SandboxKind | None:
        """Answers the kind of sandbox that an action goes to by its wish; None: the default.

        Raises SandboxUnavailable as execute does.
        """
        route = self._choose(work)
        return None if route is None else route.kind

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        """Runs one action; see executor.ports.Executor.

        Raises SandboxUnavailable when the action accepts no kind that this host has.
        """
        route = self._choose(work)
        return await (route.executor if route else self._default).execute(work, progress)

    def _choose(self, work: Work) -> Route | None:
        wanted = work.coeffects.sandboxes
        if not wanted:
            return None
        accepted = [route for kind, route in self._routes.items() if kind in wanted]
        if not accepted:
            raise SandboxUnavailable(self._complaint(wanted))
        return next((one for one in accepted if one.suits(work)), accepted[0])

    def _complaint(self, wanted: frozenset[SandboxKind]) -> str:
        asked = sorted(kind.value for kind in wanted)
        reasons = "".join(
            f"; {kind}: {self._lacking[SandboxKind(kind)]}"
            for kind in asked
            if SandboxKind(kind) in self._lacking
        )
        offered = ", ".join(sorted(kind.value for kind in self._routes)) or "none"
        return (
            f"the action accepts no sandbox but {' or '.join(asked)}, and this worker has none of"
            f" that kind (it has: {offered}){reasons}"
        )
