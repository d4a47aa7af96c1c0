"""Deciding whether what an action used is what it declared (docs/proofs.md)."""

from armitage.proofs.checker import Checker
from armitage.proofs.verdict import Reason, Verdict

__all__ = ["Checker", "Reason", "Verdict"]
