"""What the layers of an image come to as a tree."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.oci import Entry, hard_link, link, tar

from armitage.client.errors import UsageError
from armitage.client.layers import Bounds, Layers
from armitage.client.trees import LocalTree
from armitage.reapi.trees import DirectoryCodec
from cas.digest import Digest, DigestFunction

SHA256 = DigestFunction.SHA256
BOUNDS = Bounds(1 << 20, 1000)


def apply(place: Path, layers: Sequence[Sequence[Entry]], bounds: Bounds = BOUNDS) -> Layers:
    applied = Layers(place, SHA256, bounds)
    for layer in layers:
        applied.apply(io.BytesIO(tar(layer)))
    return applied


def listing(tree: LocalTree, root: Digest | None = None, prefix: str = "") -> dict[str, object]:
    """Every path: bytes of a file, (bytes, "x") of a program, target of a link, None."""
    found: dict[str, object] = {}
    blob = tree.blobs[root or tree.root]
    assert isinstance(blob, bytes)
    directory = DirectoryCodec().parse(blob, SHA256)
    for file in directory.files:
        path = tree.blobs[file.digest]
        assert isinstance(path, Path)
        data = path.read_bytes()
        found[prefix + file.name] = (data, "x") if file.is_executable else data
    for one in directory.symlinks:
        found[prefix + one.name] = one.target
    for below in directory.directories:
        found[f"{prefix}{below.name}/"] = None
        found |= listing(tree, below.digest, f"{prefix}{below.name}/")
    return found


def merged(place: Path, *layers: Sequence[Entry]) -> dict[str, object]:
    return listing(apply(place, layers).tree())


def test_files_links_and_empty_directories_are_kept(tmp_path: Path) -> None:
    entries = [
        Entry("./"),
        Entry("./bin/"),
        Entry("bin/sh", b"shell", 0o4755),
        link("/sbin", "bin"),
        hard_link("bin/ash", "./bin/sh"),
        link("bin/up", "/../../etc"),
        Entry("empty/"),
    ]

    assert merged(tmp_path, entries) == {
        "bin/": None,
        "bin/ash": (b"shell", "x"),
        "bin/sh": (b"shell", "x"),
        "bin/up": "/../../etc",
        "empty/": None,
        "sbin": "bin",
    }


def test_the_upper_layer_wins(tmp_path: Path) -> None:
    lower = [Entry("a", b"1"), Entry("b/"), Entry("b/x", b"1"), Entry("c", b"1"), Entry("d/x")]
    upper = [Entry("a", b"2"), Entry("b", b"2"), Entry("c/"), Entry("c/x", b"2"), Entry("d/")]

    assert merged(tmp_path, lower, upper) == {
        "a": b"2",
        "b": b"2",
        "c/": None,
        "c/x": b"2",
        "d/": None,
        "d/x": b"",
    }


def test_whiteouts_remove_what_lower_layers_have_alone(tmp_path: Path) -> None:
    lower = [Entry("d/one", b"1"), Entry("d/two", b"1"), Entry("e/deep/old", b"1"), Entry("f")]
    upper = [
        Entry("d/two", b"2"),
        Entry("d/.wh.one"),
        Entry("d/.wh.two"),
        Entry("e/deep/new", b"2"),
        Entry(".wh.e"),
        Entry(".wh.f"),
        Entry(".wh.absent"),
    ]

    assert merged(tmp_path, lower, upper) == {
        "d/": None,
        "d/two": b"2",
        "e/": None,
        "e/deep/": None,
        "e/deep/new": b"2",
    }


@pytest.mark.parametrize("is_first", [True, False])
def test_opaque_directories_have_what_their_own_layer_has(tmp_path: Path, is_first: bool) -> None:
    lower = [Entry("d/sub/old", b"1"), Entry("d/old", b"1"), Entry("d/both", b"1")]
    own = [Entry("d/both", b"2"), Entry("d/sub/new", b"2")]
    mark = [Entry("d/"), Entry("d/.wh..wh..opq")]
    upper = [*mark, *own] if is_first else [*own, *mark]

    assert merged(tmp_path, lower, upper) == {
        "d/": None,
        "d/both": b"2",
        "d/sub/": None,
        "d/sub/new": b"2",
    }


def test_what_goes_through_a_link_stays_in_the_tree(tmp_path: Path) -> None:
    lower = [link("lib", "usr/lib"), link("out", "../../../etc"), link("top", "/usr")]
    upper = [Entry("lib/x", b"1"), Entry("out/passwd", b"2"), Entry("top/y", b"3")]

    assert merged(tmp_path, lower, upper) == {
        "etc/": None,
        "etc/passwd": b"2",
        "lib": "usr/lib",
        "out": "../../../etc",
        "top": "/usr",
        "usr/": None,
        "usr/lib/": None,
        "usr/lib/x": b"1",
        "usr/y": b"3",
    }


def test_devices_are_left_out_and_named(tmp_path: Path) -> None:
    kinds = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    layers = apply(tmp_path, [[Entry(f"dev/{kind[0]}", kind=kind) for kind in kinds]])

    assert listing(layers.tree()) == {"dev/": None}
    assert layers.left_out == [f"dev/{kind[0]}" for kind in kinds]


def test_blobs_that_no_layer_shows_are_not_sent(tmp_path: Path) -> None:
    tree = apply(tmp_path, [[Entry("a", b"gone")], [Entry("a", b"here")]]).tree()

    assert SHA256.digest(b"gone") not in tree.blobs
    assert (tree.files, tree.size_bytes) == (1, 4)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry("../x"), "leads out of it"),
        (Entry("a/../../x"), "leads out of it"),
        (hard_link("x", "../../etc/passwd"), "leads out of it"),
        (hard_link("x", "absent"), "which is not there"),
        (hard_link("x", "."), "which is not there"),
        (link("x", ""), "is a link to nothing"),
        (link("x", "y" * 5000), "is a link to nothing"),
        (Entry("file/x"), "goes through 'file', which is a file"),
        (Entry("loop/x"), "too many links"),
        (Entry(".wh."), "whiteout of nothing"),
        (Entry(".wh..."), "whiteout of nothing"),
        (Entry("x" * 256), "too deep or too long"),
        (Entry("x/" * 201), "too deep or too long"),
        (Entry(f"deep/{'x/' * 150}"), "over 200 directories deep"),
        (Entry("./", kind=tarfile.REGTYPE, mode=0), ""),
        (Entry(".", b"x"), "names the root itself"),
        (Entry("big", b"x" * (1 << 21)), r"over 1048576 bytes; allow more with --max-bytes"),
    ],
)
def test_what_no_image_has_is_refused(tmp_path: Path, entry: Entry, why: str) -> None:
    lower = [
        Entry("file"),
        link("loop", "loop"),
        link("deep", "y/" * 100),
        Entry("y/" * 100),
    ]
    if not why:
        apply(tmp_path, [lower, [entry]])
        return
    with pytest.raises(UsageError, match=why):
        apply(tmp_path, [lower, [entry]])


def test_an_image_of_too_many_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="over 3 entries"):
        apply(tmp_path, [[Entry("a/b/c/d")]], Bounds(1000, 3))


def test_a_header_that_is_too_long_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30

    with pytest.raises(tarfile.ReadError, match="too long"):
        Layers(tmp_path, SHA256, BOUNDS).apply(io.BytesIO(info.tobuf(tarfile.USTAR_FORMAT)))
