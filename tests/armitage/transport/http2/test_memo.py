from armitage.transport.http2.memo import Memo


def test_what_was_put_is_got() -> None:
    memo: Memo[int] = Memo(4, 8)

    memo.put(b"a", 1)

    assert memo.get(b"a") == 1
    assert memo.get(b"b") is None


def test_never_grows_past_two_generations() -> None:
    memo: Memo[int] = Memo(4, 8)

    for number in range(100):
        memo.put(b"%d" % number, number)
        assert len(memo) <= 8


def test_what_is_asked_for_outlives_a_flood() -> None:
    memo: Memo[int] = Memo(4, 8)
    memo.put(b"used", 1)

    for number in range(100):
        memo.put(b"%d" % number, number)
        assert memo.get(b"used") == 1


def test_long_keys_are_not_kept() -> None:
    memo: Memo[int] = Memo(4, 8)

    memo.put(b"123456789", 1)

    assert memo.get(b"123456789") is None
