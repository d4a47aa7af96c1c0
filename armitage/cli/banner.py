"""What the daemon says when it serves: where, what it can do, and what to paste into a client."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.version import version

if TYPE_CHECKING:
    from armitage.config import Config
    from armitage.daemon import Daemon


def facts(config: Config, daemon: Daemon) -> dict[str, Any]:
    """The same for programs."""
    return {
        "version": version(),
        "pid": os.getpid(),
        "grpc": list(daemon.addresses.grpc),
        "http": list(daemon.addresses.http),
        "tls": config.grpc.tls is not None,
        "http_tls": config.web.tls is not None,
        "instances": [instance.name for instance in config.instances],
        "storage": config.storage.value,
        "data_dir": None if config.data_dir is None else str(config.data_dir),
        "exec_enabled": daemon.execution.enabled,
        "sandboxed": daemon.execution.sandboxed,
        "execution": daemon.execution.reason,
        "sandboxes": list(daemon.execution.kinds),
    }


def _our_command() -> str:
    """How to run us again: by name if that finds us, else by path."""
    ours = Path(sys.argv[0]).absolute()
    found = shutil.which("armitage")
    if ours.name != "armitage" or (found is not None and Path(found) == ours):
        return "armitage"
    return str(ours)


def _buck2(address: str, instance: str, *, tls: bool) -> list[str]:
    if address.startswith("unix:"):  # Its client dials hosts alone.
        return ["Buck2 does not dial a unix socket; add a --listen HOST:PORT for it.", ""]
    return [
        "Buck2, in .buckconfig:",
        "",
        "  [buck2_re_client]",
        f"  engine_address = grpc://{address}",
        f"  action_cache_address = grpc://{address}",
        f"  cas_address = grpc://{address}",
        f"  tls = {'true' if tls else 'false'}",
        *([f"  instance_name = {instance}"] if instance else []),
        "",
    ]


def banner(known: dict[str, Any]) -> str:
    """Renders the facts, and the lines to paste."""
    address, instance = known["grpc"][0], known["instances"][0]
    scheme = "grpcs" if known["tls"] else "grpc"
    url = address if address.startswith("unix:") else f"{scheme}://{address}"
    pages = [f"http{'s' * known['http_tls']}://{http}" for http in known["http"]]
    executes = known["exec_enabled"]
    bazel = f" --remote_instance_name={instance}" if instance else ""
    ours = f" --instance {instance}" if instance else ""
    kept = known["data_dir"] if known["storage"] == "disk" else "memory (gone when it stops)"
    lines = [
        f"Armitage {known['version']} serves (pid {known['pid']})",
        "",
        f"  gRPC       {', '.join(known['grpc'])}" + (" (TLS)" if known["tls"] else ""),
        f"  HTTP       {', '.join(pages) or 'off'}",
        f"  data       {kept}",
        f"  execution  {known['execution']}",
        "",
        *_buck2(address, instance, tls=known["tls"]),
        "Bazel:",
        "",
        *([f"  bazel build --remote_executor={url}{bazel} //..."] if executes else []),
        f"  bazel build --remote_cache={url}{bazel} //..." + ("    (cache only)" * executes),
    ]
    if executes:
        command = f"{_our_command()} run --server {url}{ours} --input . --output hello"
        lines += ["", "Any command:", "", f"  {command} -- cc -o hello hello.c"]
    return "\n".join(lines)
