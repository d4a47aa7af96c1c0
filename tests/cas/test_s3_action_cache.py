import pytest
from support.s3 import S3Server, open_bucket

from cas.digest import DigestFunction
from cas.objects import Layout
from cas.s3_action_cache import S3ActionCache

ACTION, OTHER = (DigestFunction.SHA256.digest(data) for data in (b"action", b"other"))


@pytest.mark.parametrize("damage", [b"", b"short", b"armitage result 1\n" + bytes(32) + b"result"])
async def test_damaged_result_is_none(s3: S3Server, damage: bytes) -> None:
    bucket = open_bucket(s3.endpoint)
    cache = S3ActionCache(bucket, "damaged-result")
    await bucket.put(Layout("damaged-result").result("", ACTION), damage)

    assert await cache.get("", ACTION) is None
    assert bucket.stats.damaged == 1


async def test_every_flipped_bit_is_noticed(s3: S3Server) -> None:
    bucket = open_bucket(s3.endpoint)
    cache = S3ActionCache(bucket, "flipped-result")
    key = Layout("flipped-result").result("", ACTION)
    await cache.put("", ACTION, b"result")
    stored = await bucket.get(key, 1000)
    assert stored

    for at in range(len(stored)):
        await bucket.put(key, stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
        assert await cache.get("", ACTION) is None


async def test_result_put_under_another_action_is_none(s3: S3Server) -> None:
    bucket, layout = open_bucket(s3.endpoint), Layout("swapped-result")
    cache = S3ActionCache(bucket, "swapped-result")
    await cache.put("", ACTION, b"result")

    stored = await bucket.get(layout.result("", ACTION), 1000)
    assert stored is not None
    await bucket.put(layout.result("", OTHER), stored)

    assert await cache.get("", OTHER) is None
