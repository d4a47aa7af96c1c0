"""`armitage cas`: blobs and trees in and out."""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, note, size_text, time_text

if TYPE_CHECKING:
    from armitage.client.remote import Remote
    from armitage.client.storage import BlobStat
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
        "say which blobs are there, and for how long (exit code 1 when one is not)",
        "Says which blobs are there and for how long each stays for certain: the rest of its lease,"
        " or until the builds and actions that hold it end. Renews no lease. Of a server that does"
        " not tell (any but Armitage), only which are there.",
    )
    stat.add_argument("digest", nargs="+", metavar="DIGEST", help=_DIGEST_HELP)
    options.add_connection(stat)

    stats = options.add_command(
        group,
        "stats",
        lambda args: asyncio.run(_stats(args)),
        "show what is stored, and what has gone",
    )
    options.add_connection(stats)

    export = options.add_command(
        group,
        "export",
        lambda args: asyncio.run(_export(args)),
        "write blobs as a tar stream",
        "Writes blobs as a tar stream of files cas/FUNCTION/HH/HASH, each verified: those named, or"
        " all that the server has on disk. What goes meanwhile is left out, and counted.",
    )
    export.add_argument("digest", nargs="*", metavar="DIGEST", help=_DIGEST_HELP)
    export.add_argument("-o", "--out", metavar="FILE", type=Path, help="(default: stdout)")
    options.add_connection(export)

    import_ = options.add_command(
        group,
        "import",
        lambda args: asyncio.run(_import(args)),
        "upload the blobs of a tar stream that `cas export` wrote",
        "Uploads the blobs of a tar stream; what the server has already is not sent. A member whose"
        " bytes are not what its name says is refused, and nothing after it is read.",
    )
    import_.add_argument("path", metavar="FILE", help="- is stdin")
    options.add_connection(import_)

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
    from armitage.client.storage import stat

    async with remote_for(args) as remote:
        digests = [parse_digest(text, remote.function) for text in args.digest]
        found = await stat(remote, digests)
    value = {"blobs": [_stat_value(one) for one in found]}
    emit(args, value, map(_stat_line, found))
    return Exit.OK if all(one.is_present for one in found) else Exit.NO


def _stat_value(one: BlobStat) -> dict[str, object]:
    value: dict[str, object] = {"digest": _text(one.digest), "present": one.is_present}
    if one.is_remote:
        value["remote"] = True
    if one.lease_left_s is not None:
        # JSON has no infinity: the empty blob stays for ever.
        left = one.lease_left_s if math.isfinite(one.lease_left_s) else None
        value["lease_left_s"] = left
        value["holders"] = [{"name": name, "left_s": left_s} for name, left_s in one.holders]
    return value


def _stat_line(one: BlobStat) -> str:
    state = "missing" if not one.is_present else "remote " if one.is_remote else "present"
    line = f"{state}  {_text(one.digest)}"
    if one.lease_left_s is None:
        return line
    if not math.isfinite(one.lease_left_s):
        return f"{line}  for ever"
    line += f"  lease {time_text(one.lease_left_s)}" if one.lease_left_s else "  no lease"
    builds = [left_s for _, left_s in one.holders if left_s is not None]
    if builds:
        line += f", in {len(builds)} live builds for {time_text(max(builds))}"
    for name, left_s in one.holders:
        line += f", {name} until it ends" if left_s is None else ""
    return line


async def _stats(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import remote_for
    from armitage.client.storage import figures

    async with remote_for(args) as remote:
        value = await figures(remote)
    emit(args, value, _stats_lines(value["blobs"], value["results"]))
    return Exit.OK


def _stats_lines(blobs: Mapping[str, float], results: Mapping[str, float]) -> list[str]:
    return [
        (
            f"blobs      {blobs['blobs']:.0f}, {size_text(blobs['bytes'])} of"
            f" {size_text(blobs['max_bytes'])} ({blobs['bytes'] / blobs['max_bytes']:.0%})"
        ),
        f"writing    {size_text(blobs['reserved_bytes'])} set aside",
        f"garbage    {size_text(blobs['garbage_bytes'])} to be compacted",
        f"held       {blobs['held']:.0f} blobs by {blobs['holders']:.0f} live builds and actions",
        (
            f"evicted    {blobs['evicted_blobs']:.0f}, {size_text(blobs['evicted_bytes'])} since"
            f" the start; {blobs['refused_evictions']:.0f} refused for leases"
        ),
        f"damaged    {blobs['damaged_blobs']:.0f} since the start",
        (
            f"results    {results['results']:.0f}, {size_text(results['bytes'])} of"
            f" {size_text(results['max_bytes'])}; {results['evicted_results']:.0f} evicted,"
            f" {results['damaged_results']:.0f} damaged"
        ),
    ]


async def _export(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import parse_digest, remote_for
    from armitage.client.archive import export
    from armitage.client.storage import list_blobs

    async with remote_for(args) as remote:
        if args.digest:
            digests = [parse_digest(text, remote.function) for text in args.digest]
        else:
            digests = [digest async for digest in list_blobs(remote)]
        if args.out is None:
            exported = await export(remote, digests, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with args.out.open("wb") as out:
                exported = await export(remote, digests, out)
    text = f"exported {exported.blobs} blobs, {size_text(exported.size_bytes)}"
    if exported.missing:
        text += f"; {len(exported.missing)} had gone"
    if args.out is None:
        note(text)
    else:
        value = {
            "blobs": exported.blobs,
            "bytes": exported.size_bytes,
            "missing": list(map(_text, exported.missing)),
        }
        emit(args, value, [text])
    return Exit.NO if args.digest and exported.missing else Exit.OK


async def _import(args: argparse.Namespace) -> Exit:
    from armitage.cli.connection import remote_for
    from armitage.client.archive import import_

    async with remote_for(args) as remote:
        if args.path == "-":
            imported = await import_(remote, sys.stdin.buffer)
        else:
            with open(args.path, "rb") as file:  # noqa: ASYNC230 (nothing else runs meanwhile)
                imported = await import_(remote, file)
    value = {
        "blobs": imported.blobs,
        "uploaded_blobs": imported.uploaded_blobs,
        "uploaded_bytes": imported.uploaded_bytes,
    }
    text = (
        f"{imported.blobs} blobs read, {imported.uploaded_blobs} uploaded"
        f" ({size_text(imported.uploaded_bytes)})"
    )
    emit(args, value, [text])
    return Exit.OK


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
