import pytest

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import Channel
from armitage.client.errors import UsageError
from armitage.client.remote import Address, Remote, invocation_metadata, parse_address
from armitage.reapi.request_metadata import HEADER
from cas.digest import DigestFunction


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("grpc://host:1", Address("host:1", tls=False)),
        ("grpcs://host:1/", Address("host:1", tls=True)),
        ("host", Address("host:8980", tls=False)),
        ("host:65535", Address("host:65535", tls=False)),
        ("grpc://[::1]", Address("[::1]:8980", tls=False)),
        ("grpc://[::1]:5", Address("[::1]:5", tls=False)),
        ("unix:/run/a", Address("unix:/run/a", tls=False)),
    ],
)
def test_addresses_are_read_with_a_default_port(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "http://host:1", "grpc://", "host:0", "host:65536", "host:x", ":5", "grpc://h/p"]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write grpc://HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("instance", "function", "name"),
    [
        ("", DigestFunction.SHA256, "blobs/{hash}/1"),
        ("a/b", DigestFunction.SHA512, "a/b/blobs/{hash}/1"),
        ("a", DigestFunction.BLAKE3, "a/blobs/blake3/{hash}/1"),
    ],
)
async def test_resource_names_have_instance_and_marked_function(
    instance: str, function: DigestFunction, name: str
) -> None:
    digest = function.digest(b"x")
    async with Channel("unused:1") as channel:
        remote = Remote(channel, instance, function, 4_000_000, exec_enabled=True)

        assert remote.read_name(digest) == name.format(hash=digest.hash)
        prefix, _, rest = remote.write_name(digest, "ID").rpartition("uploads/ID/")
        assert prefix + rest == name.format(hash=digest.hash)


def test_each_run_of_the_client_is_an_invocation_of_its_own() -> None:
    (name, one), (_, other) = invocation_metadata("1")[0], invocation_metadata("1")[0]

    assert name == HEADER
    assert isinstance(one, bytes)
    assert isinstance(other, bytes)
    ids = [reapi.RequestMetadata.FromString(data).tool_invocation_id for data in (one, other)]
    assert len(set(ids)) == 2
