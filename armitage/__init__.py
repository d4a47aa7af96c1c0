"""Armitage: a remote execution backend whose builds can be audited end to end.

Imports nothing; see docs/architecture.md.
"""
