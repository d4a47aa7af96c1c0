"""Attestations: what a daemon signs about the actions that its checker approved, kept in its log,
and how others verify it.
"""
