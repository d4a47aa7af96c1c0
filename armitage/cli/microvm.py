"""`armitage microvm`: what virtual machines for actions take."""

from __future__ import annotations

import argparse
from pathlib import Path

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, size_text


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "microvm", "prepare virtual machines for actions")
    image = options.add_command(
        group,
        "image",
        _image,
        "make the image of the toolchain that guests see",
        "Makes a squashfs image of the toolchain (executor.toolchain), for"
        " microvm.toolchain_image. Equal files give equal images. Make it anew when the host's"
        " programs change: guests see the image, not the host.",
    )
    image.add_argument("file", metavar="FILE", type=Path, help="the image; it is replaced")
    image.add_argument(
        "--config", metavar="FILE", type=Path, help="settings (docs/armitage.example.toml)"
    )
    image.add_argument(
        "--path",
        metavar="PATH",
        action="append",
        help="a host path, or a pattern, in place of executor.toolchain; may be repeated",
    )


def _image(args: argparse.Namespace) -> Exit:
    from armitage.config import load
    from executor.microvm.image import make_image

    toolchain = tuple(args.path or load(args.config).executor.toolchain)
    held = make_image(toolchain, args.file)
    size_bytes = args.file.stat().st_size
    value = {"image": str(args.file), "size_bytes": size_bytes, "paths": held}
    lines = [
        f"{args.file}: {size_text(size_bytes)} with {', '.join(held)}",
        f'in the configuration: [microvm] toolchain_image = "{args.file.absolute()}"',
    ]
    emit(args, value, lines)
    return Exit.OK
