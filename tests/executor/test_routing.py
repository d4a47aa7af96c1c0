"""Which executor an action goes to."""

import pytest
from support.executing import SHA256, Seen
from support.scripted_executor import ScriptedExecutor

from armitage.reapi.gate import status_of
from armitage.transport.port import Code
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, SandboxKind
from executor.errors import SandboxUnavailable
from executor.routing import Route, RoutingExecutor
from executor.spec import Work

WASM, NAMESPACE, MICROVM = SandboxKind.WASM, SandboxKind.NAMESPACE, SandboxKind.MICROVM


def scripted() -> ScriptedExecutor:
    return ScriptedExecutor(MemoryStore(), lambda: 0.0)


def work(*kinds: SandboxKind) -> Work:
    declared = Coeffects(sandboxes=frozenset(kinds))
    return Work("w", SHA256, SHA256.empty, ("true",), coeffects=declared)


class Bench:
    def __init__(self, *, wasm_suits: bool = True) -> None:
        self.wasm, self.namespace, self.default = scripted(), scripted(), scripted()
        self.routing = RoutingExecutor(
            [Route(WASM, self.wasm, lambda _: wasm_suits), Route(NAMESPACE, self.namespace)],
            self.default,
            {MICROVM: "no KVM; load its module"},
        )

    async def taken_by(self, *kinds: SandboxKind) -> list[str]:
        await self.routing.execute(work(*kinds), Seen())
        places = {"wasm": self.wasm, "namespace": self.namespace, "default": self.default}
        return [name for name, executor in places.items() if executor.runs]


async def test_action_without_a_wish_goes_to_the_default() -> None:
    assert await Bench().taken_by() == ["default"]


@pytest.mark.parametrize(("kind", "taken"), [(WASM, "wasm"), (NAMESPACE, "namespace")])
async def test_action_goes_to_the_kind_it_accepts(kind: SandboxKind, taken: str) -> None:
    assert await Bench().taken_by(kind) == [taken]


async def test_preferred_kind_is_first_among_several() -> None:
    assert await Bench().taken_by(MICROVM, NAMESPACE, WASM) == ["wasm"]


async def test_kind_that_cannot_run_it_is_passed_over() -> None:
    assert await Bench(wasm_suits=False).taken_by(NAMESPACE, WASM) == ["namespace"]


async def test_only_kind_gets_the_action_even_if_it_cannot_run_it() -> None:
    assert await Bench(wasm_suits=False).taken_by(WASM, MICROVM) == ["wasm"]


async def test_kind_that_the_host_lacks_is_refused_with_its_reason() -> None:
    bench = Bench()

    with pytest.raises(SandboxUnavailable) as raised:
        await bench.routing.execute(work(MICROVM), Seen())

    assert str(raised.value) == (
        "the action accepts no sandbox but microvm, and this worker has none of that kind"
        " (it has: namespace, wasm); microvm: no KVM; load its module"
    )
    assert status_of(raised.value).code == Code.FAILED_PRECONDITION
    assert not bench.default.runs


def test_kinds_are_told_in_order_of_preference() -> None:
    assert Bench().routing.kinds == (WASM, NAMESPACE)
