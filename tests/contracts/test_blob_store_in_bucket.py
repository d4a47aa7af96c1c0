"""What every BlobStore promises, of the one in a bucket: the same tests, collected here once more.

Left out is what an S3Store does not do: it evicts nothing, has no leases, and makes no files.
"""

import itertools
import time
from pathlib import Path

import pytest
from contracts.test_blob_store import (  # noqa: F401 (collected here)
    Store,
    clock,
    test_abort_after_commit_does_nothing,
    test_aborted_writer_leaves_nothing,
    test_blob_written_twice_is_stored_once,
    test_bytes_choose_among_candidates,
    test_candidates_that_all_differ_are_refused,
    test_chunks_have_at_most_a_mebibyte,
    test_concurrent_puts_of_many_blobs_are_all_stored,
    test_concurrent_writers_of_one_blob_all_succeed,
    test_empty_blob_is_always_there,
    test_missing_blobs_come_in_the_order_asked_with_duplicates,
    test_offset_outside_of_the_blob_is_refused,
    test_part_of_a_blob_is_read,
    test_put_of_other_bytes_stores_nothing,
    test_same_hash_with_another_size_is_missing,
    test_size_zero_with_another_hash_is_missing,
    test_streaming_other_bytes_stores_nothing,
    test_too_many_bytes_are_refused_as_they_come,
    test_uncommitted_blob_is_missing,
    test_unknown_blob_is_not_found,
    test_what_is_put_is_read_back,
    test_what_is_streamed_in_is_read_back,
    test_writer_keeps_what_it_was_given_though_the_buffer_changes,
    test_writers_cancelled_anywhere_leave_nothing,
)
from support.s3 import BUCKET, S3Server, open_bucket

from cas.s3_store import S3Store, S3StoreOptions
from cas.store import StoreStats

_numbers = itertools.count()

pytestmark = pytest.mark.slow


class CountedStore(S3Store):
    """Its figures are what the bucket itself says it holds, half-finished uploads included."""

    def __init__(self, server: S3Server, prefix: str, spool: Path) -> None:
        super().__init__(
            open_bucket(server.endpoint),
            S3StoreOptions(prefix=prefix),
            spool=spool,
            wall=time.time,  # noqa: TID251 (the bucket's clock, too)
        )
        self._server = server
        self._prefix = f"{prefix}/"

    def stats(self) -> StoreStats:
        client = self._server.client()
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        objects = listed.get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return StoreStats(
            blobs=len(objects),
            bytes=sum(found["Size"] for found in objects),
            max_bytes=0,
            reserved_bytes=sum(one.get("Key", "").startswith(self._prefix) for one in uploads),
            holders=0,
            held=0,
            evicted_blobs=0,
            evicted_bytes=0,
            damaged_blobs=self.damaged,
        )


@pytest.fixture
def store(s3: S3Server, tmp_path: Path) -> CountedStore:
    return CountedStore(s3, f"contract/{next(_numbers)}", tmp_path)
