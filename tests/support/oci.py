"""Container images that tests make."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Entry:
    """A member of a layer; a directory's name ends in a slash."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""


def link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target)


def tar(entries: Iterable[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as packed:
        for entry in entries:
            info = tarfile.TarInfo(entry.name.rstrip("/"))
            info.type = tarfile.DIRTYPE if entry.name.endswith("/") else entry.kind
            info.mode, info.linkname, info.size = entry.mode, entry.target, len(entry.data)
            packed.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def compressed(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 1)
    return zstandard.ZstdCompressor().compress(data) if how == "zstd" else data


@dataclass
class Layout:
    """An OCI image layout in the making: paths and bytes."""

    files: dict[str, bytes] = field(default_factory=dict)

    def blob(self, data: bytes, kind: str = "", **more: Any) -> dict[str, Any]:
        """Adds a blob; answers its descriptor."""
        hash_ = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{hash_}"] = data
        return {"mediaType": kind, "digest": f"sha256:{hash_}", "size": len(data), **more}

    def image(
        self,
        *layers: Sequence[Entry],
        architecture: str = "amd64",
        how: str = "gzip",
        name: str = "",
    ) -> dict[str, Any]:
        """Adds an image; answers its descriptor."""
        tars = [tar(layer) for layer in layers]
        diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in tars]
        config = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        kind = LAYER if how == "tar" else f"{LAYER}+{how}"
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(json.dumps(config).encode()),
            "layers": [self.blob(compressed(data, how), kind) for data in tars],
        }
        more: dict[str, Any] = {"platform": {"os": "linux", "architecture": architecture}}
        if name:
            more["annotations"] = {"org.opencontainers.image.ref.name": name}
        return self.blob(json.dumps(manifest).encode(), MANIFEST, **more)

    def index(self, *descriptors: dict[str, Any]) -> None:
        """Makes it whole."""
        self.files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
        self.files["index.json"] = json.dumps(
            {"schemaVersion": 2, "manifests": list(descriptors)}
        ).encode()

    def write(self, path: Path) -> Path:
        """As a tar where the name says so, else as a directory."""
        if path.suffix == ".tar":
            path.write_bytes(tar(Entry(name, data) for name, data in self.files.items()))
            return path
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def docker_archive(*layers: Sequence[Entry], tag: str = "x:latest") -> Layout:
    """What `docker save` wrote before it wrote OCI layouts."""
    tars = [tar(layer) for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in tars]
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}}
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": paths}]
    files = dict(zip(paths, tars, strict=True))
    return Layout({**files, name: config, "manifest.json": json.dumps(manifest).encode()})
