"""ContentAddressableStorage: many small blobs at once, and trees (REAPI)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from hashlib import sha256
from itertools import chain
from typing import NamedTuple, Protocol

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import ArmitageError, InvalidRequest, NotFound
from armitage.reapi import rpcs
from armitage.reapi.at_once import AtOnce
from armitage.reapi.compressors import CODECS
from armitage.reapi.concurrency import map_concurrently
from armitage.reapi.digests import Candidates, Notation, stored_candidate
from armitage.reapi.gate import rpc_status, status_of
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.reapi.walk import walk
from armitage.reapi.wire import length_delimited
from armitage.transport.port import Call, Code, Method, ServerStream, Unary
from cas.compression import Codec
from cas.digest import Digest
from cas.errors import BlobNotFound, BlobTooLarge, CasError
from cas.store import BatchPut, BatchStore, BlobStore, ZstdStore

_GETS_AT_ONCE = 256


class ContentStore(BlobStore, BatchStore, Protocol):
    """What this service stores blobs in."""


class _Read(NamedTuple):
    data: bytes
    compressor: reapi.Compressor.Value


class ContentService:
    """Finds, stores and reads blobs by the batch, and lists trees."""

    def __init__(
        self,
        store: ContentStore,
        instances: Instances,
        invocations: Invocations,
        *,
        limits: Limits | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self._store = store
        self._zstd = store if isinstance(store, ZstdStore) else None
        self._instances = instances
        self._invocations = invocations
        self._limits = limits or Limits()
        self._at_once = at_once

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(
                rpcs.FIND_MISSING_BLOBS.path,
                self.find_missing_blobs,
                self._at_once.find_missing_blobs if self._at_once else None,
            ),
            Unary(rpcs.BATCH_UPDATE_BLOBS.path, self.batch_update_blobs),
            Unary(rpcs.BATCH_READ_BLOBS.path, self.batch_read_blobs),
            ServerStream(rpcs.GET_TREE.path, self.get_tree),
        ]

    async def find_missing_blobs(self, request: bytes, call: Call) -> bytes:
        """Answers the digests that are absent, byte for byte as they were asked; holds the others.

        The hottest call of all: reads and writes the messages by hand.
        """
        instance_name, function, encoded = _scan_find_missing(request)
        notation = self._instances.get(instance_name).digests.notation(function)
        asked = [notation.parse_encoded(digest) for digest in encoded]
        found, absent = await self._find(asked)
        self._invocations.hold(call, found)
        if not absent:
            return b""
        missing = [
            length_delimited(2, digest)
            for digest, candidates in zip(encoded, asked, strict=True)
            if candidates in absent
        ]
        return b"".join(missing)

    async def batch_update_blobs(self, request: bytes, call: Call) -> bytes:
        """Stores each blob or says for each why not."""
        message = reapi.BatchUpdateBlobsRequest.FromString(request)
        instance = self._instances.get(message.instance_name)
        notation = instance.digests.notation(message.digest_function)
        self._check_batch(_announced_bytes(message.requests))
        entries = [_read_entry(instance, notation, entry) for entry in message.requests]
        new_bytes = sum(
            one.candidates[0].size_bytes for one in entries if isinstance(one, BatchPut)
        )
        with self._instances.reserve(instance, new_bytes):
            outcomes = await self._store_all(entries)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Digest)]
        self._instances.charge(instance.name, stored)
        self._invocations.hold(call, stored)
        response = reapi.BatchUpdateBlobsResponse()
        for entry, outcome in zip(message.requests, outcomes, strict=True):
            answer = response.responses.add(digest=entry.digest)
            if isinstance(outcome, Digest):
                answer.status.SetInParent()
            else:
                answer.status.CopyFrom(rpc_status(status_of(outcome)))
        return response.SerializeToString()

    async def batch_read_blobs(self, request: bytes, call: Call) -> bytes:
        """Reads each blob or says for each why not; `status` is always there, also when OK."""
        message = reapi.BatchReadBlobsRequest.FromString(request)
        notation = self._instances.get(message.instance_name).digests.notation(
            message.digest_function
        )
        asked = notation.parse_all(message.digests)
        self._check_batch(sum(candidates[0].size_bytes for candidates in asked))
        found, _ = await self._find(asked)
        self._invocations.hold(call, found)
        stored = set(found)
        with_zstd = reapi.Compressor.ZSTD in message.acceptable_compressors

        async def read(candidates: Candidates) -> _Read | None:
            for digest in candidates:
                if digest in stored:
                    try:
                        return await self._read(digest, with_zstd=with_zstd)
                    except BlobNotFound:
                        continue
            return None

        blobs = await map_concurrently(read, asked, _GETS_AT_ONCE)
        response = reapi.BatchReadBlobsResponse()
        for digest, blob in zip(message.digests, blobs, strict=True):
            answer = response.responses.add(digest=digest)
            answer.status.SetInParent()
            if blob is None:
                answer.status.code = Code.NOT_FOUND
                answer.status.message = "not stored"
            else:
                answer.data, answer.compressor = blob
        return response.SerializeToString()

    async def _read(self, digest: Digest, *, with_zstd: bool) -> _Read:
        """Reads a blob as the client takes it best without anything being compressed for it."""
        if with_zstd and self._zstd is not None:
            stream = await self._zstd.get_zstd(digest)
            if stream is not None:
                return _Read(stream, reapi.Compressor.ZSTD)
        return _Read(await self._store.get(digest), reapi.Compressor.IDENTITY)

    async def get_tree(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        """Streams pages of the directories below a root, each directory once, parents first.

        A page token says how many directories to skip, so any server with the same blobs can go on
        from it.
        """
        message = reapi.GetTreeRequest.FromString(request)
        notation = self._instances.get(message.instance_name).digests.notation(
            message.digest_function
        )
        root = await stored_candidate(self._store, notation.parse(message.root_digest))
        if root is None:
            raise NotFound(f"root directory {notation.parse(message.root_digest)[0]} is not stored")
        if message.page_size < 0:
            raise InvalidRequest(f"page_size {message.page_size} is negative")
        skipped = _read_page_token(root, message.page_token)
        page = _Page(message.page_size, self._limits.max_response_bytes)
        visited = 0
        async for visit in walk(self._store, root, self._limits):
            visited += 1
            if visited <= skipped or visit.data is None:
                continue
            self._invocations.hold(call, (visit.digest,))
            if not page.has_room(visit.data):
                yield page.take(_page_token(root, visited - 1))
            page.add(visit.data)
        if visited < skipped:
            raise InvalidRequest("page_token is past the end of this tree; start without one")
        yield page.take("")

    async def _find(self, asked: Sequence[Candidates]) -> tuple[list[Digest], set[Candidates]]:
        """Answers what is stored, and the candidates of which none is.

        Asks for the first candidates of all, then for the second ones of what was not found.
        """
        missing = set(await self._store.find_missing([candidates[0] for candidates in asked]))
        if not missing:
            return [candidates[0] for candidates in asked], set()
        found = [candidates[0] for candidates in asked if candidates[0] not in missing]
        absent = {candidates for candidates in asked if candidates[0] in missing}
        seconds = list(chain.from_iterable(candidates[1:] for candidates in absent))
        if seconds:
            missing.update(await self._store.find_missing(seconds))
            found += [digest for digest in seconds if digest not in missing]
            absent = {candidates for candidates in absent if missing.issuperset(candidates)}
        return found, absent

    async def _store_all(
        self, entries: Sequence[BatchPut | ArmitageError | CasError]
    ) -> list[Digest | ArmitageError | CasError]:
        """Stores what could be read, all at once, and answers for each what came of it."""
        outcomes = iter(
            await self._store.put_many([entry for entry in entries if isinstance(entry, BatchPut)])
        )
        return [next(outcomes) if isinstance(entry, BatchPut) else entry for entry in entries]

    def _check_batch(self, total_bytes: int) -> None:
        limit = self._limits.max_batch_total_size_bytes
        if total_bytes > limit:
            raise InvalidRequest(
                f"the batch is of {total_bytes} bytes, over the limit of {limit}; split it or use"
                " ByteStream"
            )


class _Page:
    """A GetTreeResponse being filled with directories as they are stored."""

    def __init__(self, max_directories: int, max_bytes: int) -> None:
        self._max_directories = max_directories or 1 << 30
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._size = 0

    def has_room(self, directory: bytes) -> bool:
        if not self._records:
            return True
        return (
            len(self._records) < self._max_directories
            and self._size + len(directory) + 8 <= self._max_bytes
        )

    def add(self, directory: bytes) -> None:
        self._records.append(length_delimited(1, directory))
        self._size += len(self._records[-1])

    def take(self, next_page_token: str) -> bytes:
        """Answers the page and starts the next one."""
        if next_page_token:
            self._records.append(length_delimited(2, next_page_token.encode()))
        page = b"".join(self._records)
        self._records, self._size = [], 0
        return page


_PAGE_TOKEN = re.compile(r"([0-9]{1,18})-([0-9a-f]{16})")


def _page_token(root: Digest, skip: int) -> str:
    """A count, bound to its tree so that a token of another one is told."""
    return f"{skip}-{sha256(f'{root} {skip}'.encode()).hexdigest()[:16]}"


def _read_page_token(root: Digest, token: str) -> int:
    if not token:
        return 0
    match = _PAGE_TOKEN.fullmatch(token)
    if match is None or _page_token(root, int(match[1])) != token:
        raise InvalidRequest("page_token is not one that this tree gave")
    return int(match[1])


def _scan_find_missing(request: bytes) -> tuple[str, int, list[bytes]]:
    """Answers instance_name, digest_function and the serialised digests.

    Reads the ordinary form by hand and leaves any other to protobuf.
    """
    instance, function = "", 0
    digests: list[bytes] = []
    position, end = 0, len(request)
    while position + 1 < end and (length := request[position + 1]) < 0x80:
        tag = request[position]
        start = position + 2
        if tag == 0x12:
            position = start + length
            digests.append(request[start:position])
        elif tag == 0x0A and (name := request[start : start + length]).isascii():
            position = start + length
            instance = name.decode()
        elif tag == 0x18:
            function = length
            position = start
        else:
            break
    if position == end:
        return instance, function, digests
    message = reapi.FindMissingBlobsRequest.FromString(request)
    encoded = [digest.SerializeToString() for digest in message.blob_digests]
    return message.instance_name, message.digest_function, encoded


def _read_entry(
    instance: Instance, notation: Notation, entry: reapi.BatchUpdateBlobsRequest.Request
) -> BatchPut | ArmitageError | CasError:
    """Answers the blob, decompressed, or what is wrong with the entry."""
    try:
        candidates = notation.parse(entry.digest)
        size_bytes = candidates[0].size_bytes
        if 0 < instance.max_blob_size_bytes < size_bytes:
            raise BlobTooLarge(candidates[0], instance.max_blob_size_bytes)
        if entry.compressor == reapi.Compressor.IDENTITY:
            return BatchPut(candidates, entry.data)
        if entry.compressor not in CODECS:
            raise InvalidRequest(f"compressor {entry.compressor} is not offered for batch updates")
        codec = CODECS[entry.compressor]
        data = codec.decompress(entry.data, size_bytes)
        return BatchPut(candidates, data, entry.data if codec is Codec.ZSTD else None)
    except (ArmitageError, CasError) as error:
        return error


def _announced_bytes(entries: Iterable[reapi.BatchUpdateBlobsRequest.Request]) -> int:
    """The blobs' sum: of the data as it came, and of the announced sizes where it is compressed."""
    return sum(
        max(len(entry.data), entry.digest.size_bytes if entry.compressor else 0)
        for entry in entries
    )
