import pytest

from cas.retry import Breaker, RetryOptions, wait_before

OPTIONS = RetryOptions(attempts=4, deadline_s=10, first_wait_s=1, max_wait_s=3)


@pytest.mark.parametrize(("attempt", "most_s"), [(1, 1), (2, 2), (3, 3)])
def test_waits_double_up_to_the_maximum(attempt: int, most_s: float) -> None:
    assert wait_before(attempt, 0, OPTIONS, 1.0) == most_s


def test_wait_is_anything_from_nothing_to_the_most() -> None:
    assert wait_before(2, 0, OPTIONS, 0.0) == 0
    assert wait_before(2, 0, OPTIONS, 0.25) == 0.5


def test_attempts_are_bounded() -> None:
    assert wait_before(4, 0, OPTIONS, 0.0) is None


def test_no_attempt_begins_after_the_deadline() -> None:
    assert wait_before(1, 9.5, OPTIONS, 0.5) == 0.5
    assert wait_before(1, 9.5, OPTIONS, 0.6) is None


def test_no_attempts_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="attempts"):
        RetryOptions(attempts=0)


def test_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(2, 10)

    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(0)
    assert not breaker.is_open(0)
    breaker.failed(0)

    assert breaker.is_open(9.9)


def test_one_may_try_after_the_rest_and_its_success_closes() -> None:
    breaker = Breaker(1, 10)
    breaker.failed(0)

    assert not breaker.is_open(10)
    assert breaker.is_open(10)
    breaker.succeeded()

    assert not breaker.is_open(10)


def test_failed_trial_starts_another_rest() -> None:
    breaker = Breaker(1, 10)
    breaker.failed(0)
    assert not breaker.is_open(10)

    breaker.failed(12)

    assert breaker.is_open(21.9)
    assert not breaker.is_open(22)
