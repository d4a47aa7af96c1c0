"""What every ActionCache promises, of the one in a bucket: the same tests, collected here once
more, but for those of limits, which a bucket does not have.
"""

import itertools

import pytest
from contracts.test_action_cache import (  # noqa: F401 (collected here)
    Cache,
    test_function_and_size_are_part_of_the_key,
    test_instances_never_share_results,
    test_new_result_replaces_the_old,
    test_removed_result_is_gone,
    test_result_is_remembered,
    test_unknown_action_has_no_result,
)
from support.s3 import BUCKET, S3Server, open_bucket

from cas.action_cache import CacheStats
from cas.s3_action_cache import S3ActionCache

_numbers = itertools.count()


class CountedCache(S3ActionCache):
    """Its figures are what the bucket itself says it holds."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        super().__init__(open_bucket(server.endpoint), prefix)
        self._server = server
        self._prefix = f"{prefix}/"

    def stats(self) -> CacheStats:
        listed = self._server.client().list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        objects = listed.get("Contents", [])
        return CacheStats(
            results=len(objects),
            bytes=sum(found["Size"] for found in objects),
            max_bytes=0,
            evicted_results=0,
            damaged_results=self._bucket.stats.damaged,
        )


@pytest.fixture
def cache(s3: S3Server) -> CountedCache:
    return CountedCache(s3, f"cache-contract/{next(_numbers)}")
