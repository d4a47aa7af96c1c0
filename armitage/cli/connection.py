"""From flags to a server that has answered."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from armitage.client.channel import Channel, Tls
from armitage.client.errors import UsageError
from armitage.client.remote import Remote, connect, invocation_metadata, parse_address
from armitage.version import version
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest


@asynccontextmanager
async def channel_for(args: argparse.Namespace) -> AsyncIterator[Channel]:
    """Opens a channel to `--server`. Raises UsageError."""
    address = parse_address(args.server)
    metadata = invocation_metadata(version())
    async with Channel(address.target, tls=tls_for(args), metadata=metadata) as channel:
        yield channel


def tls_for(args: argparse.Namespace) -> Tls | None:
    """Reads the TLS files; None for a plain address. Raises UsageError."""
    if parse_address(args.server).tls:
        return Tls(_read(args.tls_ca), _read(args.tls_cert), _read(args.tls_key))
    if any((args.tls_ca, args.tls_cert, args.tls_key)):
        raise UsageError(f"TLS files are given, but {args.server} is plain; write grpcs://")
    return None


@asynccontextmanager
async def remote_for(args: argparse.Namespace) -> AsyncIterator[Remote]:
    """Opens a channel and asks for the instance's capabilities. Raises UsageError, CallFailed."""
    asked = DigestFunction(args.digest_function) if args.digest_function else None
    async with channel_for(args) as channel:
        yield await connect(channel, args.instance, asked)


def parse_digest(text: str, function: DigestFunction) -> Digest:
    """Parses `[FUNCTION:]HASH/SIZE`; the function is guessed by length where it can only be one.

    Raises UsageError.
    """
    name, colon, rest = text.rpartition(":")
    hash_, slash, size = rest.partition("/")
    try:
        if colon:
            function = DigestFunction(name)
        elif len(hash_) != function.hex_length:
            function = next(f for f in DigestFunction if f.hex_length == len(hash_))
        if not slash or not size.isdecimal():
            raise ValueError
        return Digest(function, hash_, int(size))
    except (ValueError, StopIteration, InvalidDigest):
        raise UsageError(
            f"{text!r} is not a digest; write HASH/SIZE or FUNCTION:HASH/SIZE"
        ) from None


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
