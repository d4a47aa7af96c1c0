"""TLS files: where they are, whether they fit together, whether they changed since; and who a
client proves to be.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from armitage.errors import ConfigError

_log = logging.getLogger(__name__)

_ATTRIBUTES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "givenName": "GN",
    "userId": "UID",
}
"""OpenSSL's short names of what subjects are made of, by the long names that Python gives."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_authority`, clients must show a certificate that it signed (mTLS)."""

    certificate: Path
    """The server's certificate, followed by its intermediates."""
    key: Path
    client_authority: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        """The files that exist in this configuration."""
        if self.client_authority is None:
            return (self.certificate, self.key)
        return (self.certificate, self.key, self.client_authority)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files held: PEM bytes that fit together, and the files' state when read."""

    certificate: bytes
    key: bytes
    client_authority: bytes | None
    context: ssl.SSLContext
    """A server's: TLS 1.2 or later, HTTP/2 by ALPN, without renegotiation; it takes only clients
    that the authority signed, where there is one.
    """
    state: tuple[tuple[int, int, int], ...]


def files_state(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """Changes whenever a file is replaced or rewritten. Raises OSError."""
    stats = [path.stat() for path in files.paths()]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)


def load_tls(files: TlsFiles) -> TlsMaterial:
    """Reads and checks the files. Raises ConfigError naming the file at fault."""
    try:
        state = files_state(files)
        certificate = files.certificate.read_bytes()
        key = files.key.read_bytes()
        authority = files.client_authority.read_bytes() if files.client_authority else None
    except OSError as error:
        raise ConfigError(
            f"TLS file {error.filename}: {error.strerror}; name a readable PEM file"
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"TLS certificate {files.certificate} and key {files.key}: {_reason(error)}; "
            "they must be PEM, unencrypted, and belong together"
        ) from error
    if files.client_authority:
        try:
            context.load_verify_locations(files.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            raise ConfigError(
                f"TLS client authority {files.client_authority}: {_reason(error)}; "
                "it must hold PEM certificates"
            ) from error
    return TlsMaterial(certificate, key, authority, context, state)


class FollowedTls:
    """TLS files that may be replaced while a server runs: a changed and valid set serves from then
    on; until it is valid, the old one does.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises ConfigError as `load_tls` does."""
        self._files = files
        self._material = load_tls(files)

    def changed(self) -> TlsMaterial | None:
        """The new set, if there is one since this was last asked."""
        try:
            if files_state(self._files) == self._material.state:
                return None
            self._material = load_tls(self._files)
        except (OSError, ConfigError) as error:
            _log.warning("keeping the old TLS certificate: %s", error)
            return None
        _log.info("serving the new TLS certificate of %s", self._files.certificate)
        return self._material

    @property
    def material(self) -> TlsMaterial:
        """The set that serves now."""
        return self._material

    def context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        self.changed()
        return self._material.context


def subject_of(certificate: Mapping[str, object]) -> str | None:
    """Writes the subject of a peer's certificate (as `SSLSocket.getpeercert` has it) as RFC 2253
    does, most specific part first; None for a certificate without one.
    """
    names = certificate.get("subject")
    assert isinstance(names, tuple | None)
    parts = [
        "+".join(f"{_ATTRIBUTES.get(key, key)}={_escape(value)}" for key, value in reversed(name))
        for name in reversed(names or ())
    ]
    return ",".join(parts) or None


def _escape(value: str) -> str:
    escaped = "".join(map(_escape_character, value))
    if value.startswith(("#", " ")):
        escaped = f"\\{escaped}"
    if value.endswith(" ") and len(value) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return escaped


def _escape_character(char: str) -> str:
    if char in ',+"\\<>;':
        return f"\\{char}"
    if " " <= char <= "~":
        return char
    return "".join(f"\\{byte:02X}" for byte in char.encode())


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
