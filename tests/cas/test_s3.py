import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator

import pytest
from support.clock import FakeClock
from support.faults import Fault, FaultProxy, Kind, fault_proxy
from support.s3 import BUCKET, OWNER, READER, Key, S3Server, open_bucket, source

from cas.digest import Buffer
from cas.errors import StoreDenied, StoreUnavailable
from cas.retry import RetryOptions
from cas.s3 import MIB, Credentials, S3Options

_numbers = itertools.count()


@pytest.fixture
def key() -> str:
    return f"test-s3/{next(_numbers)}"


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(s3.endpoint) as proxy:
        yield proxy


def pieces(data: bytes) -> AsyncIterator[Buffer]:
    async def read() -> AsyncIterator[Buffer]:
        for start in range(0, len(data), MIB):
            yield memoryview(data)[start : start + MIB]

    return read()


async def collect(stream: AsyncIterator[Buffer]) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def test_what_is_put_is_got(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint)

    await bucket.put(key, b"hello")

    assert await bucket.get(key, 100) == b"hello"
    info = await bucket.head(key)
    assert info is not None
    assert info.size_bytes == 5
    assert await collect(bucket.stream(key, 5)) == b"hello"


async def test_absent_object_is_told_from_a_failure(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint)

    assert await bucket.get(key, 100) is None
    assert await bucket.head(key) is None
    with pytest.raises(FileNotFoundError):
        await collect(bucket.stream(key, 5))
    await bucket.delete(key)


async def test_deleted_object_is_gone(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint)
    await bucket.put(key, b"x")

    await bucket.delete(key)

    assert await bucket.head(key) is None


async def test_second_create_changes_nothing(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint)

    assert await bucket.create(key, b"first")
    assert not await bucket.create(key, b"second")

    assert await bucket.get(key, 100) == b"first"


async def test_object_over_the_limit_is_not_fetched(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint)
    await bucket.put(key, bytes(1000))

    assert await bucket.get(key, 999) == b""


@pytest.mark.slow
async def test_large_object_goes_up_in_parts(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint, part_bytes=5 * MIB)
    data = os.urandom(11 * MIB + 1)

    await bucket.put_large(key, len(data), lambda: pieces(data))

    assert await collect(bucket.stream(key, len(data))) == data
    etag = s3.client().head_object(Bucket=BUCKET, Key=key)["ETag"]
    assert etag.strip('"').endswith("-3")


async def test_failing_source_leaves_no_object_and_no_parts(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint, part_bytes=5 * MIB)

    async def broken() -> AsyncIterator[Buffer]:
        for _ in range(6):
            yield bytes(MIB)
        raise StoreUnavailable("the disk is on fire")

    with pytest.raises(StoreUnavailable, match="on fire"):
        await bucket.put_large(key, 20 * MIB, broken)

    assert await bucket.head(key) is None
    uploads = s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [upload for upload in uploads if upload.get("Key") == key] == []


@pytest.mark.slow
async def test_upload_reads_no_further_ahead_than_its_parts(proxy: FaultProxy, key: str) -> None:
    """So memory does not grow with the object when the network is slower than the source."""
    bucket = open_bucket(proxy.url, part_bytes=5 * MIB, parts_at_once=2)
    proxy.always = Fault(Kind.HANG, method="PUT")
    taken = 0

    async def endless() -> AsyncIterator[Buffer]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(MIB)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await bucket.put_large(key, 10_000 * MIB, endless)

    assert 10 <= taken <= 4 * 5


# Credentials and refusals


@pytest.mark.parametrize("wrong", [Key("AKIANOBODY", "x"), Key(OWNER.access, "wrong secret")])
async def test_wrong_credentials_are_denied(s3: S3Server, key: str, wrong: Key) -> None:
    bucket = open_bucket(s3.endpoint, source(wrong))

    with pytest.raises(StoreDenied, match="credentials") as caught:
        await bucket.get(key, 100)
    with pytest.raises(StoreDenied):
        await bucket.head(key)

    assert caught.value.code in ("InvalidAccessKeyId", "SignatureDoesNotMatch")
    assert "wrong secret" not in str(caught.value)


async def test_lacking_right_is_denied_without_new_credentials(s3: S3Server, key: str) -> None:
    asked = 0

    async def counted() -> Credentials:
        nonlocal asked
        asked += 1
        return Credentials(READER.access, READER.secret, None, None)

    bucket = open_bucket(s3.endpoint, counted)

    with pytest.raises(StoreDenied, match="right") as caught:
        await bucket.put(key, b"x")

    assert caught.value.code == "AccessDenied"
    assert asked == 1


async def test_absent_bucket_is_denied_and_not_an_absent_object(s3: S3Server, key: str) -> None:
    bucket = open_bucket(s3.endpoint, bucket="no-such-bucket")

    with pytest.raises(StoreDenied, match="armitage bucket init"):
        await bucket.get(key, 100)
    with pytest.raises(StoreDenied):
        await bucket.check(key)


async def test_check_accepts_a_bucket_that_answers(s3: S3Server, key: str) -> None:
    await open_bucket(s3.endpoint).check(key)


async def test_expired_credentials_are_fetched_anew(s3: S3Server, key: str) -> None:
    keys = [Key("AKIAEXPIRED", "old"), OWNER]

    async def rotated() -> Credentials:
        current = keys.pop(0) if len(keys) > 1 else keys[0]
        return Credentials(current.access, current.secret, None, None)

    bucket = open_bucket(s3.endpoint, rotated)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(bucket.put(f"{key}/{number}", b"x"))

    assert await bucket.get(f"{key}/4", 100) == b"x"


class Rotating:
    """Credentials that change each time they are looked up, and may fail to be found."""

    def __init__(self) -> None:
        self.looked_up = 0
        self.error: StoreDenied | None = None

    async def __call__(self) -> Credentials:
        self.looked_up += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Credentials(OWNER.access, OWNER.secret, None, 300.0)


async def test_credentials_are_looked_up_once_and_again_when_they_have_ended(
    s3: S3Server, key: str
) -> None:
    clock, source = FakeClock(), Rotating()
    bucket = open_bucket(s3.endpoint, source, monotonic=clock.monotonic)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(bucket.put(f"{key}/{number}", b"x"))
    clock.advance(299)
    await bucket.put(key, b"x")
    assert source.looked_up == 1

    clock.advance(2)
    await bucket.put(key, b"x")
    assert source.looked_up == 2


async def test_failed_look_up_leaves_the_credentials_at_hand(s3: S3Server, key: str) -> None:
    clock, source = FakeClock(), Rotating()
    bucket = open_bucket(s3.endpoint, source, monotonic=clock.monotonic)
    await bucket.put(key, b"x")

    source.error = StoreDenied("the role's server does not answer")
    clock.advance(301)
    assert await bucket.get(key, 100) == b"x"
    assert await bucket.get(key, 100) == b"x"
    assert source.looked_up == 2

    clock.advance(31)
    source.error = None
    assert await bucket.get(key, 100) == b"x"
    assert source.looked_up == 3


@pytest.mark.parametrize("token", [None, "a token"])
async def test_token_goes_with_its_credentials_alone(
    proxy: FaultProxy, key: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another one's")

    async def found() -> Credentials:
        return Credentials(OWNER.access, OWNER.secret, token, None)

    proxy.add(Fault(Kind.STATUS, status=404, code="NoSuchKey"))
    await open_bucket(proxy.url, found).get(key, 100)

    [request] = proxy.seen
    sent = re.findall(rb"(?i)\r\nx-amz-security-token: ([^\r]*)", request.head)
    assert sent == ([] if token is None else [token.encode()])


@pytest.mark.slow
async def test_credentials_that_end_soon_carry_an_upload_in_parts(s3: S3Server, key: str) -> None:
    async def brief() -> Credentials:
        return Credentials(OWNER.access, OWNER.secret, None, 0.0)

    bucket = open_bucket(s3.endpoint, brief, part_bytes=5 * MIB)
    data = os.urandom(11 * MIB)

    await bucket.put_large(key, len(data), lambda: pieces(data))

    assert await collect(bucket.stream(key, len(data))) == data


@pytest.mark.parametrize("status", [400, 403])
async def test_expired_token_is_denied_when_there_is_no_newer(
    proxy: FaultProxy, key: str, status: int
) -> None:
    bucket = open_bucket(proxy.url)
    proxy.always = Fault(Kind.STATUS, status=status, code="ExpiredToken")

    with pytest.raises(StoreDenied, match="expired") as caught:
        await bucket.put(key, b"x")

    assert caught.value.code == "ExpiredToken"
    assert len(proxy.seen) == 2


async def test_no_credentials_at_all_say_so(s3: S3Server, key: str) -> None:
    async def none() -> Credentials:
        raise StoreDenied("no credentials are to be found")

    with pytest.raises(StoreDenied, match="no credentials are to be found"):
        await open_bucket(s3.endpoint, none).get(key, 100)


async def test_clock_skew_is_denied_with_advice(proxy: FaultProxy, key: str) -> None:
    """The server itself refuses: the proxy only changes the time that the request bears."""
    bucket = open_bucket(proxy.url)
    proxy.always = Fault(Kind.SKEW)

    with pytest.raises(StoreDenied, match="clock of this host") as caught:
        await bucket.get(key, 100)

    assert caught.value.code == "RequestTimeTooSkewed"
    assert len(proxy.seen) == 1


def test_credentials_show_nothing() -> None:
    assert "secret" not in repr(Credentials("key", "secret", "secret", None))


# Faults on the way


BEFORE_THE_ANSWER = [
    Fault(Kind.STATUS, status=500),
    Fault(Kind.STATUS, status=503, code="SlowDown"),
    Fault(Kind.STATUS, status=429, code="TooManyRequests"),
    Fault(Kind.REFUSE),
]
IN_THE_BODY = [Fault(Kind.RESET, after_bytes=3), Fault(Kind.CUT, after_bytes=3)]


def name(fault: Fault) -> str:
    return f"{fault.kind.name} {fault.status}"


@pytest.mark.parametrize("fault", BEFORE_THE_ANSWER + IN_THE_BODY, ids=name)
@pytest.mark.parametrize("times", [1, 2])
async def test_reads_survive_passing_faults(
    proxy: FaultProxy, key: str, fault: Fault, times: int
) -> None:
    bucket = open_bucket(proxy.url)
    await bucket.put(key, b"hello")

    proxy.add(*[fault] * times)
    assert await bucket.get(key, 100) == b"hello"
    proxy.add(*[fault] * times)
    assert await collect(bucket.stream(key, 5)) == b"hello"

    assert (bucket.stats.retries, bucket.stats.failures) == (2 * times, 0)


@pytest.mark.parametrize("fault", BEFORE_THE_ANSWER, ids=name)
@pytest.mark.parametrize("times", [1, 2])
async def test_writes_survive_passing_faults(
    proxy: FaultProxy, key: str, fault: Fault, times: int
) -> None:
    bucket = open_bucket(proxy.url)
    proxy.add(*[fault] * times)

    await bucket.put(key, b"hello")

    assert await bucket.get(key, 100) == b"hello"
    assert bucket.stats.retries == times


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"])
async def test_body_refused_as_spoilt_is_sent_again(proxy: FaultProxy, key: str, code: str) -> None:
    bucket = open_bucket(proxy.url)
    proxy.add(Fault(Kind.STATUS, status=400, code=code))

    await bucket.put(key, b"hello")

    assert await bucket.get(key, 100) == b"hello"


async def test_what_an_api_lacks_is_denied(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url)
    proxy.add(Fault(Kind.STATUS, status=501, code="NotImplemented"))

    with pytest.raises(StoreDenied, match="checksums = false"):
        await bucket.put(key, b"hello")


@pytest.mark.parametrize(
    "fault",
    [Fault(Kind.STATUS, status=503, code="SlowDown"), Fault(Kind.REFUSE)],
    ids=["503", "refused"],
)
async def test_lasting_fault_makes_it_unavailable(
    proxy: FaultProxy, key: str, fault: Fault
) -> None:
    bucket = open_bucket(proxy.url)
    proxy.always = fault

    for call in (bucket.get(key, 100), bucket.head(key), bucket.put(key, b"x")):
        with pytest.raises(StoreUnavailable, match="failed 3 times") as caught:
            await call
        assert not isinstance(caught.value, StoreDenied)
    assert (bucket.stats.failures, bucket.stats.retries) == (3, 6)


async def test_upload_spoilt_on_the_way_is_refused_and_sent_again(
    proxy: FaultProxy, key: str
) -> None:
    bucket = open_bucket(proxy.url)
    proxy.add(Fault(Kind.WRONG_REQUEST, method="PUT"))

    await bucket.put(key, b"hello")

    assert await bucket.get(key, 100) == b"hello"
    assert (proxy.count("PUT"), bucket.stats.retries) == (2, 1)


@pytest.mark.slow
async def test_part_spoilt_on_the_way_is_refused_and_all_sent_again(
    proxy: FaultProxy, key: str
) -> None:
    bucket = open_bucket(proxy.url, part_bytes=5 * MIB)
    data = os.urandom(6 * MIB)
    proxy.add(Fault(Kind.WRONG_REQUEST, method="PUT"))

    await bucket.put_large(key, len(data), lambda: pieces(data))

    assert await collect(bucket.stream(key, len(data))) == data
    assert bucket.stats.retries == 1


@pytest.mark.slow
async def test_broken_download_goes_on_where_it_broke(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url)
    data = os.urandom(6 * MIB)
    await bucket.put_large(key, len(data), lambda: pieces(data))
    proxy.add(
        Fault(Kind.RESET, after_bytes=4 * MIB),
        Fault(Kind.STATUS, status=500),
        Fault(Kind.CUT, after_bytes=MIB + 17),
    )
    before = bucket.stats.received_bytes

    assert await collect(bucket.stream(key, len(data))) == data

    assert bucket.stats.received_bytes - before == len(data)
    assert proxy.count("GET", key) == 4


async def test_silent_server_is_given_up(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(
        proxy.url, read_timeout_s=0.05, connect_timeout_s=0.05, retry=RetryOptions(attempts=2)
    )
    proxy.always = Fault(Kind.HANG)

    with pytest.raises(StoreUnavailable, match="failed 2 times"):
        await bucket.get(key, 100)


async def test_slow_answer_is_waited_for(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url)
    await bucket.put(key, b"hello")
    proxy.add(Fault(Kind.DELAY, delay_s=0.1))

    assert await bucket.get(key, 100) == b"hello"
    assert bucket.stats.retries == 0


async def test_hedged_read_takes_the_faster_answer(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url, hedge_after_s=0.02)
    await bucket.put(key, b"hello")
    proxy.add(Fault(Kind.HANG))

    assert await bucket.get(key, 100) == b"hello"
    assert bucket.stats.hedges == 1
    assert await bucket.get(key + "/none", 100) is None


async def test_bucket_that_is_down_is_left_alone_for_a_while(proxy: FaultProxy, key: str) -> None:
    clock = FakeClock()
    bucket = open_bucket(proxy.url, retry=RetryOptions(attempts=1), monotonic=clock.monotonic)
    proxy.always = Fault(Kind.REFUSE)
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await bucket.get(key, 100)
    asked = len(proxy.seen)

    with pytest.raises(StoreUnavailable, match="not answered lately"):
        await bucket.get(key, 100)
    assert len(proxy.seen) == asked

    proxy.always = None
    clock.advance(11)
    assert await bucket.get(key, 100) is None
    assert await bucket.get(key, 100) is None


async def test_requests_in_flight_are_bounded(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url, max_requests=4)
    proxy.always = Fault(Kind.DELAY, delay_s=0.005)

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(bucket.head(f"{key}/{number}"))

    assert 1 < proxy.most_open <= 4


async def test_cancelled_request_frees_its_place(proxy: FaultProxy, key: str) -> None:
    bucket = open_bucket(proxy.url, max_requests=1)
    proxy.add(Fault(Kind.HANG))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bucket.get(key, 100))
        await proxy.asked.wait()
        task.cancel()

    assert await bucket.get(key, 100) is None


async def test_environment_decides_neither_where_nor_who(
    s3: S3Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore would take all of these."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "wrong")
    monkeypatch.setenv("AWS_REGION", "nowhere")
    monkeypatch.setenv("AWS_BUCKET", "nothing")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    bucket = open_bucket(s3.endpoint)

    await bucket.put(key, b"hello")

    assert await bucket.get(key, 100) == b"hello"


def test_endpoint_of_aws_follows_the_region() -> None:
    assert S3Options(region="eu-north-1").url == "https://s3.eu-north-1.amazonaws.com"
    assert S3Options(endpoint="https://x.example/").url == "https://x.example"
