"""Private keys in files: one line in the form of Go's note package, readable by their owner alone.

PRIVATE+KEY+NAME+hex(key id)+base64(type || seed)
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from armitage.errors import ConfigError
from armitage.log.errors import MalformedNote
from armitage.log.note import KeyType, Signer
from armitage.private_file import read_private, write_private

SEED_BYTES = 32
_HEAD = "PRIVATE+KEY+"


def write_key(path: Path, name: str, kind: KeyType, seed: bytes) -> Signer:
    """Makes the file, which must not be there yet, with mode 0600, durably.

    Raises MalformedNote for a name that no key can have, and OSError.
    """
    signer = Signer(name, kind, seed)
    encoded = base64.b64encode(bytes([kind]) + seed).decode()
    line = f"{_HEAD}{name}+{signer.public.key_id.hex()}+{encoded}\n"
    write_private(path, line.encode())
    return signer


def read_key(path: Path) -> Signer:
    """Raises ConfigError when there is no such file, when others than its owner can read it, and
    when it holds no key. What it holds is in no message.
    """
    line = read_private(path).decode("utf-8", "replace")
    signer = _parse(line.strip())
    if signer is None:
        raise ConfigError(f"{path}: holds no private key; armitage key new makes one")
    return signer


def _parse(line: str) -> Signer | None:
    name, _, rest = line.removeprefix(_HEAD).partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        data = base64.b64decode(encoded, validate=True)
        signer = Signer(name, KeyType(data[0]), data[1:])
    except (binascii.Error, IndexError, ValueError, MalformedNote):
        return None
    if not line.startswith(_HEAD) or signer.public.key_id.hex() != key_id:
        return None
    return signer
