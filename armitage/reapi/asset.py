"""Remote Asset: content by URI, as clients pushed it (REAPI `remote_asset.proto`).

An association of a URI and qualifiers with a digest is a small record in the action cache, under an
instance name that no client can use. What nobody pushed is fetched from its origin where the
operator lets clients have that (armitage.reapi.asset_origin); otherwise it is NOT_FOUND in the
response, with a message that says so. What was fetched is remembered like a push where a checksum
or a commit says what it is, and fetched anew otherwise.

A push that says when it expires keeps its content until then. What is so kept is recorded too, in a
fixed number of records each for a share of the holders, for a restarted server to find again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.clock import Clock
from armitage.errors import Aborted, ArmitageError, InvalidRequest, PermissionDenied
from armitage.reapi import rpcs
from armitage.reapi.asset_origin import AssetOrigin, Wanted, headers_for, version_of
from armitage.reapi.digests import WIRE_FUNCTIONS, Notation, stored_candidate, wire_digest
from armitage.reapi.gate import code_of
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.reapi.request_metadata import request_metadata
from armitage.reapi.trusting import TrustGate
from armitage.reapi.walk import files_of, walk
from armitage.transport.port import Call, Code, Method, Unary
from cas.action_cache import ActionCache
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, CasError
from cas.store import BlobStore, Retention
from executor.spec import Requester

_log = logging.getLogger(__name__)

Response = TypeVar("Response", asset.FetchBlobResponse, asset.FetchDirectoryResponse)
FetchRequest = asset.FetchBlobRequest | asset.FetchDirectoryRequest
PushRequest = asset.PushBlobRequest | asset.PushDirectoryRequest

CHECKSUM = "checksum.sri"
KNOWN_QUALIFIERS = frozenset(
    {
        CHECKSUM,
        "resource_type",
        "directory",
        "vcs.branch",
        "vcs.commit",
        "bazel.canonical_id",
    }
)
_HEADER_QUALIFIERS = ("http_header:", "http_header_url:", "bazel.auth_headers")
"""How to ask an origin, and often secret: no part of what the content is."""

_SRI = re.compile(r"(sha256|sha384|sha512)-([A-Za-z0-9+/]+={0,2})(\?\S*)?")
_BLOB, _DIRECTORY = "blob", "directory"
_HOLD_RECORDS = 256
_MAX_REMEMBERED_CHECKSUMS = 4096


@dataclass(frozen=True, slots=True)
class AssetOptions:
    """How pushed content is kept."""

    max_hold_s: float = 30 * 86400.0
    """A push cannot keep its content from eviction for longer, however late it expires."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What was pushed for one URI and set of qualifiers."""

    digest: Digest
    pushed_at: float
    expires_at: float | None
    qualifiers: tuple[tuple[str, str], ...]
    blobs: tuple[Digest, ...] = ()
    directories: tuple[Digest, ...] = ()


class AssetService:
    """Fetch and Push. Who may not write action results may not push either."""

    def __init__(
        self,
        cache: ActionCache,
        store: BlobStore,
        retention: Retention,
        instances: Instances,
        invocations: Invocations,
        *,
        clock: Clock,
        limits: Limits | None = None,
        options: AssetOptions | None = None,
        origin: AssetOrigin | None = None,
        gate: TrustGate | None = None,
    ) -> None:
        """`origin` is None where nothing is fetched; `gate` where every push is believed."""
        self._origin = origin
        self._gate = gate
        self._cache = cache
        self._store = store
        self._instances = instances
        self._invocations = invocations
        self._clock = clock
        self._limits = limits or Limits()
        self._holds = _Holds(cache, retention, clock, options or AssetOptions())
        self._checksums: dict[tuple[Digest, str], bytes] = {}

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(rpcs.FETCH_BLOB.path, self.fetch_blob),
            Unary(rpcs.FETCH_DIRECTORY.path, self.fetch_directory),
            Unary(rpcs.PUSH_BLOB.path, self.push_blob),
            Unary(rpcs.PUSH_DIRECTORY.path, self.push_directory),
        ]

    async def restore(self) -> None:
        """Keeps again what unexpired pushes keep; to be called once, before serving."""
        for holder, until, record in await self._holds.recorded():
            try:
                kept = await self._kept(record)
            except ArmitageError as error:
                _log.warning("a push keeps less than it did: %s", error)
                kept = [record.digest, *record.blobs]
            self._holds.hold(holder, until, kept)

    def expire(self) -> None:
        """Lets go of what expired pushes kept; to be called now and then."""
        self._holds.expire()

    async def fetch_blob(self, request: bytes, call: Call) -> bytes:
        """Answers the blob pushed for one of the URIs, or a status that says why there is none."""
        message = asset.FetchBlobRequest.FromString(request)
        response = asset.FetchBlobResponse()
        found = await self._fetch(message, _BLOB, response, call)
        if found is not None:
            response.blob_digest.CopyFrom(wire_digest(found))
        return response.SerializeToString()

    async def fetch_directory(self, request: bytes, call: Call) -> bytes:
        """Answers the root of the directory pushed for one of the URIs, or a status."""
        message = asset.FetchDirectoryRequest.FromString(request)
        response = asset.FetchDirectoryResponse()
        found = await self._fetch(message, _DIRECTORY, response, call)
        if found is not None:
            response.root_directory_digest.CopyFrom(wire_digest(found))
        return response.SerializeToString()

    async def push_blob(self, request: bytes, call: Call) -> bytes:
        """Associates a stored blob with URIs, replacing what they had."""
        message = asset.PushBlobRequest.FromString(request)
        await self._push(message, _BLOB, message.blob_digest, call)
        return asset.PushBlobResponse().SerializeToString()

    async def push_directory(self, request: bytes, call: Call) -> bytes:
        """Associates a wholly stored directory with URIs, replacing what they had."""
        message = asset.PushDirectoryRequest.FromString(request)
        await self._push(message, _DIRECTORY, message.root_directory_digest, call)
        return asset.PushDirectoryResponse().SerializeToString()

    async def _fetch(
        self, message: FetchRequest, kind: str, response: Response, call: Call
    ) -> Digest | None:
        instance = self._instances.get(message.instance_name)
        instance.digests.notation(message.digest_function)
        _check_uris(message.uris)
        qualifiers = _qualifiers(message.qualifiers)
        response.uri = message.uris[0]
        oldest = _seconds(message, "oldest_content_accepted")
        believed = self._believes_pushes(instance, kind, qualifiers)
        for uri in message.uris if believed else ():
            record = await self._record(instance, kind, uri, qualifiers)
            if record is None or (oldest is not None and record.pushed_at < oldest):
                continue
            kept = await self._kept(record)
            if await self._is_lost(record, kind, kept):
                continue
            response.uri = uri
            if kind == _BLOB and not await self._matches(record.digest, qualifiers):
                response.status.code = Code.ABORTED
                response.status.message = f"the content of {uri} does not match {CHECKSUM}"
                return None
            self._invocations.hold(call, kept)
            _describe(response, record)
            return record.digest
        _refuse_unknown(qualifiers)
        if self._origin is not None:
            return await self._fetch_from(self._origin, message, kind, response, call)
        response.status.code = Code.NOT_FOUND
        response.status.message = (
            f"no {kind} was pushed for {message.uris[0]} with these qualifiers, and this server"
            " does not fetch from origins"
        )
        if not believed and self._gate is not None:
            why = (
                f"Under its trust policy it answers a push only for a blob whose {CHECKSUM} is"
                " asked for: nobody attests what clients push"
            )
            response.status.message += f". {why}"
            self._gate.explain(why)
        return None

    def _believes_pushes(
        self, instance: Instance, kind: str, qualifiers: Sequence[tuple[str, str]]
    ) -> bool:
        """Whether what was pushed may be answered: where no policy asks for attestations, and where
        the content is proven by the checksum that the client names.
        """
        if self._gate is None or self._gate.is_open(instance.name):
            return True
        return kind == _BLOB and CHECKSUM in dict(qualifiers)

    async def _fetch_from(
        self,
        origin: AssetOrigin,
        message: FetchRequest,
        kind: str,
        response: Response,
        call: Call,
    ) -> Digest | None:
        instance = self._instances.get(message.instance_name)
        qualifiers = _qualifiers(message.qualifiers)
        wanted = self._wanted(instance, message, qualifiers, call)
        try:
            fetched = await (origin.blob if kind == _BLOB else origin.directory)(wanted)
            if kind == _BLOB and not await self._matches(fetched.digest, qualifiers):
                raise Aborted(f"the content of {fetched.uri} does not match {CHECKSUM}")
        except InvalidRequest:
            raise
        except TimeoutError:
            response.status.code = Code.DEADLINE_EXCEEDED
            response.status.message = f"{message.uris[0]} was not fetched in time"
            return None
        except (ArmitageError, CasError) as error:
            response.status.code = code_of(error)
            response.status.message = str(error)
            return None
        directories = (fetched.digest,) if kind == _DIRECTORY else ()
        record = _Record(
            fetched.digest, self._clock.wall(), None, _shown(qualifiers), directories=directories
        )
        self._invocations.hold(call, await self._kept(record))
        if wanted.commit or CHECKSUM in dict(qualifiers):
            key = _key(kind, fetched.uri, qualifiers)
            await self._cache.put(_records_of(instance), key, _encode(record))
        response.uri = fetched.uri
        _describe(response, record)
        return fetched.digest

    def _wanted(
        self,
        instance: Instance,
        message: FetchRequest,
        qualifiers: tuple[tuple[str, str], ...],
        call: Call,
    ) -> Wanted:
        known, told = dict(qualifiers), request_metadata(call)
        commit, branch, is_git = version_of(qualifiers)
        if is_git and CHECKSUM in known:
            raise InvalidRequest(f"{CHECKSUM} is of one file; vcs.commit says what a commit holds")
        notation = instance.digests.notation(message.digest_function)
        return Wanted(
            uris=tuple(message.uris),
            function=notation.preferred,
            headers=headers_for(message.uris, qualifiers),
            sha256=_sha256_of(known.get(CHECKSUM, "")),
            checksums=_checksums_of(known.get(CHECKSUM, "")),
            directory=known.get("directory", ""),
            commit=commit,
            branch=branch,
            is_git=is_git,
            timeout_s=_duration(message),
            requester=Requester(
                instance=instance.name,
                invocation=told.tool_invocation_id,
                target=told.target_id,
                identity=call.identity or "",
            ),
        )

    async def _push(self, message: PushRequest, kind: str, wire: reapi.Digest, call: Call) -> None:
        instance = self._instances.get(message.instance_name)
        notation = instance.digests.notation(message.digest_function)
        _check_uris(message.uris)
        qualifiers = _qualifiers(message.qualifiers)
        candidates = notation.parse(wire)
        if not instance.action_cache_update_enabled:
            raise PermissionDenied(f"instance {instance.name!r} takes no pushes from clients")
        digest = await stored_candidate(self._store, candidates)
        if digest is None:
            raise InvalidRequest(f"{kind} {candidates[0]} is not stored; upload it before the push")
        record = _Record(
            digest,
            self._clock.wall(),
            _seconds(message, "expire_at"),
            _shown(qualifiers),
            _references(message.references_blobs, notation, digest.function),
            _references(message.references_directories, notation, digest.function)
            + ((digest,) if kind == _DIRECTORY else ()),
        )
        kept = await self._kept(record)
        if await self._is_lost(record, kind, kept):
            raise InvalidRequest(f"directory {digest} is not stored whole; upload all of it first")
        if kind == _BLOB and not await self._matches(digest, qualifiers):
            raise InvalidRequest(f"blob {digest} does not match its {CHECKSUM}")
        self._invocations.hold(call, kept)
        for uri in message.uris:
            key = _key(kind, uri, qualifiers)
            await self._cache.put(_records_of(instance), key, _encode(record))
            await self._holds.replace(f"asset:{instance.name}:{key.hash}", record, kept)

    async def _record(
        self, instance: Instance, kind: str, uri: str, qualifiers: tuple[tuple[str, str], ...]
    ) -> _Record | None:
        data = await self._cache.get(_records_of(instance), _key(kind, uri, qualifiers))
        if data is None:
            return None
        record = _decode(data)
        if record.expires_at is not None and record.expires_at <= self._clock.wall():
            return None
        return record

    async def _kept(self, record: _Record) -> list[Digest]:
        """Answers all that the record keeps, as far as it is stored."""
        kept = dict.fromkeys((record.digest, *record.blobs))
        for root in record.directories:
            async for visit in walk(self._store, root, self._limits):
                kept[visit.digest] = None
                if visit.directory is not None:
                    kept.update(dict.fromkeys(files_of(visit.directory, root.function)))
        return [digest for digest in kept if not digest.is_empty]

    async def _is_lost(self, record: _Record, kind: str, kept: Sequence[Digest]) -> bool:
        """Whether the content itself is not wholly stored. Renews the leases of all it keeps."""
        missing = set(await self._store.find_missing(kept))
        if kind == _BLOB or not missing:
            return record.digest in missing
        only_root = _Record(record.digest, 0.0, None, (), directories=(record.digest,))
        return not missing.isdisjoint(await self._kept(only_root))

    async def _matches(self, digest: Digest, qualifiers: Iterable[tuple[str, str]]) -> bool:
        """Whether the blob has one of the checksums, if any are asked for."""
        value = dict(qualifiers).get(CHECKSUM)
        if value is None:
            return True
        for token in value.split():
            match = _SRI.fullmatch(token)
            if match is not None and _base64(match[2]) == await self._checksum(digest, match[1]):
                return True
        return False

    async def _checksum(self, digest: Digest, algorithm: str) -> bytes | None:
        if digest.function == algorithm:
            return bytes.fromhex(digest.hash)
        known = self._checksums.get((digest, algorithm))
        if known is not None:
            return known
        hasher = hashlib.new(algorithm)
        try:
            async for chunk in self._store.read(digest):
                hasher.update(chunk)
        except BlobNotFound:
            return None
        if len(self._checksums) >= _MAX_REMEMBERED_CHECKSUMS:
            self._checksums.clear()
        self._checksums[digest, algorithm] = hasher.digest()
        return hasher.digest()


class _Holds:
    """What pushes keep until they expire, in memory and on record."""

    _RECORDS = "blobs/asset-holds"

    def __init__(
        self, cache: ActionCache, retention: Retention, clock: Clock, options: AssetOptions
    ) -> None:
        self._cache = cache
        self._retention = retention
        self._clock = clock
        self._options = options
        self._until: dict[str, float] = {}
        self._lock = asyncio.Lock()  # Guards the records, each of which is read and written back.

    async def replace(self, holder: str, record: _Record, kept: Sequence[Digest]) -> None:
        """Makes the holder keep what the record says, if it says until when, else nothing."""
        now = self._clock.wall()
        until = min(record.expires_at or 0.0, now + self._options.max_hold_s)
        async with self._lock:
            key = _hold_key(holder)
            data = await self._cache.get(self._RECORDS, key)
            entries: dict[str, list[object]] = {} if data is None else json.loads(data)
            live = {name: entry for name, entry in entries.items() if _until_of(entry) > now}
            live.pop(holder, None)
            if until > now:
                live[holder] = [until, _encode(record).decode()]
            if live != entries:
                await self._cache.put(self._RECORDS, key, json.dumps(live).encode())
        self.hold(holder, until, kept)

    def hold(self, holder: str, until: float, kept: Sequence[Digest]) -> None:
        """Keeps the blobs, and nothing else for this holder, until the wall time."""
        self._retention.release(holder)
        self._until.pop(holder, None)
        if until > self._clock.wall():
            self._until[holder] = until
            self._retention.hold(holder, kept)

    def expire(self) -> None:
        """Releases what has expired."""
        now = self._clock.wall()
        for holder in [name for name, until in self._until.items() if until <= now]:
            del self._until[holder]
            self._retention.release(holder)

    async def recorded(self) -> list[tuple[str, float, _Record]]:
        """Answers all that is on record and has not expired."""
        now = self._clock.wall()
        found = []
        for number in range(_HOLD_RECORDS):
            data = await self._cache.get(self._RECORDS, _numbered_key(number))
            for holder, entry in ({} if data is None else json.loads(data)).items():
                if _until_of(entry) > now:
                    found.append((holder, _until_of(entry), _decode(entry[1].encode())))
        return found


def _until_of(entry: Sequence[object]) -> float:
    until = entry[0]
    assert isinstance(until, float)
    return until


def _hold_key(holder: str) -> Digest:
    return _numbered_key(hashlib.sha256(holder.encode()).digest()[0] % _HOLD_RECORDS)


def _numbered_key(number: int) -> Digest:
    return DigestFunction.SHA256.digest(f"asset holds {number}".encode())


def _records_of(instance: Instance) -> str:
    """`blobs` is reserved: no instance has a name that starts with it."""
    return f"blobs/assets/{instance.name}"


def _key(kind: str, uri: str, qualifiers: Iterable[tuple[str, str]]) -> Digest:
    """Names an association. A blob's checksum is not part of it: the blob itself is checked."""
    content = sorted(
        (name, value)
        for name, value in qualifiers
        if not name.startswith(_HEADER_QUALIFIERS) and (name != CHECKSUM or kind == _DIRECTORY)
    )
    return DigestFunction.SHA256.digest(json.dumps([kind, uri, content]).encode())


def _check_uris(uris: Sequence[str]) -> None:
    if not uris or not all(uris):
        raise InvalidRequest("uris is empty; name at least one URI")


def _qualifiers(qualifiers: Iterable[asset.Qualifier]) -> tuple[tuple[str, str], ...]:
    pairs = sorted((qualifier.name, qualifier.value) for qualifier in qualifiers)
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"qualifier {twice!r} is given twice")
    for name, value in pairs:
        if name == CHECKSUM and not any(_SRI.fullmatch(token) for token in value.split()):
            raise InvalidRequest(
                f"{CHECKSUM} {value[:200]!r} holds no sha256, sha384 or sha512 checksum"
            )
    return tuple(pairs)


def _shown(qualifiers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those that may be kept and told to others."""
    return tuple(pair for pair in qualifiers if not pair[0].startswith(_HEADER_QUALIFIERS))


def _refuse_unknown(qualifiers: Iterable[tuple[str, str]]) -> None:
    unknown = [
        name
        for name, _ in qualifiers
        if name not in KNOWN_QUALIFIERS and not name.startswith(_HEADER_QUALIFIERS)
    ]
    if unknown:
        raise InvalidRequest(
            f"nothing was pushed with these qualifiers, and not supported are {unknown}",
            [("qualifiers.name", f'"{name}" not supported') for name in unknown],
        )


def _references(
    wires: Iterable[reapi.Digest], notation: Notation, function: DigestFunction
) -> tuple[Digest, ...]:
    """Reads references, unmarked ones as of the content's own function where that fits."""
    chosen = []
    for wire in wires:
        candidates = notation.parse(wire)
        chosen.append(next((c for c in candidates if c.function is function), candidates[0]))
    return tuple(chosen)


def _duration(message: FetchRequest) -> float | None:
    if not message.HasField("timeout"):
        return None
    return max(0.001, message.timeout.seconds + message.timeout.nanos / 1e9)


def _sha256_of(checksums: str) -> str:
    """In hexadecimal, where that is the only checksum that is given: with several, any will do."""
    match = _SRI.fullmatch(checksums.strip())
    data = _base64(match[2]) if match is not None and match[1] == "sha256" else None
    return data.hex() if data is not None and len(data) == 32 else ""


def _checksums_of(checksums: str) -> tuple[tuple[str, bytes], ...]:
    matches = filter(None, map(_SRI.fullmatch, checksums.split()))
    return tuple((match[1], _base64(match[2]) or b"") for match in matches)


def _seconds(message: FetchRequest | PushRequest, field: str) -> float | None:
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return value.seconds + value.nanos / 1e9


def _describe(response: Response, record: _Record) -> None:
    response.status.SetInParent()
    response.digest_function = WIRE_FUNCTIONS[record.digest.function]
    for name, value in record.qualifiers:
        response.qualifiers.add(name=name, value=value)
    if record.expires_at is not None:
        seconds = int(record.expires_at)
        nanos = int((record.expires_at - seconds) * 1e9)
        response.expires_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _encode(record: _Record) -> bytes:
    return json.dumps(
        {
            "digest": str(record.digest),
            "pushed_at": record.pushed_at,
            "expires_at": record.expires_at,
            "qualifiers": record.qualifiers,
            "blobs": [str(digest) for digest in record.blobs],
            "directories": [str(digest) for digest in record.directories],
        }
    ).encode()


def _decode(data: bytes) -> _Record:
    fields = json.loads(data)
    return _Record(
        _digest(fields["digest"]),
        fields["pushed_at"],
        fields["expires_at"],
        tuple((name, value) for name, value in fields["qualifiers"]),
        tuple(_digest(text) for text in fields["blobs"]),
        tuple(_digest(text) for text in fields["directories"]),
    )


def _digest(text: str) -> Digest:
    function, _, rest = text.partition(":")
    hash_, _, size = rest.partition("/")
    return Digest(DigestFunction(function), hash_, int(size))
