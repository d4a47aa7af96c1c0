"""`armitage cas`: blobs and trees in and out."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, size_text

if TYPE_CHECKING:
    from armitage.client.remote import Remote
    from armitage.client.trees import RemoteTree
    from cas.digest import Digest

_SPOOL_BYTES = 64 << 20
_DIGEST_HELP = "HASH/SIZE or FUNCTION:HASH/SIZE"


def add(commands: options.Commands) -> None:
    """Adds the command."""
    group = options.add_group(commands, "cas", "store, fetch and look at blobs and trees")

    put = options.add_command(
        group,
        "put",
        lambda args: asyncio.run(_put(args)),
        "upload files and directories, and print their digests",
        "Uploads what the server lacks and prints one digest for each PATH; of a directory, the"
        " digest of its root Directory.",
    )
    put.add_argument("path", nargs="+", metavar="PATH", help="file or directory; - is stdin")
    options.add_connection(put)

    get = options.add_command(
        group,
        "get",
        lambda args: asyncio.run(_get(args)),
        "fetch a blob, verified",
        "Fetches a blob. Nothing is printed or written under the given name before it has proven"
        " right.",
    )
    get.add_argument("digest", metavar="DIGEST", help=_DIGEST_HELP)
    get.add_argument("-o", "--out", metavar="FILE", type=Path, help="write here (default: stdout)")
    options.add_connection(get)

    stat = options.add_command(
        group,
        "stat",
        lambda args: asyncio.run(_stat(args)),
        "say which blobs are there (exit code 1 when one is not)",
    )
    stat.add_argument("digest", nargs="+", metavar="DIGEST", help=_DIGEST_HELP)
    options.add_connection(stat)

    tree = options.add_command(
        group,
        "tree",
        lambda args: asyncio.run(_tree(args)),
        "list a tree, or bring it to a directory",
    )
    tree.add_argument("digest", metavar="DIGEST", help=f"of a Directory: {_DIGEST_HELP}")
    tree.add_argument(
        "--as-tree", action="store_true", help="DIGEST is of a Tree message (output directories)"
    )
    tree.add_argument("-o", "--out", metavar="DIR", type=Path, help="write the tree here")
    tree.add_argument(
        "--outside-links",
        action="store_true",
        help="also write symlinks that may lead outside DIR",
    )
    options.add_connection(tree)


async def _put(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import remote_for
    from armitage.client.blobs import upload

    async with remote_for(args) as remote:
        blobs: dict[Digest, bytes | Path] = {}
        named = []
        for path in args.path:
            digest, parts = await asyncio.to_thread(_local, path, remote)
            blobs.update(parts)
            named.append((path, digest))
        uploaded = await upload(remote, blobs)
    value = {
        "blobs": [{"path": path, "digest": _text(digest)} for path, digest in named],
        "uploaded_blobs": uploaded.blobs,
        "uploaded_bytes": uploaded.size_bytes,
    }
    emit(args, value, (f"{_text(digest)}  {path}" for path, digest in named))
    return Exit.OK


def _local(path: str, remote: Remote) -> tuple[Digest, dict[Digest, bytes | Path]]:
    from armitage.client.blobs import hash_file
    from armitage.client.trees import build_tree

    if path == "-":
        data = sys.stdin.buffer.read()
        digest = remote.function.digest(data)
        return digest, {digest: data}
    where = Path(path)
    if where.is_dir():
        tree = build_tree(where, remote.function)
        return tree.root, tree.blobs
    digest = hash_file(where, remote.function)
    return digest, {digest: where}


async def _get(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import parse_digest, remote_for
    from armitage.client.blobs import stream
    from armitage.client.download import write_file

    async with remote_for(args) as remote:
        digest = parse_digest(args.digest, remote.function)
        if args.out is not None:
            await write_file(remote, digest, args.out)
            emit(args, {"path": str(args.out), "digest": _text(digest)}, ())
            return Exit.OK
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            async for chunk in stream(remote, digest):
                spool.write(chunk)
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    return Exit.OK


async def _stat(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import parse_digest, remote_for
    from armitage.client.blobs import find_missing

    async with remote_for(args) as remote:
        digests = [parse_digest(text, remote.function) for text in args.digest]
        missing = set()
        for digest in digests:
            # One call each: a call has one digest function, and these may differ.
            spoken = replace(remote, function=digest.function)
            missing.update(await find_missing(spoken, [digest]))
    value = {"blobs": [{"digest": _text(d), "present": d not in missing} for d in digests]}
    emit(
        args,
        value,
        (f"{'missing' if digest in missing else 'present'}  {_text(digest)}" for digest in digests),
    )
    return Exit.NO if missing else Exit.OK


async def _tree(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import parse_digest, remote_for
    from armitage.client.download import plan_tree, write
    from armitage.client.trees import fetch_tree, read_tree_blob

    async with remote_for(args) as remote:
        digest = parse_digest(args.digest, remote.function)
        tree = await (read_tree_blob if args.as_tree else fetch_tree)(remote, digest)
        if args.out is not None:
            plan = plan_tree(tree)
            await write(remote, plan, args.out, allow_outside_links=args.outside_links)
            emit(args, {"path": str(args.out), "files": len(plan.files)}, ())
            return Exit.OK
    entries = _entries(tree)
    emit(args, {"root": _text(tree.root), "entries": entries}, map(_entry_line, entries))
    return Exit.OK


def _entries(tree: RemoteTree) -> list[dict[str, str | int | bool]]:
    from armitage.client.download import plan_tree

    plan = plan_tree(tree)
    found: list[dict[str, str | int | bool]] = [
        {"path": "/".join(parts), "type": "directory"} for parts in plan.directories if parts
    ]
    found += [
        {
            "path": "/".join(file.parts),
            "type": "file",
            "digest": _text(file.digest),
            "size_bytes": file.digest.size_bytes,
            "is_executable": file.is_executable,
        }
        for file in plan.files
    ]
    found += [
        {"path": "/".join(link.parts), "type": "symlink", "target": link.target}
        for link in plan.links
    ]
    return sorted(found, key=lambda entry: entry["path"])


def _entry_line(entry: dict[str, str | int | bool]) -> str:
    match entry["type"]:
        case "directory":
            return f"d {'':>10}  {entry['path']}/"
        case "symlink":
            return f"l {'':>10}  {entry['path']} -> {entry['target']}"
        case _:
            kind = "x" if entry["is_executable"] else "-"
            return f"{kind} {size_text(int(entry['size_bytes'])):>10}  {entry['path']}"


def _text(digest: Digest) -> str:
    return f"{digest.hash}/{digest.size_bytes}"
