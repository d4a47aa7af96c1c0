"""Container images in files: OCI image layouts (image-layout.md), as directories or tars, and what
`docker save` writes. Whatever is read of one is verified against the digest that names it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform as host
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import zstandard

from armitage.client.errors import UsageError
from armitage.client.layers import Layers
from armitage.tar_headers import BoundedHeader

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_MAX_DOCUMENT_BYTES = 16 << 20
_MAX_MANIFESTS = 1_000
_SLICE_BYTES = 1 << 20
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

Open = Callable[[str], IO[bytes]]
"""Opens a file of a layout by its path. Raises KeyError when it is not there."""


def host_platform() -> str:
    """Answers the platform of this host, as images name it."""
    return f"linux/{_ARCHITECTURES.get(host.machine(), host.machine())}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, where it is and what it must be."""

    path: str
    digest: str | None
    """Of the bytes that are stored; `docker save` has none, only that of what they unpack to."""
    diff_id: str
    """Of the tar."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image, lowest layer first."""

    platform: str
    layers: tuple[Layer, ...]
    open: Open

    def apply_to(self, layers: Layers) -> None:
        """Applies all layers, verified. Blocks. Raises UsageError, OSError."""
        for layer in self.layers:
            with _explained(layer.path):
                self._apply(layer, layers)

    def _apply(self, layer: Layer, layers: Layers) -> None:
        with _found(self.open, layer.path) as file:
            stored = _Hashing(file, layer.digest)
            start = file.read(4)
            file.seek(0)
            plain = _Hashing(_decompressed(stored, start), layer.diff_id, layers.count_bytes)
            layers.apply(cast("IO[bytes]", plain))
            plain.finish()
            stored.finish()


@contextmanager
def open_image(path: Path, platform: str | None, name: str | None) -> Iterator[Image]:
    """Finds the image for a platform (None: this host's), and of a name where there are several.

    Blocks. Raises UsageError, OSError.
    """
    wanted = _Wanted(platform or host_platform(), name)
    if path.is_dir():
        with _explained(str(path)):
            image = _choose(_open_in_directory(path), wanted)
        yield image
        return
    with ExitStack() as stack:
        with _explained(str(path)):
            archive = stack.enter_context(tarfile.open(path, tarinfo=BoundedHeader))
            image = _choose(_open_in_tar(archive), wanted)
        yield image


def _open_in_directory(path: Path) -> Open:
    def open_(name: str) -> IO[bytes]:
        if not _is_inside(name):
            raise UsageError(f"{name!r} is no path inside the layout")
        try:
            return (path / name).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(name) from None

    return open_


def _open_in_tar(archive: tarfile.TarFile) -> Open:
    members = {member.name.removeprefix("./"): member for member in archive.getmembers()}

    def open_(name: str) -> IO[bytes]:
        content = archive.extractfile(members[name])
        if content is None:
            raise KeyError(name)
        return content

    return open_


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


@dataclass(frozen=True, slots=True)
class _Wanted:
    platform: str
    name: str | None

    def is_platform(self, found: Mapping[str, Any]) -> bool:
        """Whether it is for the platform; a variant counts only where one was asked for."""
        os, _, rest = self.platform.partition("/")
        architecture, _, variant = rest.partition("/")
        return (
            found.get("os") == os
            and found.get("architecture") == architecture
            and (not variant or found.get("variant") == variant)
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image that could be meant."""

    names: tuple[str, ...]
    platform: Mapping[str, Any]
    layers: tuple[Layer, ...]


def _choose(open_: Open, wanted: _Wanted) -> Image:
    found = list(_candidates(open_))
    if wanted.name is not None:
        named = [one for one in found if wanted.name in one.names]
        if not named:
            raise UsageError(f"it has no image {wanted.name!r}; its names: {_names(found)}")
        found = named
    fitting = {one.layers: one for one in found if wanted.is_platform(one.platform)}
    if not fitting:
        known = ", ".join(sorted({_platform_text(one.platform) for one in found})) or "none"
        raise UsageError(
            f"it has no image for {wanted.platform}; choose with --platform (it has: {known})"
        )
    if len(fitting) > 1:
        raise UsageError(
            f"it has {len(fitting)} images for {wanted.platform}; choose one with --name"
            f" ({_names(fitting.values())}) or --platform OS/ARCHITECTURE/VARIANT"
        )
    image = next(iter(fitting.values()))
    return Image(_platform_text(image.platform), image.layers, open_)


def _candidates(open_: Open) -> Iterator[_Candidate]:
    try:
        index = _document(_read(open_, "index.json"), "index.json")
    except KeyError:
        yield from _docker_candidates(open_)
        return
    pending: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [
        (descriptor, ()) for descriptor in _list(index, "manifests", "index.json")
    ]
    for number, (descriptor, above) in enumerate(pending):
        if number > _MAX_MANIFESTS:
            raise UsageError(f"it has over {_MAX_MANIFESTS} manifests")
        notes = descriptor.get("annotations") or {}
        names = (*above, *(str(notes[key]) for key in _NAMES if key in notes))
        if (descriptor.get("platform") or {}).get("os") == "unknown":
            continue  # What builders attest of an image is beside it, as if it were one.
        digest = _text(descriptor, "digest", "a descriptor")
        document = _document(_blob(open_, descriptor), digest)
        if "manifests" in document:
            pending += [(each, names) for each in _list(document, "manifests", digest)]
        else:
            yield _candidate(open_, descriptor, document, names)


def _candidate(
    open_: Open,
    descriptor: Mapping[str, Any],
    manifest: Mapping[str, Any],
    names: tuple[str, ...],
) -> _Candidate:
    where = _text(descriptor, "digest", "a descriptor")
    config = _document(_blob(open_, _dict(manifest, "config", where)), f"config of {where}")
    stored = _list(manifest, "layers", where)
    for layer in stored:
        kind = str(layer.get("mediaType", ""))
        if "tar" not in kind or "encrypted" in kind:
            raise UsageError(f"manifest {where} has a layer of type {kind!r}, which is no tar")
    paths = [(_blob_path(layer), _text(layer, "digest", where)) for layer in stored]
    return _Candidate(
        names, descriptor.get("platform") or config, _with_diff_ids(paths, config, where)
    )


def _docker_candidates(open_: Open) -> Iterator[_Candidate]:
    """What `docker save` wrote before it wrote layouts; its layers are named by their diff_ids."""
    try:
        images = json.loads(_read(open_, "manifest.json"))
    except KeyError:
        raise UsageError(
            "it is neither an OCI image layout (no index.json) nor what docker save writes (no"
            " manifest.json)"
        ) from None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise UsageError("its manifest.json is malformed")
    for image in images:
        name = _text(image, "Config", "manifest.json")
        data = _read_named(open_, name)
        named = name.rpartition("/")[2].removesuffix(".json")
        if hashlib.sha256(data).hexdigest() != named:
            raise UsageError(f"{name} has other bytes than its name says")
        config = _document(data, name)
        layers = image.get("Layers")
        if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
            raise UsageError("its manifest.json has no layers")
        paths = [(layer, None) for layer in layers]
        tags = tuple(str(tag) for tag in image.get("RepoTags") or ())
        yield _Candidate(tags, config, _with_diff_ids(paths, config, name))


def _with_diff_ids(
    paths: Sequence[tuple[str, str | None]],
    config: Mapping[str, Any],
    where: str,
) -> tuple[Layer, ...]:
    diff_ids = _dict(config, "rootfs", where).get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != len(paths):
        raise UsageError(f"{where} has {len(paths)} layers, but not as many diff_ids")
    return tuple(
        Layer(path, digest, _checked(diff_id))
        for (path, digest), diff_id in zip(paths, diff_ids, strict=True)
    )


def _checked(digest: object) -> str:
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        raise UsageError(f"{str(digest)[:200]!r} is no sha256 or sha512 digest")
    return digest


def _blob_path(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, hash_ = _checked(descriptor.get("digest")).partition(":")
    return f"blobs/{algorithm}/{hash_}"


def _blob(open_: Open, descriptor: Mapping[str, Any]) -> bytes:
    data = _read_named(open_, _blob_path(descriptor))
    digest = _checked(descriptor.get("digest"))
    if hashlib.new(digest.partition(":")[0], data).hexdigest() != digest.partition(":")[2]:
        raise UsageError(f"blob {digest} has other bytes than its digest says")
    return data


def _read(open_: Open, path: str) -> bytes:
    """Raises KeyError when it is not there."""
    with open_(path) as file:
        data = file.read(_MAX_DOCUMENT_BYTES + 1)
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise UsageError(f"{path} is over {_MAX_DOCUMENT_BYTES} bytes")
    return data


def _read_named(open_: Open, path: str) -> bytes:
    try:
        return _read(open_, path)
    except KeyError:
        raise _lacking(path) from None


def _found(open_: Open, path: str) -> IO[bytes]:
    try:
        return open_(path)
    except KeyError:
        raise _lacking(path) from None


def _lacking(path: str) -> UsageError:
    return UsageError(f"it lacks {path}; make it again, whole")


def _document(data: bytes, where: str) -> Mapping[str, Any]:
    document = json.loads(data)
    if not isinstance(document, dict):
        raise UsageError(f"{where} is malformed")
    return document


def _list(document: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UsageError(f"{where} has no {key}")
    return value


def _dict(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise UsageError(f"{where} has no {key}")
    return value


def _text(document: Mapping[str, Any], key: str, where: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{where} has no {key}")
    return value


def _platform_text(found: Mapping[str, Any]) -> str:
    parts = (found.get("os"), found.get("architecture"), found.get("variant"))
    text = "/".join(str(part) for part in parts if part) or "an unknown platform"
    return text if text.isprintable() else repr(text)


def _names(candidates: Iterable[_Candidate]) -> str:
    names = {name for one in candidates for name in one.names}
    return ", ".join(repr(name) for name in sorted(names)) or "none"


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Says of a failure to read something what it was."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error.__cause__
    except (
        *(tarfile.TarError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError),
        *(EOFError, ValueError, RecursionError),
    ) as error:
        # Of what is no tar archive, tarfile says in several lines what else it is not.
        raise UsageError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashing:
    """Passes bytes on, and holds them to a digest at the end."""

    def __init__(
        self, inner: _Readable, digest: str | None, count: Callable[[int], None] | None = None
    ) -> None:
        self._inner = inner
        self._digest = digest
        self._hasher = hashlib.new(digest.partition(":")[0]) if digest else None
        self._count = count

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        if self._count is not None:
            self._count(len(data))
        if self._hasher is not None:
            self._hasher.update(data)
        return data

    def finish(self) -> None:
        """Reads the rest. Raises UsageError when it is not what its digest says."""
        while self.read(_SLICE_BYTES):
            pass
        if self._hasher is None or self._digest is None:
            return
        if self._hasher.hexdigest() != self._digest.partition(":")[2]:
            raise UsageError(f"it has other bytes than {self._digest} has")


def _decompressed(file: _Hashing, start: bytes) -> _Readable:
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=cast("IO[bytes]", file))
    if start == b"\x28\xb5\x2f\xfd":
        reader = zstandard.ZstdDecompressor().stream_reader(
            cast("IO[bytes]", file), read_across_frames=True
        )
        return cast("_Readable", reader)
    return file
