"""The Remote Execution API conformance suite, which runs against any server."""

from armitage.conformance.control import NoControl, Server, ServerControl, Variant
from armitage.conformance.model import Case, Level, Outcome, Result, Skipped
from armitage.conformance.runner import run
from armitage.conformance.session import Options
from armitage.conformance.suite import CASES

__all__ = [
    "CASES",
    "Case",
    "Level",
    "NoControl",
    "Options",
    "Outcome",
    "Result",
    "Server",
    "ServerControl",
    "Skipped",
    "Variant",
    "run",
]
