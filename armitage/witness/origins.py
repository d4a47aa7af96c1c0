"""How origins are reached: names looked up and every address checked, then a connection to one that
was checked, with the certificate checked against the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

import h11
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from armitage.witness.heads import Refused, Target
from armitage.witness.policy import Decision
from armitage.witness.reach import Address, parse_address, refusal
from armitage.witness.stream import Stream
from armitage.witness.wire import Side

_V6 = 6

Resolve = Callable[[str, int], Awaitable[list[Address]]]
"""Answers all addresses of a name. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection, and what is to be kept of whom it leads to."""

    side: Side
    address: str
    since_s: float
    """The loop's time at which it was made."""
    tls_version: str = ""
    certificate_spki_sha256: str = ""


class Origins:
    """Connects to origins."""

    def __init__(
        self, resolve: Resolve, tls: ssl.SSLContext, *, connect_s: float, idle_s: float
    ) -> None:
        self._resolve = resolve
        self._tls = tls
        self._connect_s = connect_s
        self._idle_s = idle_s

    async def reach(self, target: Target, decision: Decision) -> Reached:
        """Connects. Raises Refused: 403 for an address that may not be reached, 502 and 504 for
        one that cannot be.
        """
        addresses = await self._look_up(target)
        why = refusal(target.host, addresses, decision.networks)
        if why is not None:
            raise Refused(403, why, "address")
        failure: OSError | TimeoutError = OSError("no address")
        for address in addresses:
            try:
                return await self._connect(target, address)
            except ssl.SSLCertVerificationError as error:
                raise Refused(
                    502, f"{target.host} shows no valid certificate: {error.verify_message}", "tls"
                ) from error
            except (OSError, TimeoutError) as error:
                failure = error
        status = 504 if isinstance(failure, TimeoutError) else 502
        raise Refused(
            status, f"{target.host}:{target.port} cannot be reached: {_words(failure)}", "origin"
        )

    async def _look_up(self, target: Target) -> Sequence[Address]:
        literal = parse_address(target.host)
        if literal is not None:
            return [literal]
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._resolve(target.host, target.port)
        except (OSError, TimeoutError) as error:
            raise Refused(
                502, f"{target.host} has no address here: {_words(error)}", "origin"
            ) from error

    async def _connect(self, target: Target, address: Address) -> Reached:
        is_tls = target.scheme == "https"
        stream = await self._open(address, target.port)
        try:
            if is_tls:
                async with asyncio.timeout(self._connect_s):
                    await stream.start_tls(self._tls, target.host)
        except BaseException:
            stream.abort()
            raise
        reached = Reached(Side(h11.CLIENT, stream), str(address), asyncio.get_running_loop().time())
        if stream.tls is None:
            return reached
        certificate = stream.tls.getpeercert(binary_form=True)
        return replace(
            reached,
            tls_version=stream.tls.version() or "",
            certificate_spki_sha256=_spki(certificate),
        )

    async def _open(self, address: Address, port: int) -> Stream:
        family = socket.AF_INET6 if address.version == _V6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            async with asyncio.timeout(self._connect_s):
                await asyncio.get_running_loop().sock_connect(made, (str(address), port))
        except BaseException:
            made.close()
            raise
        return Stream(made, self._idle_s)


async def resolve_by_system(host: str, port: int) -> list[Address]:
    """Asks the host's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [parse_address(str(place[0])) for *_, place in found]
    return [address for address in dict.fromkeys(addresses) if address is not None]


def resolve_with(known: Mapping[str, Address]) -> Resolve:
    """Answers what is known, and asks the host's resolver for all else."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [known[host]] if host in known else await resolve_by_system(host, port)

    return resolve


def origin_tls(authorities: str | None = None) -> ssl.SSLContext:
    """What origins are checked with: the system's authorities, or those of one PEM file."""
    context = ssl.create_default_context(cafile=authorities)
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=256)
def _spki(certificate: bytes | None) -> str:
    if certificate is None:
        return ""
    key = x509.load_der_x509_certificate(certificate).public_key()
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{sha256(encoded).hexdigest()}"


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
