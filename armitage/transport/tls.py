"""TLS files: where they are, whether they fit together, and whether they changed since."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from armitage.errors import ConfigError


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
        except ssl.SSLError as error:
            raise ConfigError(
                f"TLS client authority {files.client_authority}: {_reason(error)}; "
                "it must hold PEM certificates"
            ) from error
    return TlsMaterial(certificate, key, authority, state)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
