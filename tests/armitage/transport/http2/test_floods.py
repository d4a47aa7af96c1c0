import pytest

from armitage.transport.http2.codes import ConnectionFault, ErrorCode
from armitage.transport.http2.floods import Allowance


def allowance() -> Allowance:
    return Allowance(burst=10, rate=2, counter="ping_floods", reason="too many pings")


def spend(bucket: Allowance, times: int, now: float = 0.0, work: int = 0) -> None:
    for _ in range(times):
        bucket.spend(now, work)


def test_a_burst_is_borne_and_no_more() -> None:
    bucket = allowance()

    spend(bucket, 10)
    with pytest.raises(ConnectionFault) as caught:
        spend(bucket, 1)

    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM
    assert caught.value.counter == "ping_floods"


def test_time_earns_tokens_up_to_the_burst() -> None:
    bucket = allowance()
    spend(bucket, 10)

    spend(bucket, 4, now=2.0)
    with pytest.raises(ConnectionFault):
        spend(bucket, 1, now=2.0)
    with pytest.raises(ConnectionFault):
        spend(bucket, 21, now=1000.0)


def test_work_earns_tokens() -> None:
    bucket = allowance()
    spend(bucket, 10)

    spend(bucket, 7, work=7)
    with pytest.raises(ConnectionFault):
        spend(bucket, 1, work=7)


def test_the_long_run_rate_is_never_too_much() -> None:
    bucket = allowance()

    for second in range(1000):
        spend(bucket, 2, now=float(second))
