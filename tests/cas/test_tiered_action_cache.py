import pytest
from support.clock import FakeClock
from support.tiers import until, world

from cas.digest import DigestFunction
from cas.errors import StoreDenied, StoreUnavailable
from cas.keys import key_of
from cas.memory import MemoryCacheOptions
from cas.tiered import WriteMode

ACTION = DigestFunction.SHA256.digest(b"action")
BLOB = DigestFunction.SHA256.digest(b"output")


async def test_result_of_the_slow_tier_is_answered_and_kept() -> None:
    made = world()
    await made.remote_cache.put("main", ACTION, b"result")
    made.remote.trouble.calls.clear()

    async with made.tiers() as tiers:
        for _ in range(3):
            assert await tiers.cache.get("main", ACTION) == b"result"
        assert await tiers.cache.get("other", ACTION) is None
        assert tiers.stats().result_hits == 1

    assert made.remote.trouble.calls["get result"] == 2
    assert await made.fast_cache.get("main", ACTION) == b"result"


async def test_absent_result_is_remembered_for_a_moment() -> None:
    clock, made = FakeClock(), world(missing_s=5)
    async with made.tiers(clock=clock.monotonic) as tiers:
        for _ in range(3):
            assert await tiers.cache.get("", ACTION) is None
        assert made.remote.trouble.calls["get result"] == 1

        clock.advance(6)
        await made.remote_cache.put("", ACTION, b"result")
        assert await tiers.cache.get("", ACTION) == b"result"


async def test_own_result_is_answered_though_it_was_absent_a_moment_ago() -> None:
    async with world().tiers() as tiers:
        assert await tiers.cache.get("", ACTION) is None
        await tiers.cache.put("", ACTION, b"result")

        assert await tiers.cache.get("", ACTION) == b"result"


@pytest.mark.parametrize("error", [StoreUnavailable("down"), StoreDenied("no")])
async def test_failing_slow_tier_is_a_miss(error: StoreUnavailable) -> None:
    made = world()
    await made.remote_cache.put("", ACTION, b"result")
    made.remote.trouble.error = error

    async with made.tiers() as tiers:
        assert await tiers.cache.get("", ACTION) is None
        assert tiers.stats().unanswered == 1
        made.remote.trouble.error = None
        assert await tiers.cache.get("", ACTION) == b"result"


async def test_result_that_does_not_fit_here_is_answered_all_the_same() -> None:
    from cas.memory import MemoryActionCache

    made = world()
    made.fast_cache = MemoryActionCache(MemoryCacheOptions(max_bytes=3))
    await made.remote_cache.put("", ACTION, b"result")

    async with made.tiers() as tiers:
        assert await tiers.cache.get("", ACTION) == b"result"


@pytest.mark.parametrize("mode", [WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
async def test_result_reaches_the_slow_tier_after_its_blobs(mode: WriteMode) -> None:
    made = world(mode)
    async with made.tiers() as tiers:
        await tiers.store.put([BLOB], b"output")
        await tiers.cache.put("", ACTION, b"old")
        await tiers.cache.put("", ACTION, b"new")
        await until(lambda: tiers.stats().pending == 0)

    assert await made.remote_cache.get("", ACTION) == b"new"
    assert made.remote.trouble.log.index("put") < made.remote.trouble.log.index("put result")


async def test_write_through_fails_with_the_slow_tier_and_is_made_up_for() -> None:
    made = world(WriteMode.WRITE_THROUGH)
    made.remote.trouble.error = StoreUnavailable("down")
    async with made.tiers() as tiers:
        with pytest.raises(StoreUnavailable, match="down"):
            await tiers.cache.put("", ACTION, b"result")
        made.remote.trouble.error = None
        await until(lambda: tiers.stats().pending == 0)

    assert await made.remote_cache.get("", ACTION) == b"result"


async def test_removed_result_is_gone_from_both_and_not_copied() -> None:
    made = world()
    made.remote.trouble.error = StoreUnavailable("down")
    async with made.tiers() as tiers:
        await tiers.cache.put("", ACTION, b"result")
        with pytest.raises(StoreUnavailable):
            await tiers.cache.remove("", ACTION)
        assert tiers.stats().pending == 0
        made.remote.trouble.error = None
        await tiers.cache.remove("", ACTION)
        assert await tiers.cache.get("", ACTION) is None

    assert made.remote_cache.stats().results == 0


async def test_tiers_recall_what_their_fast_tier_recalls() -> None:
    made = world()
    recalled: list[tuple[str, bytes]] = []

    def recall(instance: str, key: bytes) -> bytes | None:
        recalled.append((instance, key))
        return b"result"

    made.fast_cache.recall = recall  # type: ignore[attr-defined]
    async with made.tiers() as tiers:
        assert tiers.cache.recall("main", key_of(ACTION)) == b"result"

    assert recalled == [("main", key_of(ACTION))]
