"""Which blobs there are, by last touch: sets that behave like one list of times."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.index import WINDOWS_PER_LEASE, Generation, Index

LEASE_S = 1200.0
WINDOW_S = LEASE_S / WINDOWS_PER_LEASE
NAMES = [b"%d" % number for number in range(12)]


def test_what_is_added_is_there_and_what_is_removed_is_not() -> None:
    index = Index(LEASE_S, 0.0)
    index.add([b"a", b"b"], 0.0)

    assert index.remove(b"a")
    assert not index.remove(b"a")

    assert (b"a" in index, b"b" in index, len(index), list(index)) == (False, True, 1, [b"b"])


def test_touch_answers_what_is_missing_and_what_was_recorded() -> None:
    index = Index(LEASE_S, 0.0)
    index.add([b"a", b"b"], 0.0)

    first = index.touch([b"a", b"x"], 1.0)
    later = index.touch([b"a", b"b", b"x"], WINDOW_S + 1)
    again = index.touch([b"a", b"b"], WINDOW_S + 2)

    assert (first.missing, first.recorded) == ({b"x"}, set())
    assert (later.missing, later.recorded) == ({b"x"}, {b"a", b"b"})
    assert (again.missing, again.recorded) == (set(), set())


def test_fresh_are_those_touched_in_this_window() -> None:
    index = Index(LEASE_S, 0.0)
    index.add([b"a", b"b"], 0.0)
    assert index.fresh == {b"a", b"b"}

    index.turn(WINDOW_S)
    assert index.fresh == set()
    index.touch([b"a"], WINDOW_S)

    assert index.fresh == {b"a"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "touch", "remove", "wait"]),
            st.sets(st.sampled_from(NAMES), min_size=1, max_size=4),
            st.integers(0, 600),
        ),
        max_size=60,
    )
)
def test_no_lease_is_shorter_than_it_should_be_nor_a_window_longer(
    steps: list[tuple[str, set[bytes], int]],
) -> None:
    index = Index(LEASE_S, 0.0)
    touched: dict[bytes, float] = {}
    now = 0.0
    for what, keys, wait_s in steps:
        match what:
            case "add":
                index.add(keys - touched.keys(), now)
                touched |= dict.fromkeys(keys, now) if not index.touch(keys, now).missing else {}
            case "touch":
                missing, _ = index.touch(keys, now)
                assert missing == keys - touched.keys()
                touched |= dict.fromkeys(keys - missing, now)
            case "remove":
                for key in keys:
                    assert index.remove(key) == (touched.pop(key, None) is not None)
            case _:
                now += wait_s

        assert set(index) == touched.keys()
        assert len(index) == len(touched)
        expired = list(index.expired(now))
        must = {key for key, time in touched.items() if now >= time + LEASE_S + WINDOW_S}
        may = {key for key, time in touched.items() if now >= time + LEASE_S}
        assert must <= set(expired) <= may
        for key, time in touched.items():
            left_s = index.lease_left_s(key, now)
            assert left_s is not None
            assert time + LEASE_S - now <= left_s <= max(0, time + LEASE_S + WINDOW_S - now)


def test_expired_come_oldest_first() -> None:
    index = Index(LEASE_S, 0.0)
    for number, name in enumerate(NAMES):
        index.add([name], number * WINDOW_S)
    index.touch([NAMES[0]], len(NAMES) * WINDOW_S)

    assert list(index.expired(100 * LEASE_S)) == [*NAMES[1:], NAMES[0]]


def test_without_a_lease_the_order_is_that_of_last_use() -> None:
    index = Index(0.0, 0.0)
    for name in NAMES:
        index.add([name], 0.0)

    index.touch([NAMES[3]], 0.0)
    index.touch([NAMES[0]], 0.0)

    rest = [name for name in NAMES if name not in {NAMES[0], NAMES[3]}]
    assert list(index.expired(0.0)) == [*rest, NAMES[3], NAMES[0]]


@pytest.mark.parametrize("lease_s", [0.0, LEASE_S])
def test_generations_stay_few(lease_s: float) -> None:
    chance = random.Random(1)
    index = Index(lease_s, 0.0)
    now = 0.0
    for number in range(3000):
        index.add([b"%d" % number], now)
        index.touch([b"%d" % chance.randrange(number + 1)], now)
        now += 0.2 * WINDOW_S

    assert len(index) == 3000
    assert len(index.generations()) <= 32


def test_restored_generations_keep_their_times() -> None:
    index = Index(LEASE_S, 50 * WINDOW_S)
    index.restore([Generation({b"%d" % n}, n * WINDOW_S) for n in range(50)])

    assert len(index) == 50
    now = 50 * WINDOW_S
    expired = set(index.expired(now))
    assert expired <= {b"%d" % n for n in range(50) if n * WINDOW_S + LEASE_S <= now}
    assert b"0" in expired


def test_clock_that_steps_back_shortens_no_lease() -> None:
    index = Index(LEASE_S, 1000.0)
    index.add([b"a"], 1000.0)

    index.touch([b"a"], 10.0)

    assert list(index.expired(1000.0 + LEASE_S - 1)) == []
