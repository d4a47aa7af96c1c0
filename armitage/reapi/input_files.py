"""The files of an input tree, for those who ask where an artefact comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from armitage.audit.rows import Named
from armitage.audit.why import InputFile, Inputs
from armitage.reapi.trees import DirectoryCodec
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.store import BlobStore
from executor.errors import InvalidInput


def inputs_of(store: BlobStore, codec: DirectoryCodec) -> Inputs:
    """Reads trees from a store. Each directory is read once, the ones above first."""

    async def files(root: Named) -> AsyncIterator[InputFile]:
        start, data = await _find(store, root)
        pending, seen = deque([("", start)]), {start}
        while pending:
            path, digest = pending.popleft()
            directory = codec.parse(data or await store.get(digest), digest.function)
            data = b""
            for file in directory.files:
                yield InputFile(f"{path}{file.name}", file.digest.hash)
            for child in directory.directories:
                if child.digest not in seen:
                    seen.add(child.digest)
                    pending.append((f"{path}{child.name}/", child.digest))

    return files


async def _find(store: BlobStore, named: Named) -> tuple[Digest, bytes]:
    """A record does not say the function. Raises BlobNotFound."""
    fitting = [each for each in DigestFunction if each.hex_length == len(named.hash)]
    for function in fitting:
        digest = Digest(function, named.hash, named.size_bytes)
        if not await store.find_missing([digest]):
            return digest, await store.get(digest)
    if not fitting:
        raise InvalidInput(f"{named.hash} is the hash of no digest function")
    raise BlobNotFound(Digest(fitting[0], named.hash, named.size_bytes))
