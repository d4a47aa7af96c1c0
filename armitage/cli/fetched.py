"""Fetches as a table, for the command that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from armitage.cli.output import size_text

if TYPE_CHECKING:
    from armitage.witness.audit import Logged

HEADER = ("LOG", "STATUS", "SIZE", "SHA256", "REQUEST")


def row(item: Logged) -> list[str]:
    """One exchange as a line of a table."""
    record = item.record
    body = record["response"]["body"] or {"size_bytes": 0, "sha256": "sha256:"}
    denied = record["decision"]["verdict"] == "deny"
    status = "refused" if denied else str(record["response"]["status"] or "failed")
    request = f"{record['method']} {record['url']}"
    if record["error"]:
        request += f"  ({record['error']})"
    hashed = body["sha256"].removeprefix("sha256:")[:12] or "-"
    return [str(item.index), status, size_text(body["size_bytes"]), hashed, request]
