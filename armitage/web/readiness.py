"""What must hold before a load balancer may send work."""

from __future__ import annotations

from cas.digest import DigestFunction
from cas.errors import CasError
from cas.store import BlobStore

_PROBE = b"armitage readiness probe\n"


async def store_refuses_writes(store: BlobStore) -> str | None:
    """Tries to write, without storing anything. Answers why it cannot, None if it can."""
    try:
        writer = await store.open_writer([DigestFunction.SHA256.digest(_PROBE)])
        try:
            await writer.write(_PROBE)
        finally:
            await writer.abort()
    except (CasError, OSError) as error:
        return f"the store refuses writes: {error}"
    return None
