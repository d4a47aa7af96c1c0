"""`armitage image`: root filesystems for actions."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, note, printable, size_text

if TYPE_CHECKING:
    from armitage.client.trees import LocalTree
    from cas.digest import DigestFunction

_SHOWN = 5


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "image", "bring root filesystems for actions")
    import_ = options.add_command(
        group,
        "import",
        lambda args: asyncio.run(_import(args)),
        "upload a container image as a tree that actions can have as their root",
        "Uploads the tree that the layers of a container image make, and prints the platform"
        " property that gives it to an action: rootfs=cas:FUNCTION:HASH/SIZE. Every digest is"
        " verified before anything is sent. Owners, times and modes but `executable` are left"
        " out, and so are devices.",
    )
    import_.add_argument(
        "path",
        metavar="FILE|DIR",
        type=Path,
        help="an OCI image layout, as a tar or a directory, or what docker save wrote",
    )
    import_.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="of an image for several, the one for OS/ARCH[/VARIANT] (default: this host's)",
    )
    import_.add_argument(
        "--name", metavar="REF", help="of several images, the one with this reference"
    )
    import_.add_argument(
        "--max-bytes",
        metavar="SIZE",
        type=options.size,
        default=16 << 30,
        help="the most that its layers may unpack to (default: 16GiB)",
    )
    options.add_connection(import_)


async def _import(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import remote_for
    from armitage.client.blobs import upload

    with tempfile.TemporaryDirectory(prefix="armitage-image-") as place:
        async with remote_for(args) as remote:
            tree, facts, left_out = await asyncio.to_thread(
                _unpack, args, Path(place), remote.function
            )
            uploaded = await upload(remote, tree.blobs)
    root = tree.root
    value = {
        "rootfs": f"cas:{root}",
        **facts,
        "files": tree.files,
        "size_bytes": tree.size_bytes,
        "left_out": left_out,
        "uploaded_blobs": uploaded.blobs,
        "uploaded_bytes": uploaded.size_bytes,
    }
    note(
        f"{args.path}: {facts['platform']}, {facts['layers']} layers, {tree.files} files,"
        f" {size_text(tree.size_bytes)}; sent {size_text(uploaded.size_bytes)}"
    )
    if left_out:
        shown = printable(", ".join(left_out[:_SHOWN]))
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        note(f"left out, being devices or the like: {shown}{more}")
    emit(args, value, [f"rootfs=cas:{root}"])
    return Exit.OK


def _unpack(
    args: argparse.Namespace, place: Path, function: DigestFunction
) -> tuple[LocalTree, dict[str, object], list[str]]:
    from armitage.client.layers import Bounds, Layers
    from armitage.client.oci import open_image

    layers = Layers(place, function, Bounds(args.max_bytes))
    with open_image(args.path, args.platform, args.name) as image:
        image.apply_to(layers)
    facts = {"platform": image.platform, "layers": len(image.layers)}
    return layers.tree(), facts, layers.left_out
