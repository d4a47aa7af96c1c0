"""Resource names of ByteStream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi.instances import RESERVED_SEGMENTS
from armitage.reapi.resource_names import (
    BlobName,
    LogName,
    UploadName,
    parse_read_name,
    parse_write_name,
)
from cas.compression import Codec

segment = st.text("abcABC019-_. ", min_size=1).filter(lambda s: s not in RESERVED_SEGMENTS)
instances = st.lists(segment, max_size=3).map("/".join)
blobs = st.builds(
    BlobName,
    instance=instances,
    hash=st.text("0123456789abcdef", min_size=1, max_size=128),
    size_bytes=st.integers(0, (1 << 63) - 1),
    digest_function=st.sampled_from([0, reapi.DigestFunction.BLAKE3]),
    codec=st.sampled_from([None, *Codec]),
)


def written(blob: BlobName) -> str:
    kind = f"compressed-blobs/{blob.codec}" if blob.codec else "blobs"
    function = "blake3/" if blob.digest_function else ""
    return f"{kind}/{function}{blob.hash}/{blob.size_bytes}"


def with_instance(instance: str, rest: str) -> str:
    return f"{instance}/{rest}" if instance else rest


@given(blobs)
def test_a_read_name_round_trips(blob: BlobName) -> None:
    assert parse_read_name(with_instance(blob.instance, written(blob))) == blob


@given(blobs, segment, st.lists(st.text("ab/"), max_size=3))
def test_a_write_name_round_trips_without_its_metadata(
    blob: BlobName, uuid: str, trailing: list[str]
) -> None:
    name = "/".join([f"uploads/{uuid}/{written(blob)}", *trailing])

    assert parse_write_name(with_instance(blob.instance, name)) == UploadName(uuid, blob)


@given(
    st.text()
    | st.lists(st.sampled_from([*sorted(RESERVED_SEGMENTS), "zstd", "blake3", "ab", "1", ""])).map(
        "/".join
    )
)
def test_any_text_is_a_name_or_an_invalid_request(name: str) -> None:
    for parse in (parse_read_name, parse_write_name):
        try:
            parsed = parse(name)
        except InvalidRequest:
            continue
        assert isinstance(parsed, BlobName | UploadName | LogName)


@pytest.mark.parametrize(
    "name",
    [
        "/blobs/ab/1",
        "a//blobs/ab/1",
        "blobs/ab",
        "blobs/ab/01",
        "blobs/ab/-1",
        "blobs/ab/+1",
        "blobs/ab/1_0",
        "blobs/ab/9223372036854775808",
        "blobs/ab/1/",
        "blobs/ab/1/more",
        "a/uploads/u/blobs/ab/1",
        "blobs/sha256/ab/1",
        "compressed-blobs/ab/1",
        "compressed-blobs/identity/ab/1",
        "compressed-blobs/gzip/ab/1",
        "compressed-blobs",
        "logstreams",
        "logstreams/",
        "logstreams/a/b/c",
        "x" * 5000 + "/blobs/ab/1",
    ],
)
def test_malformed_read_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="malformed"):
        parse_read_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "uploads",
        "uploads/u",
        "uploads//blobs/ab/1",
        "uploads/u/ab/1",
        "blobs/ab/1",
        "blobs/ab/uploads/u/blobs/c/1",
    ],
)
def test_malformed_write_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="malformed"):
        parse_write_name(name)


def test_log_names_carry_parent_id_and_secret() -> None:
    assert parse_read_name("a/operations/1/logstreams/x") == LogName("a/operations/1", "x")
    assert parse_write_name("logstreams/x/s") == LogName("", "x", "s")
