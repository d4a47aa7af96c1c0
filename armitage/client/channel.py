"""Typed calls to any REAPI server over grpcio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from armitage.reapi.rpcs import Rpc
from armitage.transport.port import Code

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


class CallFailed(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, path: str, code: Code, message: str, details: status_pb2.Status) -> None:
        super().__init__(f"{path.rpartition('/')[2]}: {code.name}: {message}")
        self.path = path
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes: the authority to trust, and our own certificate with its key for mutual TLS."""

    authority: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None


class Channel:
    """One connection to a server. An async context manager; `metadata` goes with every call."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        metadata: Metadata = (),
        ping_s: float | None = None,
    ) -> None:
        """`ping_s` sends an HTTP/2 ping that often, calls or none; None sends none."""
        self._metadata = tuple(metadata)
        options = _OPTIONS if ping_s is None else (*_OPTIONS, *_pings(ping_s))
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
            self._channel = grpc.aio.secure_channel(target, credentials, options=options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def call(
        self,
        rpc: Rpc[Req, Resp],
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Resp:
        """Calls a unary RPC. Raises CallFailed."""
        method = self._channel.unary_unary(rpc.path, _encode, rpc.response.FromString)
        call = method(request, timeout=timeout, metadata=self._metadata + tuple(metadata))
        return await self._answer(rpc, call)

    async def send(
        self,
        rpc: Rpc[Req, Resp],
        requests: AsyncIterable[Req],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Resp:
        """Calls a client-streaming RPC. Raises CallFailed."""
        method = self._channel.stream_unary(rpc.path, _encode, rpc.response.FromString)
        call = method(requests, timeout=timeout, metadata=self._metadata + tuple(metadata))
        return await self._answer(rpc, call)

    async def stream(
        self,
        rpc: Rpc[Req, Resp],
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncGenerator[Resp, None]:
        """Calls a server-streaming RPC; leaving the iterator cancels it. Raises CallFailed."""
        method = self._channel.unary_stream(rpc.path, _encode, rpc.response.FromString)
        call = method(request, timeout=timeout, metadata=self._metadata + tuple(metadata))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _failure(rpc.path, error) from None
        finally:
            call.cancel()

    async def _answer(self, rpc: Rpc[Any, Resp], call: Any) -> Resp:
        try:
            response: Resp = await call
        except grpc.aio.AioRpcError as error:
            raise _failure(rpc.path, error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not we were cancelled but the call was: its request iterator raised.
            message = "the requests could not be made"
            raise CallFailed(rpc.path, Code.CANCELLED, message, status_pb2.Status()) from None
        return response


def _pings(period_s: float) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.keepalive_time_ms", round(period_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


def _failure(path: str, error: grpc.aio.AioRpcError) -> CallFailed:
    code = Code(error.code().value[0])
    message = error.details() or ""
    details = status_pb2.Status(code=code, message=message)
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                details = status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return CallFailed(path, code, message, details)
