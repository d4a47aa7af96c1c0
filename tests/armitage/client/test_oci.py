"""Images found and verified in layouts of every kind."""

import json
from pathlib import Path

import pytest
from support.oci import INDEX, Entry, Layout, docker_archive

from armitage.client.errors import UsageError
from armitage.client.layers import Bounds, Layers
from armitage.client.oci import host_platform, open_image
from cas.digest import DigestFunction

ONE = [Entry("a", b"1"), Entry("b", b"1")]
TWO = [Entry(".wh.b"), Entry("c", b"2")]
AMD64 = "linux/amd64"


def names(path: Path, spool: Path, platform: str = AMD64, name: str | None = None) -> list[str]:
    """The files of an image's root."""
    layers = Layers(spool, DigestFunction.SHA256, Bounds(1 << 20))
    spool.mkdir()
    with open_image(path, platform, name) as image:
        image.apply_to(layers)
    return sorted(layers._root.nodes)


@pytest.mark.parametrize("file", ["layout", "layout.tar"])
@pytest.mark.parametrize("how", ["tar", "gzip", "zstd"])
def test_layouts_of_every_kind_are_read(tmp_path: Path, file: str, how: str) -> None:
    layout = Layout()
    layout.index(layout.image(ONE, TWO, how=how))

    assert names(layout.write(tmp_path / file), tmp_path / "spool") == ["a", "c"]


@pytest.mark.parametrize("file", ["saved", "saved.tar"])
def test_what_docker_save_wrote_is_read(tmp_path: Path, file: str) -> None:
    path = docker_archive(ONE, TWO).write(tmp_path / file)

    assert names(path, tmp_path / "spool") == ["a", "c"]
    assert names(path, tmp_path / "again", name="x:latest") == ["a", "c"]


def test_the_platform_chooses_of_an_index_in_an_index(tmp_path: Path) -> None:
    layout = Layout()
    images = [
        layout.image([Entry(name)], architecture=name) for name in ("amd64", "arm64", "riscv64")
    ]
    attested = layout.image([Entry("attestation")])
    attested["platform"] = {"os": "unknown", "architecture": "unknown"}
    inner = layout.blob(json.dumps({"manifests": [*images, attested]}).encode(), INDEX)
    layout.index(inner)
    path = layout.write(tmp_path / "layout")

    assert names(path, tmp_path / "1", "linux/arm64") == ["arm64"]
    assert names(path, tmp_path / "2") == ["amd64"]
    with pytest.raises(
        UsageError,
        match=r"no image for linux/s390x; .* --platform \(it has: linux/amd64, linux/arm64, linux",
    ):
        names(path, tmp_path / "3", "linux/s390x")


def test_the_host_is_named_as_images_name_it() -> None:
    assert host_platform() in {"linux/amd64", "linux/arm64"}


def test_the_configuration_says_the_platform_where_the_index_does_not(tmp_path: Path) -> None:
    layout = Layout()
    descriptor = layout.image(ONE, architecture="arm64")
    del descriptor["platform"]
    layout.index(descriptor)
    path = layout.write(tmp_path / "layout")

    assert names(path, tmp_path / "1", "linux/arm64") == ["a", "b"]
    with pytest.raises(UsageError, match="it has: linux/arm64"):
        names(path, tmp_path / "2")


def test_the_name_chooses_of_several(tmp_path: Path) -> None:
    layout = Layout()
    layout.index(layout.image(ONE, name="one"), layout.image(TWO, name="two"))
    path = layout.write(tmp_path / "layout")

    assert names(path, tmp_path / "1", name="two") == ["c"]
    with pytest.raises(UsageError, match=r"2 images for .* --name \('one', 'two'\)"):
        names(path, tmp_path / "2")
    with pytest.raises(UsageError, match="no image 'three'; its names: 'one', 'two'"):
        names(path, tmp_path / "3", name="three")


def test_every_changed_blob_is_noticed(tmp_path: Path) -> None:
    layout = Layout()
    layout.index(layout.image(ONE, TWO, how="tar"))
    blobs = [name for name in layout.files if name.startswith("blobs/")]
    assert len(blobs) == 4

    for number, name in enumerate(blobs):
        data = layout.files[name]
        # The last byte of a tar is of its padding: nobody but the digest notices.
        changed = Layout({**layout.files, name: data[:-1] + bytes([data[-1] ^ 1])})
        with pytest.raises(UsageError, match="has other bytes"):
            names(changed.write(tmp_path / f"{number}.tar"), tmp_path / str(number))


def test_a_layer_that_unpacks_to_something_else_is_noticed(tmp_path: Path) -> None:
    saved = docker_archive(ONE)
    data = saved.files["0/layer.tar"]
    saved.files["0/layer.tar"] = data[:-1] + b"x"

    with pytest.raises(UsageError, match=r"0/layer.tar: it has other bytes"):
        names(saved.write(tmp_path / "saved"), tmp_path / "spool")


def test_a_blob_that_lacks_is_named(tmp_path: Path) -> None:
    layout = Layout()
    layout.index(layout.image(ONE))
    for number, name in enumerate([name for name in layout.files if name.startswith("blobs/")]):
        rest = Layout({key: data for key, data in layout.files.items() if key != name})
        with pytest.raises(UsageError, match=f"lacks {name}"):
            names(rest.write(tmp_path / f"{number}.tar"), tmp_path / str(number))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"x": b""}, "neither an OCI image layout"),
        ({"index.json": b"{"}, "cannot be read"),
        ({"index.json": b"[]"}, "is malformed"),
        ({"index.json": b"{}"}, "has no manifests"),
        ({"index.json": b'{"manifests": []}'}, "it has: none"),
        ({"index.json": b'{"manifests": [{"digest": "sha256:../x"}]}'}, "is no sha256"),
        ({"index.json": b'{"manifests": [{"digest": 1}]}'}, "has no digest"),
        ({"manifest.json": b"{}"}, "malformed"),
        ({"manifest.json": b'[{"Config": "../../x", "Layers": []}]'}, r"lacks|no path inside"),
    ],
)
@pytest.mark.parametrize("file", ["bad", "bad.tar"])
def test_what_is_no_image_is_refused(
    tmp_path: Path, files: dict[str, bytes], why: str, file: str
) -> None:
    with pytest.raises(UsageError, match=why):
        names(Layout(files).write(tmp_path / file), tmp_path / "spool")


def test_a_layer_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    layout = Layout()
    descriptor = layout.image(ONE)
    path = f"blobs/sha256/{descriptor['digest'].partition(':')[2]}"
    manifest = json.loads(layout.files[path])
    manifest["layers"][0]["mediaType"] += "+encrypted"
    layout.index(layout.blob(json.dumps(manifest).encode()))

    with pytest.raises(UsageError, match="which is no tar"):
        names(layout.write(tmp_path / "layout"), tmp_path / "spool")


def test_a_file_that_is_no_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a tar at all")

    with pytest.raises(UsageError, match=r"file: cannot be read") as caught:
        names(tmp_path / "file", tmp_path / "spool")

    assert "\n" not in str(caught.value)
