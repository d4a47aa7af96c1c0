"""What an action really used of the world: plain values; the checker's evidence is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from cas.digest import Digest
from executor.coeffects import SandboxKind


@dataclass(frozen=True, slots=True)
class Reached:
    """A host that was reached through the witness, as it was asked for, and the port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A path outside the input tree and the toolchain that the action could open."""

    path: str
    written: bool


@dataclass(frozen=True, slots=True)
class Leased:
    """A device that the action held."""

    uuid: str
    name: str
    memory_mib: int
    sm: int
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one action used. Complete: what is not in here, the sandbox made impossible."""

    sandbox: SandboxKind | None
    """None when it ran in no sandbox, which no declaration covers."""
    profile: Digest | None = None
    """Of the document that says what was applied, in the store."""
    network_session: str = ""
    """The witness's session; empty where there was no network."""
    reached: tuple[Reached, ...] = ()
    """What was asked for and refused is not in here: it was not used."""
    credentials: tuple[str, ...] = ()
    """Names only."""
    opened: tuple[Opened, ...] = ()
    gpus: tuple[Leased, ...] = ()
    dropped: int = 0
    """How much was used without a record; anything but 0 is never approved."""
