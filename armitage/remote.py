"""The remote tier: a bucket of an S3 API behind the local stores, and the credentials for it."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from armitage.clock import Clock
from armitage.errors import ConfigError
from armitage.transport.addresses import is_loopback, join_address
from cas.errors import StoreDenied, StoreUnavailable
from cas.pending import DiskPending, MemoryPending
from cas.s3 import Credentials, CredentialSource, S3Bucket, S3Options, S3Stats
from cas.s3_action_cache import S3ActionCache
from cas.s3_store import S3Store, S3StoreOptions
from cas.tiered import TierOptions, WriteMode
from cas.tiers import Elsewhere, Here, Tiers, TiersStats

_log = logging.getLogger(__name__)

_CHECK_S = 10.0
"""How long a start waits for the bucket to show that it is there."""
_TRUSTED_S = 300.0
"""Credentials are looked up again after this time, should they have been rotated. botocore gives
out none that end sooner.
"""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """A bucket behind the local stores; without `s3.bucket` there is none."""

    profile: str = ""
    """Which profile of the AWS configuration files the credentials are of; empty: the one that the
    standard chain comes to (environment, files, container, instance).
    """
    s3: S3Options = field(default_factory=S3Options)
    store: S3StoreOptions = field(default_factory=S3StoreOptions)
    tiers: TierOptions = field(default_factory=TierOptions)


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """How the remote tier fares: the figures of the tiers, and those of the wire."""

    tiers: TiersStats
    wire: S3Stats


class Remote(NamedTuple):
    """A bucket as a store and a cache."""

    bucket: S3Bucket
    store: S3Store
    cache: S3ActionCache


def check_remote(
    options: RemoteOptions, *, keeps_nothing: bool, accept_insecure_network: bool
) -> None:
    """Checks what no section can check alone. Raises ConfigError."""
    s3 = options.s3
    if not s3.bucket:
        return
    if keeps_nothing and options.tiers.mode is WriteMode.WRITE_BACK:
        raise ConfigError(
            'remote.tiers.mode: write-back would lose what is pending with storage = "memory";'
            " use write-through"
        )
    url = urlsplit(s3.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"remote.s3.endpoint: {s3.endpoint!r} is not an http(s) address")
    if not s3.endpoint and s3.region == "auto":
        raise ConfigError(
            'remote.s3: AWS needs region, such as "eu-central-1"; other services need endpoint'
        )
    is_near = is_loopback(join_address(url.hostname, 0))
    if url.scheme == "http" and not (is_near or accept_insecure_network):
        raise ConfigError(
            f"remote.s3.endpoint: {s3.endpoint} would send everything in the clear; write https,"
            " or accept the risk with accept_insecure_network = true"
        )


def open_remote(
    options: RemoteOptions,
    clock: Clock,
    *,
    spool: Path,
    credentials: CredentialSource | None = None,
) -> Remote:
    """A bucket, without asking it anything. `spool` is for temporary files and must exist."""
    bucket = S3Bucket(
        options.s3,
        credentials or standard_credentials(options.profile),
        monotonic=clock.monotonic,
        chance=random.random,
    )
    store = S3Store(bucket, options.store, spool=spool, wall=clock.wall)
    return Remote(bucket, store, S3ActionCache(bucket, options.store.prefix))


async def open_tiers(
    stack: AsyncExitStack,
    here: Here,
    remote: Remote,
    options: TierOptions,
    *,
    pending: Path | None,
    clock: Clock,
) -> Tiers:
    """Puts a bucket behind local stores, until the stack unwinds.

    `pending` is the file of pending copies; None keeps them in memory. A bucket that refuses is an
    error (StoreDenied); one that does not answer is not, since it may come back.
    """
    try:
        async with asyncio.timeout(_CHECK_S):
            await remote.store.check()
    except StoreDenied:
        raise
    except (StoreUnavailable, TimeoutError) as error:
        _log.warning("the remote tier does not answer; going on without it: %s", error)
    kept = MemoryPending() if pending is None else await DiskPending.open(pending)
    tiers = Tiers(
        here,
        Elsewhere(remote.store, remote.cache),
        options,
        kept,
        monotonic=clock.monotonic,
        chance=random.random,
    )
    return await stack.enter_async_context(tiers)


def standard_credentials(profile: str) -> CredentialSource:
    """Credentials as every AWS tool finds them: environment, files, container, instance.

    Looked up anew each time they are asked for, which is when the last ones have ended.
    """

    def look_up() -> Credentials:
        # Large, and only needed with a bucket.
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            found = Session(profile=profile or None).get_credentials()
            frozen = None if found is None else found.get_frozen_credentials()
        except BotoCoreError as error:
            raise StoreDenied(f"looking for credentials: {error}") from None
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise StoreDenied(
                "no credentials for the bucket in the standard chain: AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, container or instance role"
            )
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, _TRUSTED_S)

    async def answer() -> Credentials:
        return await asyncio.to_thread(look_up)

    return answer
