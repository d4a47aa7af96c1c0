"""Who holds which GPU: the rules at the head of executor.isospin.pool, as plays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gpus import gpu

from executor.isospin.device import Device, Need
from executor.isospin.pool import (
    Asked,
    Command,
    Event,
    Found,
    Granted,
    LeasePool,
    Refused,
    Released,
    Revoked,
    WhenNone,
)


def play(pool: LeasePool, *events: Event) -> list[str]:
    """What came of the events, in short: `1 has a,b`, `2 refused`, `3 lost`."""
    return [_short(command) for event in events for command in pool.handle(event)]


def _short(command: Command) -> str:
    match command:
        case Granted(ticket, lease):
            return f"{ticket} has {','.join(part.device.uuid for part in lease.parts)}"
        case Refused(ticket):
            return f"{ticket} refused"
        case Revoked(ticket):
            return f"{ticket} lost"


def ask(ticket: int, **need: int | str) -> Asked:
    return Asked(ticket, f"holder {ticket}", Need(**need))  # type: ignore[arg-type]


def pool_of(
    *devices: Device, when_none: WhenNone = WhenNone.QUEUE, share: bool = False
) -> LeasePool:
    pool = LeasePool(when_none, shares_memory=share)
    pool.handle(Found(devices))
    return pool


def test_device_is_held_by_one_at_a_time() -> None:
    pool = pool_of(gpu("a"))

    assert play(pool, ask(1), ask(2)) == ["1 has a"]
    assert play(pool, Released(1)) == ["2 has a"]


def test_all_devices_of_a_lease_are_got_at_once() -> None:
    pool = pool_of(gpu("a"), gpu("b"))

    assert play(pool, ask(1), ask(2, count=2)) == ["1 has a"]
    assert [lease.ticket for lease in pool.leases] == [1]
    assert play(pool, Released(1)) == ["2 has a,b"]


def test_smallest_device_that_suits_goes_first() -> None:
    pool = pool_of(gpu("large", 81_559), gpu("small", 40_960))

    assert play(pool, ask(1), ask(2)) == ["1 has small", "2 has large"]


@pytest.mark.parametrize(
    "need",
    [{"memory_mib": 81_560}, {"sm": 91}, {"count": 2}, {"architecture": 80}, {"driver": "580.1"}],
)
def test_ask_that_no_device_can_ever_satisfy_is_refused(need: dict[str, int | str]) -> None:
    pool = pool_of(gpu("a"))

    assert play(pool, ask(1, **need)) == ["1 refused"]


def test_refusal_says_what_was_asked_and_what_there_is() -> None:
    pool = pool_of(gpu("a"))

    (refused,) = pool.handle(ask(1, count=2, memory_mib=90_000, driver="1.2"))

    assert isinstance(refused, Refused)
    assert refused.reason == (
        "gpu:2:mem>=90000 with driver 1.2: no GPU of this host can ever do"
        " (it has: NVIDIA H100 80GB HBM3, 81559 MiB, sm_90, driver 580.159.04)"
    )


def test_later_ask_does_not_take_what_an_earlier_one_waits_for() -> None:
    pool = pool_of(gpu("a"), gpu("b"))

    assert play(pool, ask(1), ask(2, count=2), ask(3)) == ["1 has a"]
    assert play(pool, Released(1)) == ["2 has a,b"]
    assert play(pool, Released(2)) == ["3 has a"]


def test_later_ask_gets_what_earlier_ones_cannot_use() -> None:
    pool = pool_of(gpu("a", sm=90), gpu("old", sm=75))

    assert play(pool, ask(1, sm=90), ask(2, sm=90), ask(3)) == ["1 has a", "3 has old"]


def test_withdrawn_ask_lets_the_next_pass() -> None:
    pool = pool_of(gpu("a"), gpu("b"))
    play(pool, ask(1), ask(2, count=2), ask(3))

    assert play(pool, Released(2)) == ["3 has b"]


def test_ask_is_refused_when_configured_not_to_wait() -> None:
    pool = pool_of(gpu("a"), when_none=WhenNone.FAIL)

    assert play(pool, ask(1), ask(2)) == ["1 has a", "2 refused"]
    assert play(pool, Released(1), ask(3)) == ["3 has a"]


def test_ask_can_wait_for_devices_that_are_not_there_yet() -> None:
    pool = pool_of(when_none=WhenNone.WAIT)

    assert play(pool, ask(1)) == []
    assert play(pool, Found((gpu("a"),))) == ["1 has a"]


def test_waiting_ask_is_refused_once_its_device_is_gone() -> None:
    pool = pool_of(gpu("a"), gpu("b", sm=75))
    play(pool, ask(1, sm=90), ask(2, sm=90))

    assert play(pool, Found((gpu("b", sm=75),))) == ["1 lost", "2 refused"]


def test_faulty_device_is_given_to_nobody_and_taken_from_its_holder() -> None:
    pool = pool_of(gpu("a"))
    play(pool, ask(1))

    assert play(pool, Found((gpu("a", fault="fell off the bus"),))) == ["1 lost"]
    assert play(pool, ask(2)) == []
    assert play(pool, Found((gpu("a"),))) == ["2 has a"]


@pytest.mark.parametrize("changed", [gpu("a", driver="999"), gpu("a", memory_mib=10_000)])
def test_device_that_changes_under_its_holder_is_lost_to_him(changed: Device) -> None:
    pool = pool_of(gpu("a"))
    play(pool, ask(1))

    assert play(pool, Found((changed,))) == ["1 lost"]


def test_memory_is_shared_up_to_what_there_is() -> None:
    pool = pool_of(gpu("a", 80_000), share=True)

    events = [ask(1, memory_mib=40_000), ask(2, memory_mib=30_000), ask(3, memory_mib=20_000)]

    assert play(pool, *events) == ["1 has a", "2 has a"]
    assert [lease.parts[0].memory_mib for lease in pool.leases] == [40_000, 30_000]
    assert play(pool, Released(2)) == ["3 has a"]


def test_who_names_no_memory_shares_with_nobody() -> None:
    pool = pool_of(gpu("a", 80_000), share=True)

    assert play(pool, ask(1, memory_mib=10), ask(2)) == ["1 has a"]
    assert play(pool, Released(1), ask(3, memory_mib=10)) == ["2 has a"]


def test_shares_are_packed_onto_the_fullest_device() -> None:
    pool = pool_of(gpu("a", 80_000), gpu("b", 80_000), share=True)

    assert play(pool, *(ask(n, memory_mib=20_000) for n in (1, 2, 3))) == [
        "1 has a",
        "2 has a",
        "3 has a",
    ]


def test_slice_is_never_one_of_several() -> None:
    pieces = [gpu(name, 9_728, profile="1g.10gb") for name in ("s", "t")]
    pool = pool_of(*pieces)

    assert play(pool, ask(1), ask(2, count=2)) == ["1 has s", "2 refused"]


def test_release_of_an_unknown_ticket_does_nothing() -> None:
    assert play(pool_of(gpu("a")), Released(7)) == []


def test_stats_count() -> None:
    pool = pool_of(gpu("a"), gpu("b", sm=75, fault="x"))
    play(pool, ask(1, sm=90), ask(2, sm=90), ask(3, sm=99))

    stats = pool.stats()

    assert (stats.devices, stats.faulty, stats.held, stats.leases, stats.waiting) == (2, 1, 1, 1, 1)
    assert (stats.granted, stats.refused, stats.revoked) == (1, 1, 0)


DEVICES = st.lists(
    st.builds(
        gpu,
        st.sampled_from("abcd"),
        memory_mib=st.sampled_from([10, 20, 40]),
        sm=st.sampled_from([80, 90]),
        fault=st.sampled_from(["", "", "", "bad"]),
    ),
    max_size=4,
    unique_by=lambda one: one.uuid,
)
NEEDS = st.builds(
    Need,
    count=st.integers(1, 3),
    memory_mib=st.sampled_from([0, 5, 20]),
    sm=st.sampled_from([0, 90]),
)
STEPS = st.lists(st.one_of(DEVICES, NEEDS, st.integers(1, 12)), max_size=25)


@given(STEPS, st.booleans(), st.sampled_from(WhenNone))
def test_whatever_happens_nothing_is_given_twice_and_nobody_is_forgotten(
    steps: list[list[Device] | Need | int], share: bool, when_none: WhenNone
) -> None:
    pool, ticket = LeasePool(when_none, shares_memory=share), 0
    open_tickets: set[int] = set()
    for step in steps:
        if isinstance(step, Need):
            ticket += 1
            open_tickets.add(ticket)
            commands = pool.handle(Asked(ticket, "h", step))
        elif isinstance(step, int):
            open_tickets.discard(step)
            commands = pool.handle(Released(step))
        else:
            commands = pool.handle(Found(tuple(step)))
        ended = {one.ticket for one in commands if isinstance(one, Refused | Revoked)}
        open_tickets -= ended
        _check(pool, open_tickets)


def _check(pool: LeasePool, open_tickets: set[int]) -> None:
    known = {one.ticket for one in pool.leases} | {one.ticket for one in pool.waiting}
    assert known == open_tickets
    devices = {device.uuid: device for device in pool.devices}
    used: dict[str, int] = {}
    for lease in pool.leases:
        assert len({part.device.uuid for part in lease.parts}) == len(lease.parts)
        for part in lease.parts:
            assert not devices[part.device.uuid].fault
            used[part.device.uuid] = used.get(part.device.uuid, 0) + part.memory_mib
    assert all(amount <= devices[uuid].memory_mib for uuid, amount in used.items())
    if pool.waiting:
        # The first in turn could not be served from what is free.
        need = pool.waiting[0].need
        free = [d for d in devices.values() if need.suits(d) and not d.fault and d.uuid not in used]
        assert len(free) < need.count
