"""The core that decides what a store gives up, against a model that keeps everything plainly."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cas.digest import Digest, DigestFunction
from cas.errors import StoreFull
from cas.eviction import Index

LEASE_S = 1200.0
WINDOW_S = LEASE_S / 12
LIMIT = 100


def blob(seed: int, size: int = 10) -> Digest:
    return Digest(DigestFunction.SHA256, f"{seed:064x}", size)


BLOBS = [blob(seed, size=5 + 7 * (seed % 5)) for seed in range(12)]
HOLDERS = ["invocation:1", "invocation:2", "operation:1"]
some_blobs = st.lists(st.sampled_from(BLOBS), max_size=6)


class EvictionMachine(RuleBasedStateMachine):
    """Checks each step by what must be so at any time, in real time, whatever the clock shows."""

    lease_s = LEASE_S

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(LIMIT, self.lease_s)
        self.real = 0.0
        self.clock = 1000.0
        self.touched: dict[Digest, float] = {}
        self.held: dict[str, set[Digest]] = {}
        self.ever_held: set[Digest] = set()

    @rule(seconds=st.sampled_from([0.0, 1.0, WINDOW_S - 1, WINDOW_S, LEASE_S, 2 * LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.real += seconds
        self.clock += seconds

    @rule(seconds=st.sampled_from([1.0, LEASE_S, 10 * LEASE_S]))
    def step_back(self, seconds: float) -> None:
        self.clock -= seconds

    @rule(digests=some_blobs)
    def find(self, digests: list[Digest]) -> None:
        found = self.index.find(digests, self.clock)

        assert found.missing == [d for d in digests if d not in self.touched]
        assert set(found.recorded) <= set(digests) - set(found.missing)
        for digest in digests:
            if digest in self.touched:
                self.touched[digest] = self.real

    @rule(digest=st.sampled_from(BLOBS))
    def put(self, digest: Digest) -> None:
        if digest in self.index:
            return
        over = sum(d.size_bytes for d in self.touched) + digest.size_bytes - LIMIT
        try:
            victims = self.index.reserve(digest.size_bytes, self.clock)
        except StoreFull:
            assert self.stepped_back or over > sum(d.size_bytes for d in self.free_to_go())
            return
        self.index.unreserve(digest.size_bytes)
        self.index.add(digest, self.clock)

        for victim in victims:
            assert victim not in set().union(*self.held.values())
            assert self.real - self.touched.pop(victim) >= self.lease_s
        assert sum(v.size_bytes for v in victims[:-1]) < max(over, 1), "more than needed went"
        self.touched[digest] = self.real

    @property
    def stepped_back(self) -> bool:
        return self.clock - self.real < 1000.0

    def free_to_go(self) -> set[Digest]:
        """What no lease or holder protects by any reading; leases may last a window longer, and so
        do those of blobs that were found held when room was wanted.
        """
        held = set().union(*self.held.values()) | self.ever_held
        return {
            digest
            for digest, touched in self.touched.items()
            if digest not in held and self.real - touched >= self.lease_s + WINDOW_S
        }

    @rule(holder=st.sampled_from(HOLDERS), digests=some_blobs)
    def hold(self, holder: str, digests: list[Digest]) -> None:
        self.ever_held = self.ever_held | set(digests)
        self.index.hold(holder, digests)
        self.held.setdefault(holder, set()).update(digests)

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        self.index.release(holder)
        self.held.pop(holder, None)

    @precondition(lambda self: self.touched)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.touched)))
        self.index.remove(digest)
        self.index.remove(digest)
        del self.touched[digest]

    @invariant()
    def index_agrees(self) -> None:
        assert {d for d in BLOBS if d in self.index} == set(self.touched)
        assert len(self.index) == len(self.touched)
        assert self.index.bytes == sum(d.size_bytes for d in self.touched) <= LIMIT
        assert self.index.reserved_bytes == 0
        assert self.index.held == len(set().union(*self.held.values()))
        assert self.index.holders == len(self.held)


class NoLeaseMachine(EvictionMachine):
    lease_s = 0.0


SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [EvictionMachine, NoLeaseMachine])
def test_index_keeps_its_promises_in_any_order_of_events(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


def test_without_leases_the_order_is_that_of_exact_last_use() -> None:
    index = Index(30, 0.0)
    a, b, c = three = [blob(seed) for seed in range(3)]
    for digest in three:
        index.add(digest, 5.0)
    for digest in (b, a, b):
        index.find([digest], 5.0)

    assert index.evict(30, 5.0) == [c, a, b]


def test_touch_is_recorded_once_in_a_window() -> None:
    index = Index(LIMIT, LEASE_S)
    digest = blob(1)
    index.add(digest, 0.0)

    recorded = [set(index.find([digest], t).recorded) for t in (0, 1, WINDOW_S - 1, WINDOW_S, 101)]

    assert recorded == [{digest}, set(), set(), {digest}, set()]


def test_lease_runs_in_full_from_a_touch_that_was_not_recorded() -> None:
    index = Index(10, LEASE_S)
    index.add(blob(1), 0.0)
    index.find([blob(1)], 0.0)
    index.find([blob(1)], WINDOW_S - 1)

    with pytest.raises(StoreFull):
        index.reserve(10, WINDOW_S - 1 + LEASE_S)
    assert index.reserve(10, WINDOW_S + LEASE_S) == [blob(1)]


def test_held_blobs_do_not_slow_down_every_write() -> None:
    index = Index(40, LEASE_S)
    held, free = blob(1, 20), blob(2, 20)
    index.add(held, 0.0)
    index.hold("invocation:1", [held])
    index.add(free, 0.0)
    now = 10 * LEASE_S

    assert index.evict(1, now) == [free]

    assert next(iter(index._order)) == held
    assert index._touched[held] == now


def test_message_of_a_full_store_says_what_to_do() -> None:
    index = Index(10, LEASE_S)
    index.add(blob(1), 0.0)

    with pytest.raises(StoreFull, match="raise the size limit or shorten the lease"):
        index.reserve(1, 1.0)
