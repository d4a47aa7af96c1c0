"""Whether a cached result may be served: what the trust policy asks of it (docs/trust.md).

A result that is refused is a miss, and nothing worse: whoever asked executes. Results of executions
themselves, also those that equal requests share, are never asked about: trust is for what is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.holdings import Attested
from armitage.attest.verified import Verified
from armitage.clock import Clock
from armitage.errors import ArmitageError
from armitage.reapi.attested import outputs_of_result, printed_of_result
from armitage.transport.port import say_trailer
from armitage.trust.evaluate import Asked, Decision
from armitage.trust.options import Trust
from cas.digest import Digest
from cas.errors import CasError
from cas.store import BlobStore

REFUSAL: Final = "armitage-refusal"
"""Of trailing metadata."""
_MAX_MESSAGE_BYTES: Final = 16 << 20
_MAX_PLATFORMS: Final = 16_384
_HASHED_IN_THREAD: Final = 1000


@dataclass(frozen=True, slots=True)
class TrustStats:
    """How often was asked, since the start."""

    believed: int
    refused: int


class TrustGate:
    """Decides. For one event loop."""

    def __init__(
        self, trust: Trust, sources: Sequence[Attested], store: BlobStore, clock: Clock
    ) -> None:
        self._trust = trust
        self._sources = sources
        self._store = store
        self._clock = clock
        self._open: dict[str, bool] = {}
        self._platforms: OrderedDict[Digest, Mapping[str, str]] = OrderedDict()
        self._believed = self._refused = 0

    def is_open(self, instance: str) -> bool:
        """Whether every result of the instance may be served: then nobody need ask."""
        known = self._open.get(instance)
        if known is None:
            known = self._open[instance] = self._trust.is_open(instance)
        return known

    def stats(self) -> TrustStats:
        """Counts."""
        return TrustStats(self._believed, self._refused)

    async def refusal(self, instance: str, action: Digest, result: bytes) -> str | None:
        """Answers why a result may not be served, in words; None when it may. Never raises for what
        lacks or is at odds: that is a refusal.
        """
        if self.is_open(instance):
            return None
        try:
            decision = await self.decide(instance, action, result)
        except (ArmitageError, CasError, DecodeError, OSError) as error:
            self._refused += 1
            return f"it cannot be believed: {error}"
        if decision.holds:
            self._believed += 1
            return None
        self._refused += 1
        return f"the policy `{decision.policy}` does not hold: {'; '.join(decision.reasons)}"

    def explain(self, why: str) -> None:
        """Says why a result is not served in the answer of the call that this runs in, if the
        configuration wants that.
        """
        if self._trust.explains_refusals:
            say_trailer(REFUSAL, why)

    async def decide(self, instance: str, action: Digest, result: bytes) -> Decision:
        """Decides, and tells all reasons. Raises NotPlain, BlobNotFound, DecodeError,
        Unavailable.
        """
        wire = reapi.ActionResult.FromString(result)
        outputs = await outputs_of_result(wire, action.function, self._store)
        stdout, stderr = printed_of_result(wire, action.function)
        if len(outputs.files) > _HASHED_IN_THREAD:
            hashed = await asyncio.to_thread(outputs.sha256)
        else:
            hashed = outputs.sha256()
        asked = Asked(instance, action, hashed, stdout, stderr)
        found: list[Verified] = []
        for source in self._sources:
            found += await source.of(action)
        return self._trust.decide(asked, await self._platform(action), found, self._clock.wall())

    async def _platform(self, action: Digest) -> Mapping[str, str] | None:
        """Answers the platform that counted for the action; None where that cannot be known."""
        known = self._platforms.get(action)
        if known is not None:
            return known
        if action.size_bytes > _MAX_MESSAGE_BYTES:
            return None
        try:
            platform = await self._read_platform(action)
        except (CasError, DecodeError):
            return None
        pairs = [(each.name, each.value) for each in platform.properties]
        if len({name for name, _ in pairs}) < len(pairs):
            return None  # A name that is there twice could be read either way.
        self._platforms[action] = dict(pairs)
        if len(self._platforms) > _MAX_PLATFORMS:
            self._platforms.popitem(last=False)
        return self._platforms[action]

    async def _read_platform(self, digest: Digest) -> reapi.Platform:
        action = reapi.Action.FromString(await self._store.get(digest))
        if action.HasField("platform"):
            return action.platform
        wire = action.command_digest
        command = Digest(digest.function, wire.hash, min(wire.size_bytes, _MAX_MESSAGE_BYTES))
        return reapi.Command.FromString(await self._store.get(command)).platform
