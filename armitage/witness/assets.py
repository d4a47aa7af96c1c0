"""Fetching for clients (Remote Asset): through the same code as actions, with the same evidence.

Each request is a session of its own, with the client's proven name on record. What is known by its
SHA-256 is pinned: if it is on record already, nobody is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

import h11

from armitage.errors import (
    Aborted,
    ArmitageError,
    Exhausted,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from armitage.observability.redaction import is_secret_name
from armitage.reapi.asset_origin import Fetched, Header, Wanted
from armitage.witness.archive import Archive
from armitage.witness.credentials import Credentials
from armitage.witness.evidence import Body, Subject, digest_of
from armitage.witness.exchange import Exchanges, Facts
from armitage.witness.heads import Refused, Target, url_target
from armitage.witness.modes import NetworkMode, normal_url
from armitage.witness.network import WitnessNetwork
from armitage.witness.options import AssetFetchOptions
from armitage.witness.policy import Grant
from armitage.witness.repositories import fetch_commit, read_commit
from armitage.witness.terms import Terms
from armitage.witness.unpacking import BadArchive, Bounds, Tree, Unpacking, in_order, remove, unpack
from armitage.witness.wire import Event
from cas.digest import Digest, DigestFunction
from cas.store import BlobImporter, BlobStore
from executor.errors import InvalidInput, WorkerFailure
from executor.ports import TreeCodec
from executor.spec import Directory, DirectoryNode, FileNode, Requester, SymlinkNode

_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AT_ONCE = 16
_IMPORT_FILES = 512


class Store(BlobStore, BlobImporter, Protocol):
    """Where clients look for what was fetched."""


class AssetFetcher:
    """Implements armitage.reapi.asset_origin.AssetOrigin."""

    def __init__(
        self,
        network: WitnessNetwork,
        archive: Archive,
        store: Store,
        codec: TreeCodec,
        *,
        credentials: Credentials,
        options: AssetFetchOptions,
    ) -> None:
        self._network = network
        self._archive = archive
        self._store = store
        self._codec = codec
        self._credentials = credentials
        self._options = options
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def blob(self, wanted: Wanted) -> Fetched:
        """Fetches a content."""

        async def fetch() -> Fetched:
            uri, body = await self._content(wanted)
            return Fetched(uri, await self._copy(digest_of(body), wanted.function))

        return await self._bounded(wanted, fetch)

    async def directory(self, wanted: Wanted) -> Fetched:
        """Fetches an archive and unpacks it, or a commit of a repository."""

        async def fetch() -> Fetched:
            directory = Path(tempfile.mkdtemp(dir=self._archive.spool, prefix="unpack-"))
            bounds = Bounds(self._options.unpacked_entries, self._options.unpacked_bytes)
            into = Unpacking(directory, bounds)
            try:
                get = self._repository if wanted.is_git else self._unpacked
                uri = await get(wanted, into, directory)
                root = await self._store_tree(into, into.part(wanted.directory), wanted.function)
            except BadArchive as error:
                raise Aborted(f"what {wanted.uris[0]} holds is refused: {error}") from error
            finally:
                await asyncio.to_thread(remove, directory)
            return Fetched(uri, root)

        return await self._bounded(wanted, fetch)

    async def _bounded(self, wanted: Wanted, fetch: Callable[[], Awaitable[Fetched]]) -> Fetched:
        longest = self._options.timeout_s
        async with asyncio.timeout(min(wanted.timeout_s or longest, longest)), self._room:
            return await fetch()

    # Contents

    async def _content(self, wanted: Wanted) -> tuple[str, Body]:
        """Answers the first URI that works. The failure of the last is told when none does."""
        failure: ArmitageError = NotFound("there is no URI")
        headers = wanted.headers or ((),) * len(wanted.uris)
        for uri, own in zip(wanted.uris, headers, strict=True):
            try:
                terms, mode = self._terms(wanted, uri)
                async with self._session(terms, wanted, mode) as exchanges:
                    body = await self._follow(exchanges, uri, own)
                await self._check(body, wanted, uri)
                return uri, body
            except (NotFound, PermissionDenied, Aborted, Unavailable, InvalidRequest) as error:
                failure = error
        raise failure

    async def _check(self, body: Body, wanted: Wanted, uri: str) -> None:
        """What has none of the checksums is not what was asked for. Raises Aborted."""
        if not wanted.checksums or wanted.sha256:
            return
        hashers = {name: hashlib.new(name) for name, _ in wanted.checksums}
        async for data in self._archive.store.read(digest_of(body)):
            for hasher in hashers.values():
                hasher.update(data)
        if not any(hashers[name].digest() == digest for name, digest in wanted.checksums):
            raise Aborted(f"the content of {uri} does not match checksum.sri")

    def _terms(self, wanted: Wanted, uri: str) -> tuple[Terms, NetworkMode]:
        hosts = ["" if host == "*" else host for host in self._options.hosts]
        granted = self._options.credentials
        terms = Terms(
            grants=[Grant(host) for host in hosts],
            inject=self._credentials.inject(granted),
            credentials=frozenset(granted),
            instance=wanted.requester.instance,
        )
        if not wanted.sha256:
            return terms, NetworkMode.WITNESSED
        try:
            return replace(terms, pins={normal_url(uri): wanted.sha256}), NetworkMode.PINNED
        except InvalidInput as error:
            raise InvalidRequest(str(error)) from None

    @asynccontextmanager
    async def _session(
        self, terms: Terms, wanted: Wanted, mode: NetworkMode
    ) -> AsyncIterator[Exchanges]:
        declared = self._declared()
        try:
            exchanges = await self._network.exchanges(
                terms, _subject(wanted.requester), declared, mode
            )
        except WorkerFailure as error:
            raise Unavailable(str(error)) from error
        try:
            yield exchanges
        finally:
            await exchanges.close()

    def _declared(self) -> str:
        hosts = self._options.hosts
        return "+".join("network" if host == "*" else f"network:{host}" for host in hosts)

    async def _follow(self, exchanges: Exchanges, uri: str, headers: tuple[Header, ...]) -> Body:
        """Follows redirects: each hop is an exchange of its own."""
        url = uri
        for _ in range(self._options.max_redirects + 1):
            target, facts = await self._ask(exchanges, url, headers)
            if facts.status not in _REDIRECTS:
                return _body_of(facts, uri)
            location = _value(facts, b"location")
            if not location:
                raise Unavailable(f"{target.authority} redirects to nowhere")
            url = urljoin(target.url, location)
            headers = _passed_on(headers, target, url)
        raise Unavailable(f"{uri} has more than {self._options.max_redirects} redirects")

    async def _ask(
        self, exchanges: Exchanges, url: str, headers: tuple[Header, ...]
    ) -> tuple[Target, Facts]:
        try:
            target = url_target(b"GET", url)
            raw = [(b"host", target.authority.encode()), (b"accept-encoding", b"identity")]
            raw += [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
            request = h11.Request(method=b"GET", target=target.target, headers=raw)
        except Refused as refused:
            raise InvalidRequest(str(refused)) from None
        except (UnicodeError, h11.LocalProtocolError):
            raise InvalidRequest("a header to be sent is none") from None
        client, facts = _Nobody(), exchanges.begin(request)
        await exchanges.perform(client, facts, lambda: target)
        if client.refusal is not None:
            raise client.refusal
        return target, facts

    async def _copy(self, kept: Digest, function: DigestFunction) -> Digest:
        """Has what is on record in the store that clients know, too."""
        digest = kept
        if function is not DigestFunction.SHA256:
            hasher = function.hasher()
            async for data in self._archive.store.read(kept):
                hasher.update(data)
            digest = Digest(function, hasher.hexdigest(), kept.size_bytes)
        if not await self._store.find_missing([digest]):
            return digest
        writer = await self._store.open_writer([digest])
        try:
            async for data in self._archive.store.read(kept):
                await writer.write(data)
            return await writer.commit()
        finally:
            await writer.abort()

    # Trees

    async def _unpacked(self, wanted: Wanted, into: Unpacking, directory: Path) -> str:
        uri, body = await self._content(wanted)
        archive = directory / "archive"
        with archive.open("wb") as out:
            async for data in self._archive.store.read(digest_of(body)):
                await asyncio.to_thread(out.write, data)
        await asyncio.to_thread(unpack, archive, into)
        return uri

    async def _repository(self, wanted: Wanted, into: Unpacking, directory: Path) -> str:
        ref = wanted.commit or (f"refs/heads/{wanted.branch}" if wanted.branch else "HEAD")
        failure: ArmitageError = NotFound("there is no URI")
        for number, uri in enumerate(wanted.uris):
            place = directory / f"try-{number}"
            place.mkdir()
            try:
                url_target(b"GET", uri)
                terms, _ = self._terms(replace(wanted, sha256=""), uri)
                session = await self._network.begin(
                    terms,
                    _subject(wanted.requester),
                    self._declared(),
                    NetworkMode.WITNESSED,
                    str(place),
                )
            except Refused as refused:
                failure = InvalidRequest(str(refused))
                continue
            except WorkerFailure as error:
                raise Unavailable(str(error)) from error
            try:
                repository, tip = await fetch_commit(session, uri, ref, place)
            except (Unavailable, Aborted) as error:
                failure = error
                continue
            finally:
                await session.close()
            await read_commit(repository, tip, into)
            return uri
        raise failure

    async def _store_tree(self, into: Unpacking, root: Tree, function: DigestFunction) -> Digest:
        digests: list[Digest] = []
        for first in range(0, len(into.contents), _IMPORT_FILES):
            paths = [str(path) for path in into.contents[first : first + _IMPORT_FILES]]
            digests += await self._store.import_files(function, paths)
        known: dict[int, Digest] = {}
        for tree in in_order(root):
            data = self._codec.encode_directory(
                Directory(
                    tuple(
                        FileNode(name, digests[file.number], file.is_executable)
                        for name, file in tree.files.items()
                    ),
                    tuple(
                        DirectoryNode(name, known[id(below)])
                        for name, below in tree.directories.items()
                    ),
                    tuple(SymlinkNode(name, target) for name, target in tree.links.items()),
                )
            )
            known[id(tree)] = await self._store.put([function.digest(data)], data)
        return known[id(root)]


class _Nobody:
    """A client that takes nothing: what was fetched is in the store."""

    def __init__(self) -> None:
        self.refusal: ArmitageError | None = None

    async def receive(self) -> Event:
        return h11.EndOfMessage()

    async def send(self, *events: Event) -> None:
        pass

    async def go_on(self) -> None:
        pass

    async def answer(self, status: int, text: str, rule: str) -> None:
        match rule:
            case "pin":
                self.refusal = Aborted(text)
            case "offline":
                self.refusal = NotFound(text)
            case "size":
                self.refusal = Exhausted(text)
            case _ if status == 403:
                self.refusal = PermissionDenied(text)
            case _:
                self.refusal = Unavailable(text)


def _body_of(facts: Facts, uri: str) -> Body:
    if facts.status == _OK and facts.response_body is not None:
        return facts.response_body
    text = f"{facts.host} answers {facts.status} for {uri}"
    match facts.status:
        case 401 | 403 | 407:
            raise PermissionDenied(text)
        case 429 | 500 | 502 | 503 | 504:
            raise Unavailable(text)
        case _:
            raise NotFound(text)


def _value(facts: Facts, wanted: bytes) -> str:
    found = [value for name, value in facts.response_headers if name.lower() == wanted]
    return found[0].decode("latin-1") if found else ""


def _passed_on(headers: tuple[Header, ...], target: Target, url: str) -> tuple[Header, ...]:
    """A secret that was meant for one host does not go on to another."""
    try:
        there = url_target(b"GET", url)
    except Refused:
        return ()
    if (there.scheme, there.host, there.port) == (target.scheme, target.host, target.port):
        return headers
    return tuple(header for header in headers if not is_secret_name(header[0].lower()))


def _subject(requester: Requester) -> Subject:
    return Subject(
        instance=requester.instance,
        operation=requester.operation,
        invocation=requester.invocation,
        target=requester.target,
        identity=requester.identity,
    )
