"""The API's names and encodings as any client must make them: digests, resource names, compression.

Deliberately apart from the server's own code: one misreading must not hide another.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable

import brotli
import zstandard
from blake3 import blake3
from google.protobuf.message import Message

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi

Function = reapi.DigestFunction
Compression = reapi.Compressor

_HASHES: dict[int, Callable[[bytes], str]] = {
    Function.SHA256: lambda data: hashlib.sha256(data).hexdigest(),
    Function.SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest(),
    Function.MD5: lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    Function.SHA384: lambda data: hashlib.sha384(data).hexdigest(),
    Function.SHA512: lambda data: hashlib.sha512(data).hexdigest(),
    Function.BLAKE3: lambda data: blake3(data).hexdigest(),
    Function.GITSHA1: lambda data: hashlib.sha1(
        b"blob %d\0" % len(data) + data, usedforsecurity=False
    ).hexdigest(),
}
_NAMED_IN_PATHS = {Function.BLAKE3, Function.SHA256TREE, Function.GITSHA1}


def known_functions(offered: Iterable[int]) -> list[int]:
    """Answers those of the functions that this suite can compute, in the order given."""
    return [function for function in offered if function in _HASHES]


def function_name(function: int) -> str:
    """Answers the enum's name, or its number when it has none."""
    names = Function.Value.values()
    return Function.Value.Name(function) if function in names else str(function)


def digest(data: bytes | Message, function: int = Function.SHA256) -> reapi.Digest:
    """Names a blob, or a message in its binary form."""
    raw = data if isinstance(data, bytes) else data.SerializeToString(deterministic=True)
    return reapi.Digest(hash=_HASHES[function](raw), size_bytes=len(raw))


def key(name: reapi.Digest) -> tuple[str, int]:
    """Answers what a digest can be looked up by."""
    return name.hash, name.size_bytes


def _middle(name: reapi.Digest, function: int) -> list[str]:
    tag = [function_name(function).lower()] if function in _NAMED_IN_PATHS else []
    return [*tag, name.hash, str(name.size_bytes)]


def read_name(
    instance: str, name: reapi.Digest, function: int = Function.SHA256, compressor: str = ""
) -> str:
    """Makes the resource name that ByteStream.Read takes."""
    kind = ["compressed-blobs", compressor] if compressor else ["blobs"]
    return "/".join([*([instance] if instance else []), *kind, *_middle(name, function)])


def write_name(
    instance: str,
    upload: str,
    name: reapi.Digest,
    function: int = Function.SHA256,
    *,
    compressor: str = "",
    suffix: str = "",
) -> str:
    """Makes the resource name that ByteStream.Write takes; `suffix` is optional metadata."""
    bare = read_name("", name, function, compressor)
    parts = [*([instance] if instance else []), "uploads", upload, bare]
    return "/".join([*parts, *([suffix] if suffix else [])])


def subject(name: reapi.Digest, function: int = Function.SHA256) -> str:
    """Makes the subject of a MISSING violation."""
    return read_name("", name, function)


def compress(data: bytes, compressor: str) -> bytes:
    """Compresses to one self-contained stream: standard zstd frame, raw deflate, brotli."""
    match compressor:
        case "zstd":
            return zstandard.ZstdCompressor().compress(data)
        case "deflate":
            deflate = zlib.compressobj(wbits=-15)
            return deflate.compress(data) + deflate.flush()
        case "brotli":
            packed: bytes = brotli.compress(data, quality=4)
            return packed
        case _:
            raise ValueError(f"no compressor is called {compressor!r}")


def decompress(data: bytes, compressor: str) -> bytes:
    """Undoes `compress`, taking any number of zstd frames. Raises ValueError on a bad stream."""
    try:
        match compressor:
            case "zstd":
                reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
                return reader.read()
            case "deflate":
                inflate = zlib.decompressobj(wbits=-15)
                return inflate.decompress(data) + inflate.flush()
            case "brotli":
                plain: bytes = brotli.decompress(data)
                return plain
            case _:
                raise ValueError(f"no compressor is called {compressor!r}")
    except (zstandard.ZstdError, zlib.error, brotli.error) as error:
        raise ValueError(f"{compressor}: {error}") from error


def compressor_names(offered: Iterable[int]) -> list[str]:
    """Answers the names that resource names use for these compressors, without identity."""
    known: dict[int, str] = {
        Compression.ZSTD: "zstd",
        Compression.DEFLATE: "deflate",
        Compression.BROTLI: "brotli",
    }
    return [known[value] for value in offered if value in known]
