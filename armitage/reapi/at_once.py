"""What is asked most, answered at once: FindMissingBlobs of what is all there, and GetActionResult
of what is known to be complete.

Theory of operation. These calls need neither a task nor protobuf, as long as they are written the
way clients write them and the answer is "nothing is missing" or the result as it is stored. A
request is cut into what comes before its digests, the digests and what comes after. The digests'
bytes are the store's own keys (cas.keys), so that *finding* them in the store proves that they are
well formed; that nothing else is in the message is proven by each piece beginning where the one
before ended. The rest of the message (instance name, digest function) is one of a few byte strings,
remembered once they have been understood.

Whatever is not proven is answered by None, and then the ordinary handler is asked, which also does
what takes waiting: renewing leases, reading Trees, telling what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Final, NamedTuple

from armitage.errors import InvalidRequest, NotFound
from armitage.reapi.completeness import Completeness
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.trusting import TrustGate
from armitage.transport.port import Call
from cas.action_cache import Recall
from cas.digest import DigestFunction
from cas.keys import key_of, tag_of
from cas.store import Glimpse

_MAX_REQUEST_BYTES = 32 << 10
"""Some 450 digests: larger requests would hold up other clients' small ones."""
_HEX_LENGTH: Final = 64
"""Of the hash, with which a Digest begins (REAPI `Digest.hash`)."""
_SIZE_TAG: Final = 0x10
_MIN_DIGEST_BYTES: Final = _HEX_LENGTH + 4
_MAX_DIGEST_BYTES: Final = _HEX_LENGTH + 12
"""How long one of a blob that is not empty can be: its size takes one byte to nine."""
_FIND_FUNCTION: Final = 0x18
_GET_FUNCTION: Final = 0x30
"""The tags of `digest_function` in FindMissingBlobs and in GetActionResult."""
_MAX_KNOWN = 256


class _Context(NamedTuple):
    """What the parts of a request around its digests say."""

    cache_key: str
    function: DigestFunction
    """Of digests of 64 characters: the first that they may mean."""
    tag: bytes
    """What stands before them in keys."""
    empty: bytes
    """The empty blob's key, which every store has without holding it."""


class AtOnce:
    """Answers for the services of one server. For the event loop only."""

    def __init__(
        self,
        store: Glimpse,
        cache: Recall,
        instances: Instances,
        invocations: Invocations,
        completeness: Completeness,
        *,
        gate: TrustGate | None = None,
        is_under_way: Callable[[Hashable], bool] | None = None,
    ) -> None:
        """`is_under_way` tells of (action cache key, key of the action) whether a newer result is
        about to be kept (armitage.attest.notary.Notary).
        """
        self._store = store
        self._cache = cache
        self._instances = instances
        self._invocations = invocations
        self._completeness = completeness
        self._gate = gate
        self._is_under_way = is_under_way
        self._finding: dict[tuple[bytes, bytes], _Context] = {}
        self._getting: dict[tuple[bytes, bytes], _Context] = {}

    def find_missing_blobs(self, request: bytes, call: Call) -> bytes | None:
        """Answers that nothing is missing; None where that is not certain."""
        end = len(request)
        if not 4 <= end <= _MAX_REQUEST_BYTES:
            return None
        position = 2 + request[1] if request[0] == 0x0A else 0
        before = request[:position]
        after = b""
        if request[-2] == _FIND_FUNCTION:  # In a size, this byte could only be the last one.
            end -= 2
            after = request[end:]
        context = self._finding.get((before, after)) or self._learn(
            self._finding, before, after, _FIND_FUNCTION
        )
        if context is None:
            return None
        keys = _split(request, position, end)
        if keys is None:
            return None
        if context.tag:
            keys = [context.tag + key for key in keys]
        if not self._store.all_fresh(keys):
            if context.empty not in keys:
                return None
            keys = [key for key in keys if key != context.empty]
            if not self._store.all_fresh(keys):
                return None
        self._hold(call, keys)
        return b""

    def get_action_result(self, request: bytes, call: Call) -> bytes | None:
        """Answers a result as it is stored; None where that may not be the answer."""
        if len(request) < _MIN_DIGEST_BYTES:
            return None
        start = 2 + request[1] if request[0] == 0x0A else 0
        size = _digest_at(request, start, len(request))
        if size == 0:
            return None
        end = start + size
        before, after = request[:start], request[end:]
        context = self._getting.get((before, after)) or self._learn(
            self._getting, before, after, _GET_FUNCTION
        )
        if context is None:
            return None
        action = context.tag + request[start + 4 : end]
        if self._is_under_way is not None and self._is_under_way((context.cache_key, action)):
            return None
        result = self._cache.recall(context.cache_key, action)
        if result is None:
            return None
        closure = self._completeness.recall(result, context.function, self._store)
        if closure is None:
            return None
        self._hold(call, closure)
        return result

    def _hold(self, call: Call, keys: Collection[bytes]) -> None:
        holder = self._invocations.holder(call)
        if holder is not None:
            self._store.hold_keys(holder, keys)

    def _learn(
        self,
        known: dict[tuple[bytes, bytes], _Context],
        before: bytes,
        after: bytes,
        function_tag: int,
    ) -> _Context | None:
        """Understands what is around the digests; None unless it is an instance's name before and
        a digest function after them, or nothing.
        """
        name = before[2:]
        if not name.isascii() or (before and len(name) != before[1]) or len(name) > 0x7F:
            return None
        if after and (len(after) != 2 or after[0] != function_tag or after[1] > 0x7F):
            return None
        try:
            instance = self._instances.get(name.decode())
            notation = instance.digests.notation(after[1] if after else 0)
        except (InvalidRequest, NotFound):
            return None
        functions = notation.functions_of(_HEX_LENGTH)
        if not functions or (known is self._getting and not self._is_open(instance)):
            return None
        function = functions[0]
        context = _Context(
            instance.action_cache_key, function, tag_of(function), key_of(function.empty)
        )
        if len(known) < _MAX_KNOWN:
            known[before, after] = context
        return context

    def _is_open(self, instance: Instance) -> bool:
        """Whether results need no attestation; where they do, that takes waiting."""
        return self._gate is None or self._gate.is_open(instance.name)


def _split(request: bytes, position: int, end: int) -> list[bytes] | None:
    """Cuts digests in field 2 out of a message; None if there is anything else in between."""
    keys = []
    while position < end:
        size = _digest_at(request, position, end)
        if size == 0:
            return None
        keys.append(request[position + 4 : position + size])
        position += size
    return keys


def _digest_at(request: bytes, position: int, end: int) -> int:
    """How long a digest in field 2 that begins there is, with its tag and length; 0 if there is
    none, or it does not end where it should. Its hash and size are for the store to prove.
    """
    if end - position < 2 + _MIN_DIGEST_BYTES or request[position] != 0x12:
        return 0
    length = request[position + 1]
    if not _MIN_DIGEST_BYTES <= length <= _MAX_DIGEST_BYTES or position + 2 + length > end:
        return 0
    if request[position + 2] != 0x0A or request[position + 3] != _HEX_LENGTH:
        return 0
    # A key of BLAKE3 has its tag in front, and would fit with 63 of the hash's bytes.
    if request[position + 4 + _HEX_LENGTH] != _SIZE_TAG:
        return 0
    return 2 + length
