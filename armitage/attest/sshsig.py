"""SSH signatures (OpenSSH PROTOCOL.sshsig) by a key of its own, as git puts them into commits.

The key file is in OpenSSH's form, so that `ssh-keygen` and `git` read it too.
"""

from __future__ import annotations

import base64
import secrets
from hashlib import sha512
from pathlib import Path
from struct import pack
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from nacl.signing import SigningKey

from armitage.errors import ConfigError
from armitage.private_file import read_private, write_private

_MAGIC: Final = b"SSHSIG"
_NAMESPACE: Final = b"git"
_HASH: Final = b"sha512"
_KIND: Final = b"ssh-ed25519"
_WIDTH: Final = 70


class SshSigner:
    """An ed25519 key for commits. Its seed appears in no `repr`."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._wire = _string(_KIND) + _string(bytes(self._key.verify_key))

    @property
    def public(self) -> str:
        """As it stands in authorized_keys and allowed_signers."""
        return f"{_KIND.decode()} {base64.b64encode(self._wire).decode()}"

    def sign(self, message: bytes) -> str:
        """Answers the armoured signature of a message in git's namespace."""
        hashed = _string(sha512(message).digest())
        head = _string(_NAMESPACE) + _string(b"") + _string(_HASH)
        made = self._key.sign(_MAGIC + head + hashed).signature
        blob = _MAGIC + pack(">I", 1) + _string(self._wire) + head
        blob += _string(_string(_KIND) + _string(made))
        text = base64.b64encode(blob).decode()
        lines = [text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH)]
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----"])


def open_ssh_key(path: Path) -> SshSigner:
    """Opens a key file, making it where there is none. Blocks. Raises ConfigError, OSError."""
    if not path.exists():
        key = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return read_ssh_key(path)


def read_ssh_key(path: Path) -> SshSigner:
    """Raises ConfigError when there is no such file, when others than its owner can read it, and
    when it holds no ed25519 key without a passphrase. What it holds is in no message.
    """
    content = read_private(path)
    try:
        key = load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path}: holds no ed25519 key in OpenSSH's form without a passphrase; ssh-keygen -t"
            " ed25519 makes one"
        )
    return SshSigner(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


def _string(data: bytes) -> bytes:
    return pack(">I", len(data)) + data
