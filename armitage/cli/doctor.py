"""`armitage doctor`: what this host can do, and what to change where it cannot."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit

if TYPE_CHECKING:
    from armitage.compiled import Compiled
    from armitage.config import Config
    from executor.probe import Finding


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "doctor",
        _doctor,
        "say what this host can do for actions, and what to install",
        "Tries what sandboxed actions need on this host, and says what to change where it fails."
        " Boots a guest, where there is what it takes, which is a matter of seconds."
        " Exit code 1 when actions cannot be sandboxed.",
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings (docs/armitage.example.toml)"
    )
    parser.add_argument("--bubblewrap", metavar="FILE", help="bwrap to try (default: the system's)")


def _passed(config: Config) -> tuple[Finding, ...]:
    """Looks at GPUs for virtual machines, where any are configured."""
    from executor.isospin.passthrough import PassthroughDiscovery
    from executor.isospin.probe import probe_passthrough
    from executor.microvm.probe import probe_driver

    if not config.gpu.passthrough:
        return ()
    found = probe_passthrough(PassthroughDiscovery(config.gpu.passthrough))
    return *found, probe_driver(config.microvm)


def _modules(found: Compiled) -> Finding:
    from armitage import compiled
    from executor.probe import Finding

    name = "compiled modules"
    if found.stale:
        detail = f"stale, so `armitage serve` refuses to start: {', '.join(found.stale)}"
        return Finding(name, False, detail, compiled.REMEDY)
    if found.modules:
        return Finding(name, True, f"{len(found.modules)}, of the sources beside them")
    remedy = "install gcc and libpython3-dev, then python hatch_modules.py"
    return Finding(name, False, "none: small calls cost up to three times the CPU", remedy)


def _doctor(args: argparse.Namespace) -> Exit:
    from armitage import compiled
    from armitage.config import load
    from executor.isospin.probe import probe_gpus
    from executor.microvm.probe import probe_microvm
    from executor.probe import Report, probe

    config = load(args.config)
    report = probe(args.bubblewrap)
    report = Report(
        (
            *report.findings,
            probe_gpus(),
            *_passed(config),
            probe_microvm(config.microvm, args.bubblewrap),
            _modules(compiled.inspect()),
        )
    )
    value = {
        "can_sandbox": report.can_sandbox,
        "remedies": list(report.remedies),
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }
    lines = [*report.lines(), "", "Actions can be sandboxed on this host."]
    if not report.can_sandbox:
        lines[-1] = (
            "Actions cannot be sandboxed on this host, and are not executed. To change that:"
        )
        lines += [f"  {remedy}" for remedy in report.remedies]
        lines.append("  or accept the risk: armitage serve --accept-unsandboxed")
    emit(args, value, lines)
    return Exit.OK if report.can_sandbox else Exit.NO
