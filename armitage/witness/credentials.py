"""Secrets that the witness puts into requests, so that no action ever holds one.

A credential is a name, a secret and the hosts that it is for. An action that declares `auth:NAME`
has the secret added to its requests to these hosts, over TLS alone, in place of whatever it sent
under the same header. Records hold the name.

The secret is read once, from a file, the environment or a command's output; never from the
configuration itself, and never from a command line.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from armitage.errors import ConfigError
from armitage.private_file import is_for_others, read_with_mode
from armitage.witness.heads import RawHeaders, Target
from armitage.witness.policy import host_matches, normal_host
from armitage.witness.terms import Inject

_COMMAND_S = 30.0
_MAX_BYTES = 64 * 1024
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# A credential under one of these would change where a request goes or where its body ends.
_NOT_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "transfer-encoding", "upgrade", "te"),
        *("accept-encoding", "proxy-authorization", "range"),
    }
)


class CredentialForm(StrEnum):
    """How a secret is shown to the origin."""

    BEARER = "bearer"
    """`Authorization: Bearer SECRET`."""
    BASIC = "basic"
    """`Authorization: Basic`, of a secret that is USER:PASSWORD."""
    HEADER = "header"
    """A header of its own, whose value is the secret."""


@dataclass(frozen=True, slots=True)
class CredentialOptions:
    """Where a secret comes from, and for whom. Exactly one of file, environment and command."""

    hosts: tuple[str, ...]
    """Names, or `*.` and a name for every host with exactly one more label."""
    file: Path | None = None
    """Readable by its owner alone."""
    environment: str = ""
    """A variable of the daemon's."""
    command: tuple[str, ...] = ()
    """Run at the start, without a shell; the secret is what it prints."""
    form: CredentialForm = CredentialForm.BEARER
    header: str = ""
    """The name, with form = "header"."""

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("hosts is empty; name those that may have the secret")
        for host in self.hosts:
            if normal_host(host.removeprefix("*.")) is None:
                raise ValueError(f"{host!r} is no host name; write h.example or *.example")
        if bool(self.file) + bool(self.environment) + bool(self.command) != 1:
            raise ValueError("give exactly one of file, environment and command")
        if (self.form is CredentialForm.HEADER) is not bool(self.header):
            raise ValueError('header goes with form = "header", which needs it')
        if self.header and (
            not _HEADER.fullmatch(self.header) or self.header.lower() in _NOT_HEADERS
        ):
            raise ValueError(f"header: {self.header!r} cannot hold a credential")


@dataclass(frozen=True, slots=True)
class Credential:
    """One that was read. Its secret shows in no representation."""

    name: str
    hosts: tuple[str, ...]
    header: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return f"Credential({self.name!r})"

    def is_for(self, target: Target) -> bool:
        """Whether a request there may have it: over TLS, to a host that it is bound to."""
        return target.scheme == "https" and any(
            host_matches(pattern, target.host) for pattern in self.hosts
        )


class Credentials:
    """All of an installation's."""

    def __init__(self, known: Sequence[Credential] = (), secrets: Sequence[str] = ()) -> None:
        self._known = {credential.name: credential for credential in known}
        self.secrets = tuple(secrets)
        """In every form in which they could show; for a Redactor."""

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def inject(self, granted: Collection[str]) -> Inject:
        """Answers what adds those that were granted, and no other."""
        usable = [self._known[name] for name in sorted(granted) if name in self._known]

        def inject(target: Target) -> tuple[RawHeaders, Sequence[str]]:
            fitting: dict[bytes, Credential] = {}
            for credential in usable:
                if credential.is_for(target):
                    fitting.setdefault(credential.header[0], credential)
            chosen = list(fitting.values())
            return [one.header for one in chosen], [one.name for one in chosen]

        return inject


def read_credentials(
    options: Mapping[str, CredentialOptions], environment: Mapping[str, str]
) -> Credentials:
    """Reads all secrets; blocks for as long as commands take. Raises ConfigError, which holds none
    of them.
    """
    known, secrets = [], []
    for name, one in options.items():
        path = f"witness.credentials.{name}"
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"{path}: a name has letters, digits and . _ - only; rename it")
        secret = _read(path, one, environment).strip()
        if not secret or not secret.isascii() or not secret.isprintable():
            raise ConfigError(f"{path}: the secret is empty, or not one line of printable ASCII")
        header, shown = _header(path, one, secret)
        known.append(Credential(name, one.hosts, (header, shown.encode())))
        secrets += [secret, shown, shown.rpartition(" ")[2], *secret.split(":")[1:]]
    return Credentials(known, secrets)


def _header(path: str, options: CredentialOptions, secret: str) -> tuple[bytes, str]:
    match options.form:
        case CredentialForm.BEARER:
            return b"authorization", f"Bearer {secret}"
        case CredentialForm.BASIC:
            if ":" not in secret:
                raise ConfigError(f'{path}: with form = "basic" the secret is USER:PASSWORD')
            return b"authorization", f"Basic {base64.b64encode(secret.encode()).decode()}"
        case CredentialForm.HEADER:
            return options.header.lower().encode(), secret


def _read(path: str, options: CredentialOptions, environment: Mapping[str, str]) -> str:
    if options.file is not None:
        return _read_file(f"{path}.file", options.file)
    if options.environment:
        try:
            return environment[options.environment]
        except KeyError:
            raise ConfigError(
                f"{path}.environment: {options.environment} is not set; set it for the daemon"
            ) from None
    return _read_command(f"{path}.command", options.command, environment)


def _read_file(path: str, file: Path) -> str:
    data, mode = read_with_mode(file, _MAX_BYTES, path)
    if is_for_others(mode):
        raise ConfigError(
            f"{path}: others can read {file} (mode {mode:04o}); chmod 600 it, and change the"
            " secret if anybody may have read it"
        )
    return data.decode("utf-8", "replace")


def _read_command(path: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=_COMMAND_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or f"took longer than {_COMMAND_S:g} s"
        raise ConfigError(f"{path}: {command[0]}: {why}") from None
    if done.returncode:
        raise ConfigError(f"{path}: {command[0]} ended with {done.returncode}; run it by hand")
    return done.stdout[:_MAX_BYTES].decode("utf-8", "replace")
