"""Asks witnesses to cosign a log's checkpoints (C2SP tlog-witness), and keeps what they cosigned.

A witness remembers the last checkpoint that it cosigned, in a place that this log's owner cannot
set back. So a witness that has seen more entries than there are here tells that this log was
restored from an old copy, or forked: it is asked no more, and that is said until somebody looks
into it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from armitage.log.checkpoint import SignedCheckpoint, open_checkpoint
from armitage.log.cosigning import cosign_request, with_cosignatures
from armitage.log.errors import LogError, NotLogged
from armitage.log.merkle import consistency_proof
from armitage.log.note import KeyType, PublicKey, parse_public_key
from armitage.log.store import LogStore
from armitage.log.tiles import subtrees_of
from armitage.private_file import replace_file

_log = logging.getLogger(__name__)

COSIGNED = "cosigned"
"""A file beside a log: the last checkpoint that its witnesses cosigned."""
_OK, _CONFLICT = 200, 409


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """One witness that cosigns this log."""

    url: str
    """Its prefix; add-checkpoint comes below it."""
    key: str
    """Its public key (a vkey)."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url: {self.url!r} is not an https:// or http:// address")
        try:
            kind = parse_public_key(self.key).type
        except LogError as error:
            raise ValueError(f"key: {error}") from None
        if kind is not KeyType.COSIGNATURE:
            raise ValueError("key: is a log's; name the witness's own (armitage key new --witness)")


class Reply(NamedTuple):
    """What a witness answered."""

    status: int
    body: bytes


Send = Callable[[str, bytes], Awaitable[Reply]]
"""Posts a body to a URL. Raises OSError when nobody answers."""


@dataclass(slots=True)
class Standing:
    """How a witness stands to this log."""

    name: str
    url: str
    size: int = 0
    """Entries of the last checkpoint that it cosigned."""
    at_s: int = 0
    """When, by the witness's word (seconds since 1970)."""
    problem: str = ""
    has_seen_more: bool = False
    """It cosigned a longer log of this name: it is asked no more."""


class Witnessed:
    """One log and its witnesses. `ask` is for one task at a time."""

    def __init__(
        self,
        store: LogStore,
        options: Sequence[WitnessOptions],
        quorum: int,
        path: Path,
        send: Send,
    ) -> None:
        """`path` keeps the last checkpoint that `quorum` of them, and at least one, cosigned.
        Blocks. Raises LogError when what is there is not of this log, and OSError.
        """
        self._store = store
        self._quorum = quorum
        self._path = path
        self._send = send
        self._keys = tuple(parse_public_key(each.key) for each in options)
        self.standing = [
            Standing(key.name, each.url.rstrip("/"))
            for key, each in zip(self._keys, options, strict=True)
        ]
        self._lines: dict[int, list[bytes]] = {}
        """Cosignatures of the newest checkpoint that was asked about, by its size."""
        self._cosigned = self._load()

    def _load(self) -> SignedCheckpoint | None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        found = open_checkpoint(data, self._store.key, self._keys)
        if found.checkpoint.size > self._store.checkpoint.size:
            raise LogError(
                f"{self._path}: witnesses cosigned {found.checkpoint.size} entries, and the log has"
                f" {self._store.checkpoint.size}: it was set back; restore it from a newer copy"
            )
        for each in self.standing:
            if each.name in found.cosigned:
                each.size, each.at_s = found.checkpoint.size, found.cosigned[each.name]
        return found

    def checkpoint(self) -> bytes:
        """The one to publish: the newest, with its cosignatures if there are any; with a quorum,
        the newest that so many cosigned. Raises NotLogged when there is none.
        """
        cosigned = self._cosigned
        if self._quorum:
            if cosigned is not None and len(cosigned.cosigned) >= self._quorum:
                return cosigned.note.encode()
            raise NotLogged(f"no checkpoint was cosigned by {self._quorum} witnesses yet")
        if cosigned is not None and cosigned.checkpoint == self._store.checkpoint:
            return cosigned.note.encode()
        return self._store.signed_checkpoint

    async def ask(self) -> None:
        """Asks everybody who has not cosigned the newest checkpoint. Does not raise for what others
        do; raises OSError when what they cosigned cannot be kept.
        """
        signed = self._store.signed_checkpoint
        newest = open_checkpoint(signed, self._store.key)
        size = newest.checkpoint.size
        waiting = [
            (each, key)
            for each, key in zip(self.standing, self._keys, strict=True)
            if each.size < size and not each.has_seen_more
        ]
        if not size or not waiting:
            return
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(each, key, signed, size)) for each, key in waiting]
        made = [cosigned for task in asked if (cosigned := task.result()) is not None]
        if not made:
            return
        self._lines = {size: [*self._lines.get(size, []), *made]}
        lines = b"".join(self._lines[size])
        whole = open_checkpoint(signed + lines, self._store.key, self._keys)
        if len(whole.cosigned) >= max(1, self._quorum):
            await asyncio.to_thread(replace_file, self._path, whole.note.encode())
            self._cosigned = whole

    async def _ask(self, each: Standing, key: PublicKey, signed: bytes, size: int) -> bytes | None:
        """Answers the signature line of one witness."""
        try:
            reply = await self._post(each, signed, each.size, size)
            if reply.status == _CONFLICT:
                each.size = self._size_in(reply)
                if each.size > size:
                    self._condemn(each, size)
                    return None
                reply = await self._post(each, signed, each.size, size)
            if reply.status != _OK:
                text = reply.body.decode("utf-8", "replace").strip()[:200]
                raise LogError(f"it refused with {reply.status}: {text}")
            found = with_cosignatures(signed, reply.body, self._store.key, key)
        except (OSError, LogError, TimeoutError) as error:
            if each.problem != str(error):
                _log.warning("witness %s did not cosign: %s", each.name, error)
            each.problem = str(error) or type(error).__name__
            return None
        each.size, each.at_s, each.problem = size, found.cosigned[key.name], ""
        [line] = [
            one.line()
            for one in found.note.signatures
            if (one.name, one.key_id) == (key.name, key.key_id)
        ]
        return line.encode()

    async def _post(self, each: Standing, signed: bytes, old: int, size: int) -> Reply:
        subtrees = subtrees_of(size, self._store.read)
        proof = await asyncio.to_thread(consistency_proof, old, size, subtrees)
        return await self._send(f"{each.url}/add-checkpoint", cosign_request(old, proof, signed))

    @staticmethod
    def _size_in(reply: Reply) -> int:
        text = reply.body.decode("utf-8", "replace").strip()
        if not text.isdecimal() or len(text) > 18:
            raise LogError(f"it answered a conflict and no size, {text[:50]!r}")
        return int(text)

    def _condemn(self, each: Standing, size: int) -> None:
        each.has_seen_more = True
        each.problem = (
            f"it has cosigned {each.size} entries of this log, which has {size}: the log was set"
            " back or forked. Find out which before anybody relies on it"
        )
        _log.error("witness %s: %s", each.name, each.problem)
