"""An ActionCache in a bucket.

An object is a line that names the format, the SHA-256 of the key and the result together, and the
result; so neither a damaged object nor one that was put under another key is ever answered. The
last one to write wins, as everywhere.
"""

from __future__ import annotations

import logging
from hashlib import sha256

from cas.digest import Digest
from cas.objects import Layout
from cas.s3 import S3Bucket

_log = logging.getLogger(__name__)

_HEAD = b"armitage result 1\n"
_OVERHEAD_BYTES = len(_HEAD) + 32
MAX_RESULT_BYTES = 64 * 1024 * 1024
"""More than gRPC carries in one message; what is larger is nobody's result."""


class S3ActionCache:
    """An ActionCache in a bucket. It evicts nothing; lifecycle rules may.

    Every method also raises StoreUnavailable and StoreDenied (see S3Bucket).
    """

    def __init__(self, bucket: S3Bucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._layout = Layout(prefix)

    async def get(self, instance: str, action: Digest) -> bytes | None:
        """See ActionCache."""
        key = self._layout.result(instance, action)
        stored = await self._bucket.get(key, MAX_RESULT_BYTES)
        if stored is None:
            return None
        result = stored[_OVERHEAD_BYTES:]
        if stored[:_OVERHEAD_BYTES] == _head(key, result):
            return result
        _log.error("the result at %s is damaged", key)
        self._bucket.stats.damaged += 1
        return None

    async def put(self, instance: str, action: Digest, result: bytes) -> None:
        """See ActionCache."""
        key = self._layout.result(instance, action)
        await self._bucket.put(key, _head(key, result) + result)

    async def remove(self, instance: str, action: Digest) -> None:
        """See ActionCache."""
        await self._bucket.delete(self._layout.result(instance, action))


def _head(key: str, result: bytes) -> bytes:
    return _HEAD + sha256(key.encode() + b"\0" + result).digest()
