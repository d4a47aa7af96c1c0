from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from armitage.scheduler.platforms import Platform
from armitage.scheduler.queue import Entry, FairQueue

ANY: Platform = frozenset()
LINUX: Platform = frozenset({("OSFamily", "linux")})


def everything(platform: Platform) -> bool:
    return True


def fair_queue(**weights: float) -> FairQueue:
    return FairQueue(lambda flow: weights.get(flow, 1.0))


def push(
    queue: FairQueue, name: str, flow: str, priority: int = 0, platform: Platform = ANY
) -> None:
    queue.push(Entry(name, platform, priority, flow))


def drain(queue: FairQueue, count: int | None = None) -> list[str]:
    names = []
    while (name := queue.pop(everything)) is not None:
        names.append(name)
        if len(names) == count:
            break
    return names


def test_one_flow_is_served_in_order() -> None:
    queue = fair_queue()
    for name in "abc":
        push(queue, name, "x")

    assert drain(queue) == ["a", "b", "c"]
    assert queue.pop(everything) is None


def test_lower_priority_value_is_served_first() -> None:
    queue = fair_queue()
    push(queue, "late", "x", 5)
    push(queue, "soon", "y", -5)

    assert drain(queue) == ["soon", "late"]


def test_ten_of_one_client_do_not_wait_for_ten_thousand_of_another() -> None:
    queue = fair_queue()
    for number in range(10_000):
        push(queue, f"big{number}", "big")
    drain(queue, 100)
    for number in range(10):
        push(queue, f"small{number}", "small")

    served = drain(queue, 21)

    assert sum(name.startswith("small") for name in served) == 10


def test_sending_one_at_a_time_is_no_way_past_the_others() -> None:
    queue = fair_queue()
    for number in range(50):
        push(queue, f"patient{number}", "patient")
    served = []
    for number in range(20):
        push(queue, f"eager{number}", "eager")
        served.append(queue.pop(everything))

    assert sum(str(name).startswith("patient") for name in served) >= 9


def test_weights_share_in_proportion() -> None:
    queue = fair_queue(heavy=3.0)
    for number in range(100):
        push(queue, f"heavy{number}", "heavy")
        push(queue, f"light{number}", "light")

    served = drain(queue, 40)

    assert sum(name.startswith("heavy") for name in served) == 30


def test_returned_entry_is_at_the_front_of_its_line() -> None:
    queue = fair_queue()
    for name in "abc":
        push(queue, name, "x")
    assert queue.pop(everything) == "a"

    queue.push(Entry("a", ANY, 0, "x"), front=True)

    assert drain(queue) == ["a", "b", "c"]


def test_worker_gets_only_what_it_matches() -> None:
    queue = fair_queue()
    push(queue, "linux", "x", platform=LINUX)

    assert queue.pop(lambda platform: platform == ANY) is None
    assert queue.pop(lambda platform: platform == LINUX) == "linux"


def test_platforms_of_one_priority_take_turns() -> None:
    queue = fair_queue()
    for number in range(100):
        push(queue, f"any{number}", "x")
    for number in range(3):
        push(queue, f"linux{number}", "y", platform=LINUX)

    assert sum(name.startswith("linux") for name in drain(queue, 7)) == 3


def test_removed_entry_is_not_served_and_leaves_nothing_behind() -> None:
    queue = fair_queue()
    for number in range(10_000):
        push(queue, f"n{number}", f"flow{number}")
        queue.remove(f"n{number}")
    queue.remove("unknown")

    assert len(queue) == queue.flows == 0
    assert queue.platforms == []
    assert queue.pop(everything) is None


def test_cancelling_over_and_over_does_not_grow_a_lane() -> None:
    queue = fair_queue()
    push(queue, "stays", "x")
    for number in range(10_000):
        push(queue, f"n{number}", "y")
        queue.remove(f"n{number}")

    lane = queue._lanes[ANY][0]
    assert len(lane._order) < 200
    assert drain(queue) == ["stays"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "pop", "remove"]),
        st.sampled_from("xyz"),
        st.integers(-1, 1),
        st.sampled_from([ANY, LINUX]),
    ),
    max_size=100,
)


@given(STEPS)
def test_each_entry_comes_out_once_and_best_priority_first(
    steps: list[tuple[str, str, int, Platform]],
) -> None:
    queue = fair_queue(x=2.0)
    waiting: dict[str, Entry] = {}
    for number, (step, flow, priority, platform) in enumerate(steps):
        if step == "push":
            entry = waiting[str(number)] = Entry(str(number), platform, priority, flow)
            queue.push(entry)
        elif step == "pop":
            name = queue.pop(everything)
            assert (name is None) == (not waiting)
            if name is not None:
                assert waiting[name].priority == min(e.priority for e in waiting.values())
                line = [
                    e.name
                    for e in waiting.values()
                    if (e.flow, e.priority, e.platform)
                    == (waiting[name].flow, waiting[name].priority, waiting[name].platform)
                ]
                assert name == line[0]
                del waiting[name]
        elif waiting:
            name = next(iter(waiting))
            queue.remove(name)
            del waiting[name]
        assert len(queue) == len(waiting)
        assert queue.flows == len({entry.flow for entry in waiting.values()})
    assert sorted(drain(queue)) == sorted(waiting)
