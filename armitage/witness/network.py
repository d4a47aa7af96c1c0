"""The network that executors hand to actions (executor.ports.Network): one session for each, with
a proxy of its own inside the action's sandbox.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Collection, Mapping, Sequence

from armitage.clock import Clock
from armitage.errors import ConfigError, Unavailable
from armitage.observability.redaction import Redactor
from armitage.witness.archive import Archive
from armitage.witness.authority import SessionAuthority
from armitage.witness.clients import DIRECTORY, environment, files
from armitage.witness.counts import WitnessStats
from armitage.witness.credentials import Credentials
from armitage.witness.enclosure import PORT
from armitage.witness.evidence import Subject
from armitage.witness.exchange import Exchanges
from armitage.witness.modes import NetworkMode, mode_of
from armitage.witness.options import WitnessOptions
from armitage.witness.origins import Origins, Resolve, origin_tls, resolve_by_system
from armitage.witness.policy import Grant
from armitage.witness.proxy import Proxy
from armitage.witness.recall import Recall
from armitage.witness.redaction import Redaction
from armitage.witness.sessions import Sessions
from armitage.witness.stream import accept
from armitage.witness.terms import Means, Terms
from armitage.witness.transparent import Transparent
from executor.coeffects import Coeffects
from executor.errors import InvalidInput, WorkerFailure
from executor.evidence import Reached
from executor.ports import NetworkUse
from executor.spec import Work

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 256
"""At once, of clients that know of the proxy."""
_RESOLVER = b"nameserver 127.0.0.1\noptions timeout:2 attempts:2\n"


def open_means(
    archive: Archive,
    options: WitnessOptions,
    credentials: Credentials,
    clock: Clock,
    resolve: Resolve = resolve_by_system,
    *,
    revoked: Collection[str] = (),
) -> Means:
    """Puts together what all sessions share. `revoked` are public keys (vkeys) of logs in which
    nothing is found. Raises ConfigError.
    """
    limits = options.limits
    authorities = None if options.authorities is None else str(options.authorities)
    try:
        tls = origin_tls(authorities)
    except OSError as error:
        raise ConfigError(
            f"witness.authorities: {authorities} cannot be used: {error.strerror or error}"
        ) from None
    scrub = Redactor(credentials.secrets).text
    return Means(
        origins=Origins(resolve, tls, connect_s=limits.connect_s, idle_s=limits.idle_s),
        store=archive.store,
        clock=clock,
        redaction=Redaction(archive.key, scrub),
        rules=options.rules,
        limits=limits,
        recall=Recall(archive, revoked),
        offline=options.offline,
    )


class WitnessNetwork:
    """Opens sessions whose records go into one archive."""

    def __init__(
        self,
        archive: Archive,
        means: Means,
        credentials: Credentials,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._means = means
        self._credentials = credentials
        self._sessions = Sessions(
            archive.store, archive.log.append, means.clock, new_id, means.counts
        )

    def stats(self) -> WitnessStats:
        """What all sessions came to since the start."""
        return self._means.counts.read()

    async def open(self, work: Work) -> WitnessSession:
        """Begins the session of an action. Raises WorkerFailure, InvalidInput."""
        declared, choice = work.coeffects, mode_of(work.platform)
        unknown = [name for name in declared.auth if name not in self._credentials]
        if unknown:
            raise InvalidInput(
                f"auth:{unknown[0]} is no credential here; the operator adds it under"
                f" witness.credentials.{unknown[0]}"
            )
        if not declared.network:
            raise InvalidInput("the action declares no network; add network to its coeffects")
        grants = [Grant(grant.host or "", grant.port) for grant in declared.network]
        terms = Terms(
            grants=grants,
            inject=self._credentials.inject(declared.auth),
            credentials=frozenset(declared.auth),
            pins=choice.pins if choice.mode is NetworkMode.PINNED else None,
            instance=work.requester.instance,
        )
        return await self.begin(terms, _subject(work), words_of(declared), choice.mode)

    async def begin(
        self,
        terms: Terms,
        subject: Subject,
        declared: str,
        mode: NetworkMode,
        directory: str = DIRECTORY,
    ) -> WitnessSession:
        """Begins any session, whose files are to be shown in a directory. Raises WorkerFailure."""
        exchanges = await self.exchanges(terms, subject, declared, mode)
        authority = SessionAuthority(exchanges.session_id, self._means.clock.wall())
        return WitnessSession(Proxy(exchanges, authority), terms.grants, mode, directory)

    async def exchanges(
        self, terms: Terms, subject: Subject, declared: str, mode: NetworkMode
    ) -> Exchanges:
        """Begins a session without any client but the daemon. Raises WorkerFailure."""
        try:
            session = await self._sessions.open(subject, declared, mode)
        except Unavailable as error:
            raise WorkerFailure(str(error)) from error
        return Exchanges(session, terms, self._means)

    async def proxy(
        self, terms: Terms, subject: Subject, declared: str, authority: SessionAuthority
    ) -> Proxy:
        """Begins a session whose clients trust an authority that others share. Raises
        WorkerFailure.
        """
        exchanges = await self.exchanges(terms, subject, declared, NetworkMode.WITNESSED)
        return Proxy(exchanges, authority)

    async def catch_up(self) -> None:
        """Has the index of what is on record learn of what was logged since; a chore."""
        recall = self._means.recall
        if recall is None:
            return
        try:
            await recall.catch_up()
        except OSError as error:  # Whoever needs the index next is told.
            _log.error("witness: %s", error)

    async def close(self) -> None:
        """Closes the index; no session may be open."""
        if self._means.recall is not None:
            await self._means.recall.close()


class WitnessSession:
    """One action's way to the network."""

    def __init__(
        self,
        proxy: Proxy,
        grants: Sequence[Grant],
        mode: NetworkMode,
        directory: str,
    ) -> None:
        self.id = proxy.exchanges.session_id
        self._directory = directory
        self._proxy = proxy
        self._transparent = Transparent(proxy, grants) if mode is NetworkMode.TRANSPARENT else None
        self._files = files(f"127.0.0.1:{PORT}", proxy.authority.certificate, directory)
        if self._transparent is not None:
            self._files["/etc/resolv.conf"] = _RESOLVER
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._raw: socket.socket | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """How clients are told of the proxy; the same for all actions."""
        return environment(f"127.0.0.1:{PORT}", self._directory)

    @property
    def files(self) -> Mapping[str, bytes]:
        """The session's authority, and what some clients read in place of variables."""
        return self._files

    @property
    def ports(self) -> tuple[int, ...]:
        """The proxy's, and those that are caught."""
        caught = () if self._transparent is None else self._transparent.ports
        return (PORT, *(port for port in caught if port != PORT))

    @property
    def redirect(self) -> bool:
        """Whether every address leads to the sandbox."""
        return self._transparent is not None

    @property
    def resolver(self) -> bool:
        """Whether names are answered inside."""
        return self._transparent is not None

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Answers on the sockets. `close` is for the same task."""
        self._sockets = list(listeners)
        for one in listeners:
            one.setblocking(False)
        await self._group.__aenter__()
        room = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._tasks = [self._group.create_task(accept(listeners[0], self._proxy.serve, room))]
        if self._transparent is not None:
            self._catch(self._transparent, listeners[1:])

    def _catch(self, transparent: Transparent, sockets: Sequence[socket.socket]) -> None:
        count = len(self.ports) - 1
        datagrams, streams, *raw = sockets[count:]
        work = [transparent.accept(listener) for listener in sockets[:count]]
        work += [transparent.answer_datagrams(datagrams), transparent.answer_streams(streams)]
        if raw:
            self._raw = raw[0]
            work.append(transparent.watch(raw[0]))
        self._tasks += [self._group.create_task(one) for one in work]

    async def close(self) -> NetworkUse:
        """Ends everything and answers what it came to. Raises WorkerFailure."""
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await self._group.__aexit__(None, None, None)
        if self._transparent is not None and self._raw is not None:
            await self._transparent.see_the_rest(self._raw)
        for one in self._sockets:
            one.close()
        try:
            await self._proxy.close()
        except Unavailable as error:
            raise WorkerFailure(str(error)) from error
        exchanges = self._proxy.exchanges
        return NetworkUse(
            session=self.id,
            reached=tuple(Reached(host, port) for host, port in exchanges.use.reached),
            credentials=tuple(exchanges.use.credentials),
            dropped=exchanges.dropped,
            refused=tuple(exchanges.use.refused),
        )


def words_of(declared: Coeffects) -> str:
    """What of a declaration concerns the network, as its text has it."""
    network = [
        ":".join(["network", *([grant.host] if grant.host else []), *_port(grant.port)])
        for grant in declared.network
    ]
    return "+".join([*network, *(f"auth:{name}" for name in declared.auth)])


def _port(port: int | None) -> list[str]:
    return [] if port is None else [str(port)]


def _subject(work: Work) -> Subject:
    requester = work.requester
    return Subject(
        instance=requester.instance,
        action="" if work.action is None else str(work.action),
        operation=requester.operation,
        invocation=requester.invocation,
        target=requester.target,
        identity=requester.identity,
    )
