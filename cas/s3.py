"""One bucket of an S3 API (AWS, Cloudflare R2, and others), through obstore.

Theory of operation. obstore signs, connects and streams; it is told never to retry, since what may
be tried again, how long and with which credentials is decided here: a failure is sorted once
(`_sort`) into gone, refused or passing, and only passing ones are tried again, with full jitter,
until a deadline. A refusal for the sake of credentials is tried once more with fresh ones. After
several requests in a row were given up, the bucket counts as down for a while and requests fail at
once. A body that breaks off is asked for again from where it broke.

Memory is bounded: at most `max_requests` objects of up to SMALL_BYTES in flight, and `max_large`
larger ones, each with as many parts as are sent at once.

What goes up bears its SHA-256, both in the signature and, since not every API compares that one,
as x-amz-checksum-sha256, so the server refuses bytes that changed on the way and they are sent
again. What comes down is not verified here: whoever knows the digest does that.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Client

from cas.digest import Buffer
from cas.errors import StoreDenied, StoreUnavailable
from cas.retry import Breaker, RetryOptions, wait_before

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

_log = logging.getLogger(__name__)

T = TypeVar("T")

MIB = 1024 * 1024
SMALL_BYTES = MIB
"""Up to here an object is sent and fetched in one piece."""
_MAX_PARTS = 10_000
_MIN_BYTES_PER_S = MIB
"""Slower than this, a transfer counts as stuck."""
_BREAKER_FAILURES = 5
_RENEWAL_S = 30.0
"""New credentials are asked for at most so often."""
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
_CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "Unauthorized",
}
_PASSING_CODES = {
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    # What was sent changed on its way.
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
}
_PASSING_STATUSES = {"408", "409", "425", "429", "500", "502", "503", "504"}
"""409 is AWS's for two conditional writes of one object at the same time."""
_ADVICE = {
    "RequestTimeTooSkewed": "the clock of this host is wrong; set it",
    "NoSuchBucket": "there is no such bucket; `armitage bucket init` makes it",
    "AccessDenied": "these credentials lack the right to do that",
    "NotImplemented": "this API lacks what was asked; perhaps it works with checksums = false",
    **dict.fromkeys(_CREDENTIAL_CODES, "the credentials are wrong or have expired"),
}


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how hard it is used. Credentials are never part of this."""

    bucket: str = ""
    endpoint: str = ""
    """URL of an S3 API, such as https://ACCOUNT.r2.cloudflarestorage.com; empty: AWS."""
    region: str = "auto"
    """`auto` for R2; a region's name for AWS."""
    ca_file: Path | None = None
    """Certificates (PEM) of authorities that the endpoint's is checked against, beside the
    system's.
    """
    max_requests: int = 64
    """Requests in flight at once, for objects of up to a mebibyte."""
    max_large: int = 4
    """Larger objects on their way at once."""
    part_bytes: int = 8 * MIB
    """Larger objects go up in parts of this size (5 MiB at least, but for tests)."""
    parts_at_once: int = 4
    """Of one object."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    """Without a byte for so long, a transfer counts as broken."""
    checksums: bool = True
    """Send x-amz-checksum-sha256; false for an API that does not know it."""
    hedge_after_s: float | None = None
    """Ask a second time, in parallel, for a small object or its existence that did not come within
    this time, and take whichever answer is first; off: never.
    """
    leave_alone_s: float = 10.0
    """After five requests in a row were given up, nothing is asked for so long."""
    retry: RetryOptions = field(default_factory=RetryOptions)

    def __post_init__(self) -> None:
        if min(self.max_requests, self.max_large, self.parts_at_once, self.part_bytes) < 1:
            raise ValueError(
                "max_requests, max_large, parts_at_once and part_bytes must be at least 1"
            )

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.endpoint.rstrip("/") or f"https://s3.{self.region}.amazonaws.com"


class Credentials(NamedTuple):
    """An access key. Its text shows nothing."""

    access_key: str
    secret_key: str
    token: str | None
    lasts_s: float | None
    """How long to go on with them before they are looked up again; None: until they are refused."""

    def __repr__(self) -> str:
        return "Credentials(redacted)"


CredentialSource = Callable[[], Awaitable[Credentials]]
"""Answers credentials that are good now. Raises StoreDenied when there are none."""


class ObjectInfo(NamedTuple):
    """What a bucket says of an object without sending it."""

    size_bytes: int
    modified_s: float
    """Seconds since the epoch, by the bucket's clock."""


@dataclass(slots=True)
class S3Stats:
    """What went over the wire since the start."""

    requests: int = 0
    """Attempts included."""
    retries: int = 0
    hedges: int = 0
    failures: int = 0
    """Given up after all attempts."""
    denials: int = 0
    damaged: int = 0
    """Objects that whoever knows the digest found wrong."""
    sent_bytes: int = 0
    received_bytes: int = 0


class FailureKind(Enum):
    """What to do about a failed request."""

    GONE = "gone"
    """The object is not there."""
    STALE = "stale"
    """Perhaps it works with fresh credentials."""
    DENIED = "denied"
    """Asking again changes nothing."""
    PASSING = "passing"
    """Perhaps it works later."""


class Failure(NamedTuple):
    """A failed request: what to do, S3's error code if it gave one, and words for people."""

    kind: FailureKind
    code: str
    text: str


class S3Bucket:
    """Objects by key.

    Every method raises StoreDenied when the API refuses, and StoreUnavailable when it does not
    answer or fails, all attempts included. Cancelling one ends its request.
    """

    def __init__(
        self,
        options: S3Options,
        credentials: CredentialSource,
        *,
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """Takes a clock that never goes back, and a source of numbers from 0 to 1 for jitter."""
        self._options = options
        self._source = credentials
        self._monotonic = monotonic
        self._chance = chance
        self._breaker = Breaker(_BREAKER_FAILURES, options.leave_alone_s)
        self._small = asyncio.Semaphore(options.max_requests)
        self._large = asyncio.Semaphore(options.max_large)
        self._client: Client | None = None
        self._key: Credentials | None = None
        self._look_up_at = 0.0
        self._renewed_at: float | None = None
        self._connecting = asyncio.Lock()
        self.stats = S3Stats()

    def _connect(self, credentials: Credentials) -> Client:
        options = self._options
        http: ClientConfig = {
            # Plain HTTP only where the operator wrote so.
            "allow_http": options.url.startswith("http://"),
            "connect_timeout": _duration(options.connect_timeout_s),
            "read_timeout": _duration(options.read_timeout_s),
            # Of whole requests; ours depend on their size.
            "timeout": "24h",
            "pool_max_idle_per_host": str(options.max_requests),
        }
        if options.ca_file is not None:
            http["root_certificate"] = options.ca_file.read_bytes()
        # By a function, or a token of the environment would go with them.
        given: S3Credential = {
            "access_key_id": credentials.access_key,
            "secret_access_key": credentials.secret_key,
            "token": credentials.token,
            "expires_at": None,
        }
        config: S3Config = {"checksum_algorithm": "SHA256"} if options.checksums else {}
        return Client(
            options.bucket,
            config=config,
            # Where and who; the environment must not decide that past the configuration.
            endpoint=options.url,
            aws_endpoint_url_s3=options.url,
            region=options.region,
            skip_signature=False,
            unsigned_payload=False,
            virtual_hosted_style_request=False,
            client_options=http,
            retry_config={"max_retries": 0},
            credential_provider=lambda: given,
        )

    async def _connected(self) -> Client:
        """A client with credentials that are good now.

        They are looked up here, and not by a coroutine of obstore's, which it would call where
        there is no event loop.
        """
        async with self._connecting:
            if self._client is not None and self._monotonic() < self._look_up_at:
                return self._client
            try:
                found = await self._source()
            except StoreDenied as denied:
                if self._client is None:
                    self.stats.denials += 1
                    raise
                # Those at hand may do a while longer; if not, they are refused.
                _log.warning("the bucket's credentials could not be looked up: %s", denied)
                self._look_up_at = self._monotonic() + _RENEWAL_S
                return self._client
            if self._client is None or self._key != found:
                self._client, self._key = self._connect(found), found
            lasts_s = math.inf if found.lasts_s is None else found.lasts_s
            self._look_up_at = self._monotonic() + lasts_s
            return self._client

    async def check(self, absent: str) -> None:
        """Makes sure that the bucket answers these credentials, by asking for a key that has no
        object.

        An object that is not there must be told apart from one that may not be seen, so whoever may
        not list the bucket is refused here (AWS hides what is absent from those).
        """

        async def call(client: Client) -> None:
            await (await client.get_async(absent)).bytes_async()

        await self._attempt("asking the bucket for an object", call)

    async def head(self, key: str) -> ObjectInfo | None:
        """Looks at an object; None: there is none."""

        async def call(client: Client) -> ObjectInfo:
            meta = await client.head_async(key)
            return ObjectInfo(meta["size"], meta["last_modified"].timestamp())

        async with self._small:
            return await self._attempt(f"looking for {key}", self._hedged(call))

    async def get(self, key: str, limit_bytes: int) -> bytes | None:
        """Fetches an object; None: there is none.

        Of one that is larger than the limit nothing is fetched, and the answer is empty: it cannot
        be what the caller expects.
        """

        async def call(client: Client) -> bytes:
            result = await client.get_async(key)
            if result.meta["size"] > limit_bytes:
                return b""
            data = bytes(await result.bytes_async())
            self.stats.received_bytes += len(data)
            return data

        async with self._small:
            return await self._attempt(f"fetching {key}", self._hedged(call), limit_bytes)

    async def stream(self, key: str, size_bytes: int) -> AsyncGenerator[Buffer, None]:
        """Fetches an object in pieces of about a mebibyte, going on where a connection broke.

        Ends early or late when the object has another size. Raises FileNotFoundError when there is
        none.
        """
        what = f"fetching {key}"
        async with self._large:
            received, attempt, started = 0, 0, self._monotonic()
            while True:
                before, client = received, await self._connected()
                pieces = self._pieces(client, key, received)
                try:
                    async for piece in pieces:
                        received += len(piece)
                        yield piece
                except (BaseError, OSError) as error:
                    if received > before:
                        # Something came, so the next attempt is a first one again.
                        attempt, started = 0, self._monotonic()
                    attempt += 1
                    await self._recover(what, error, attempt, started, client)
                else:
                    self._breaker.succeeded()
                    return
                finally:
                    await pieces.aclose()
                if received >= size_bytes:
                    return

    async def _pieces(self, client: Client, key: str, offset: int) -> AsyncGenerator[Buffer, None]:
        """One request's worth of an object, from an offset."""
        self._check_breaker(f"fetching {key}")
        self.stats.requests += 1
        async with asyncio.timeout(self._answer_s):
            if offset:
                result = await client.get_async(key, options={"range": {"offset": offset}})
            else:
                result = await client.get_async(key)
        stream = result.stream(min_chunk_size=MIB)
        while True:
            try:
                # obstore notices a silent connection itself; this is for a trickle.
                async with asyncio.timeout(2 * self._options.read_timeout_s):
                    piece = await stream.__anext__()
            except StopAsyncIteration:
                return
            self.stats.received_bytes += len(piece)
            yield memoryview(piece)

    async def put(self, key: str, data: Buffer) -> None:
        """Writes an object in one request, whatever was there."""

        async def call(client: Client) -> None:
            await client.put_async(key, bytes(data), use_multipart=False)
            self.stats.sent_bytes += len(data)

        async with self._small:
            await self._attempt(f"writing {key}", call, len(data))

    async def create(self, key: str, data: Buffer) -> bool:
        """Writes an object unless there is one (`If-None-Match: *`); answers whether it did.

        When an attempt's answer was lost, that may be False though it was this call's doing.
        """

        async def call(client: Client) -> bool:
            try:
                await client.put_async(key, bytes(data), mode="create")
            except AlreadyExistsError:
                return False
            self.stats.sent_bytes += len(data)
            return True

        async with self._small:
            return bool(await self._attempt(f"creating {key}", call, len(data)))

    async def put_large(
        self, key: str, size_bytes: int, read: Callable[[], AsyncIterator[Buffer]]
    ) -> None:
        """Writes an object in parts, whatever was there.

        `read` gives its bytes anew for each attempt. What it raises ends the upload, is raised, and
        no object appears.
        """
        options = self._options
        part_bytes = max(options.part_bytes, -(-size_bytes // _MAX_PARTS))

        async def call(client: Client) -> None:
            source = _Source(read)
            try:
                await client.put_async(
                    key,
                    source.pieces(),
                    chunk_size=part_bytes,
                    max_concurrency=options.parts_at_once,
                    use_multipart=size_bytes > part_bytes,
                )
            except Exception:
                if source.error is not None:
                    raise _SourceFailed(source.error) from None
                raise
            self.stats.sent_bytes += size_bytes

        async with self._large:
            try:
                await self._attempt(f"writing {key}", call, size_bytes)
            except _SourceFailed as failed:
                raise failed.error from None

    async def delete(self, key: str) -> None:
        """Removes an object, if there is one."""

        async def call(client: Client) -> None:
            await client.delete_async(key)

        async with self._small:
            await self._attempt(f"removing {key}", call)

    @property
    def _answer_s(self) -> float:
        return self._options.connect_timeout_s + self._options.read_timeout_s

    async def _attempt(
        self, what: str, call: Callable[[Client], Awaitable[T]], size_bytes: int = 0
    ) -> T | None:
        """Calls until it works; None when what is asked for is not there."""
        attempt = 0
        transfer_s = size_bytes / _MIN_BYTES_PER_S
        started = self._monotonic() + transfer_s
        while True:
            self._check_breaker(what)
            self.stats.requests += 1
            attempt, client = attempt + 1, await self._connected()
            try:
                async with asyncio.timeout(self._answer_s + transfer_s):
                    result = await call(client)
            except (BaseError, OSError) as error:
                try:
                    await self._recover(what, error, attempt, started, client)
                except FileNotFoundError:
                    return None
            else:
                self._breaker.succeeded()
                return result

    async def _recover(
        self, what: str, error: Exception, attempt: int, started: float, client: Client
    ) -> None:
        """Waits until it is time for another attempt, or raises; FileNotFoundError when what was
        asked for is not there.
        """
        failure = sort(error)
        if failure.kind is FailureKind.GONE:
            self._breaker.succeeded()
            raise FileNotFoundError(what)
        if failure.kind is FailureKind.STALE and self._renew(client):
            return
        if failure.kind is not FailureKind.PASSING:
            self._breaker.succeeded()
            self.stats.denials += 1
            raise StoreDenied(f"{what} was refused: {failure.text}", failure.code)
        elapsed_s = self._monotonic() - started
        wait_s = wait_before(attempt, elapsed_s, self._options.retry, self._chance())
        if wait_s is None:
            self._breaker.failed(self._monotonic())
            self.stats.failures += 1
            raise StoreUnavailable(f"{what} failed {attempt} times, last with {failure.text}")
        self.stats.retries += 1
        await asyncio.sleep(wait_s)

    def _check_breaker(self, what: str) -> None:
        if self._breaker.is_open(self._monotonic()):
            raise StoreUnavailable(f"{what}: the bucket has not answered lately")

    def _renew(self, refused: Client) -> bool:
        """Whether a refused request has new credentials to try: somebody else has fetched some
        since, or it is time to do so.
        """
        if refused is not self._client:
            return True
        now = self._monotonic()
        if self._renewed_at is not None and now - self._renewed_at < _RENEWAL_S:
            return False
        self._renewed_at = now
        self._client = None
        return True

    def _hedged(self, call: Callable[[Client], Awaitable[T]]) -> Callable[[Client], Awaitable[T]]:
        """The same call, made twice when the first takes long."""
        after_s = self._options.hedge_after_s
        if after_s is None:
            return call

        async def outcome(client: Client) -> T | Exception:
            try:
                return await call(client)
            except Exception as error:  # noqa: BLE001 (raised again below, by whoever waits)
                return error

        async def hedged(client: Client) -> T:
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(outcome(client))}
                done, _ = await asyncio.wait(tasks, timeout=after_s)
                if not done:
                    self.stats.hedges += 1
                    self.stats.requests += 1
                    tasks.add(group.create_task(outcome(client)))
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                result = done.pop().result()
                for task in tasks:
                    task.cancel()
            if isinstance(result, Exception):
                raise result
            return result

        return hedged


class _SourceFailed(Exception):
    """What was to be uploaded could not be read; not seen outside this module."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Source:
    """Bytes on their way into obstore, which has its own words for what they raise."""

    def __init__(self, read: Callable[[], AsyncIterator[Buffer]]) -> None:
        self._read = read
        self.error: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._read():
                yield bytes(piece)
        except Exception as error:
            self.error = error
            raise


def sort(error: Exception) -> Failure:
    """Says what an error of obstore means."""
    text = str(error)
    status, code = _found(_STATUS, text), _found(_CODE, text)
    known = _ADVICE.get(code)
    said = ": ".join(filter(None, [code, known or _found(_MESSAGE, text)]))
    shown = f"status {status}" + (f" ({said})" if said else "")
    if code in _PASSING_CODES or status in _PASSING_STATUSES:
        return Failure(FailureKind.PASSING, code, shown)
    if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
        return Failure(FailureKind.GONE, code, shown)
    if code in _CREDENTIAL_CODES or (status in {"400", "401", "403"} and not code):
        # What answers a HEAD has no body to say why.
        return Failure(FailureKind.STALE, code, shown)
    if status:
        return Failure(FailureKind.DENIED, code, shown)
    # No answer at all: refused, reset, timed out, cut short.
    first = text.partition("\n")[0].strip()
    return Failure(FailureKind.PASSING, "", first or type(error).__name__)


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
