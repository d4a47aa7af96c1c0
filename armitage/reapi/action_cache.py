"""ActionCache: results of actions, answered only when complete (REAPI `ActionCache`)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.notary import Notary
from armitage.errors import InvalidRequest, NotFound, PermissionDenied, PreconditionFailed
from armitage.reapi import rpcs
from armitage.reapi.at_once import AtOnce
from armitage.reapi.completeness import Completeness, Verdict
from armitage.reapi.digests import Candidates, Notation, stored_candidate
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.limits import Limits
from armitage.reapi.trusting import TrustGate
from armitage.transport.port import Call, Method, Unary
from cas.action_cache import ActionCache
from cas.digest import Digest
from cas.errors import BlobNotFound
from cas.keys import key_of
from cas.store import BlobStore

UNNAMED_WORKER = "client"
"""The `worker` of results that a client wrote without one: a result is never zero bytes, and
clients expect `execution_metadata`.
"""


class ActionCacheService:
    """Gets and updates results.

    A result with an exit code other than 0 is taken from clients, answered, and not remembered:
    clients believe what the cache says, and a stored failure would stick (REAPI leaves it open).
    `require_action` refuses results of actions whose Action or Command blob is not stored.
    """

    def __init__(
        self,
        cache: ActionCache,
        store: BlobStore,
        instances: Instances,
        invocations: Invocations,
        completeness: Completeness,
        *,
        limits: Limits | None = None,
        require_action: bool = True,
        at_once: AtOnce | None = None,
        notary: Notary | None = None,
        gate: TrustGate | None = None,
    ) -> None:
        self._cache = cache
        self._store = store
        self._instances = instances
        self._invocations = invocations
        self._completeness = completeness
        self._limits = limits or Limits()
        self._require_action = require_action
        self._at_once = at_once
        self._notary = notary
        self._gate = gate

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(
                rpcs.GET_ACTION_RESULT.path,
                self.get_action_result,
                self._at_once.get_action_result if self._at_once else None,
            ),
            Unary(rpcs.UPDATE_ACTION_RESULT.path, self.update_action_result),
        ]

    async def get_action_result(self, request: bytes, call: Call) -> bytes:
        """Answers a complete result, with stdout, stderr and files inlined as asked and as fits.

        What it refers to is held for the caller and its leases are renewed. Raises NotFound for a
        miss, for a result that has lost a blob, and for one that the trust policy does not let
        through, with the reason.
        """
        message = reapi.GetActionResultRequest.FromString(request)
        instance = self._instances.get(message.instance_name)
        notation = instance.digests.notation(message.digest_function)
        refused = ""
        for action in notation.parse(message.action_digest):
            if self._notary is not None:
                await self._notary.settle((instance.action_cache_key, key_of(action)))
            result = await self._cache.get(instance.action_cache_key, action)
            if result is None:
                continue
            verdict = await self._verdict(result, action)
            if verdict is None or not verdict.is_complete:
                continue
            why = await self._refusal(instance, action, result)
            if why is not None:
                refused = why
                continue
            self._invocations.hold(call, verdict.closure)
            if not _wants_inlining(message):
                return result
            wanted = frozenset(message.inline_output_files)
            return await inline_contents(
                self._store,
                result,
                action,
                self._limits,
                stdout=message.inline_stdout,
                stderr=message.inline_stderr,
                files=wanted,
            )
        told = f"no result of action {message.action_digest.hash} is cached"
        if refused and self._gate is not None:
            self._gate.explain(refused)
            told += f"; one is there, but {refused}"
        raise NotFound(told)

    async def update_action_result(self, request: bytes, call: Call) -> bytes:
        """Remembers a client's result whose outputs are all stored, and answers it.

        Raises PermissionDenied on a read-only instance, and PreconditionFailed, naming the blobs,
        when an output (or the Action or Command, where required) is not stored.
        """
        message = reapi.UpdateActionResultRequest.FromString(request)
        instance = self._instances.get(message.instance_name)
        notation = instance.digests.notation(message.digest_function)
        candidates = notation.parse(message.action_digest)
        if not instance.action_cache_update_enabled:
            raise PermissionDenied(
                f"instance {instance.name!r} takes no action results from clients"
            )
        if not message.HasField("action_result"):
            raise InvalidRequest("action_result is missing")
        if not message.action_result.execution_metadata.worker:
            message.action_result.execution_metadata.worker = UNNAMED_WORKER
        result = message.action_result.SerializeToString()
        action = await self._action(candidates, notation, result)
        await self._check_outputs(action, notation, result, call)
        if message.action_result.exit_code == 0 and await self._may_replace(
            instance, action, result
        ):
            await self._cache.put(instance.action_cache_key, action, result)
        return result

    async def _refusal(self, instance: Instance, action: Digest, result: bytes) -> str | None:
        if self._gate is None:
            return None
        return await self._gate.refusal(instance.name, action, result)

    async def _may_replace(self, instance: Instance, action: Digest, result: bytes) -> bool:
        """Whether what a client brings may take the place of what is cached. Nothing displaces one
        that is trusted and whole: whoever may write could else empty the cache, or set an action
        that does not always come to the same back to what it came to once.
        """
        if self._gate is None or self._gate.is_open(instance.name):
            return True
        cached = await self._cache.get(instance.action_cache_key, action)
        if cached is None or await self._refusal(instance, action, cached) is not None:
            return True
        if await self._refusal(instance, action, result) is not None:
            return False
        verdict = await self._verdict(cached, action)
        return verdict is None or not verdict.is_complete

    async def _verdict(self, result: bytes, action: Digest) -> Verdict | None:
        try:
            return await self._completeness.check(result, action.function)
        except InvalidRequest:  # Not the asker's fault: what is stored is of no use, so a miss.
            return None

    async def _action(self, candidates: Candidates, notation: Notation, result: bytes) -> Digest:
        """Answers which digest is meant, by where the Action is stored, else by where the outputs
        are.
        """
        action = await stored_candidate(self._store, candidates)
        if action is not None:
            if self._require_action:
                await self._check_command(action, notation)
            return action
        if self._require_action:
            raise PreconditionFailed(
                f"action {candidates[0]} is not stored; upload it and its command first",
                [notation.subject(candidates[0])],
            )
        for candidate in candidates[:-1]:
            if (await self._completeness.check(result, candidate.function)).is_complete:
                return candidate
        return candidates[-1]

    async def _check_command(self, digest: Digest, notation: Notation) -> None:
        if digest.size_bytes > self._limits.max_response_bytes:
            raise InvalidRequest(f"blob {digest} is too large for an Action")
        try:
            action = reapi.Action.FromString(await self._store.get(digest))
        except BlobNotFound as error:
            raise PreconditionFailed(str(error), [notation.subject(digest)]) from error
        except DecodeError as error:
            raise InvalidRequest(f"blob {digest} is not an Action: {error}") from error
        command = Digest(
            digest.function, action.command_digest.hash, action.command_digest.size_bytes
        )
        if await self._store.find_missing([command]):
            raise PreconditionFailed(
                f"command {command} of action {digest} is not stored; upload it first",
                [notation.subject(command)],
            )

    async def _check_outputs(
        self, action: Digest, notation: Notation, result: bytes, call: Call
    ) -> None:
        verdict = await self._completeness.check(result, action.function)
        if not verdict.is_complete:
            raise PreconditionFailed(
                f"{len(verdict.missing)} outputs of action {action} are not stored, among them"
                f" {verdict.missing[0]}; upload them first",
                [notation.subject(digest) for digest in verdict.missing],
            )
        self._invocations.hold(call, (action, *verdict.closure))


def _wants_inlining(message: reapi.GetActionResultRequest) -> bool:
    return bool(message.inline_stdout or message.inline_stderr or message.inline_output_files)


async def inline_contents(
    store: BlobStore,
    result: bytes,
    action: Digest,
    limits: Limits,
    *,
    stdout: bool,
    stderr: bool,
    files: frozenset[str],
) -> bytes:
    """Answers the result with stdout, stderr and the named output files filled in, each as long as
    the whole stays under the limit of a message. Digests stay.

    A blob that has gone since is left out: inlining is a courtesy.
    """
    message = reapi.ActionResult.FromString(result)
    room = limits.max_response_bytes - len(result)

    async def take(wire: reapi.Digest) -> bytes:
        nonlocal room
        if not 0 < wire.size_bytes <= room:
            return b""
        try:
            data = await store.get(Digest(action.function, wire.hash, wire.size_bytes))
        except BlobNotFound:
            return b""
        room -= len(data) + 8
        return data

    if stdout and not message.stdout_raw:
        message.stdout_raw = await take(message.stdout_digest)
    if stderr and not message.stderr_raw:
        message.stderr_raw = await take(message.stderr_digest)
    for file in message.output_files:
        if file.path in files and not file.contents:
            file.contents = await take(file.digest)
    return message.SerializeToString()
