"""The checkers that commands decide again with: the package's, and others that are named."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armitage.attest.verify import Check


def add_modules(parser: argparse._ActionsContainer) -> None:
    """Adds the flag."""
    parser.add_argument(
        "--module",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a checker's module beside the one of this version, for attestations that name it by"
        " its SHA-256; repeatable",
    )


def checkers(modules: Iterable[Path]) -> dict[str, Check]:
    """By the SHA-256 of their modules. Raises ConfigError."""
    from armitage.proofs import Checker
    from armitage.proofs.modules import load_checkers

    return {digest: each.check for digest, each in load_checkers(Checker(), modules).items()}
