"""The installed version."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The version of the installed distribution; `unknown` when run from a bare source tree."""
    try:
        return metadata.version("armitage")
    except metadata.PackageNotFoundError:
        return "unknown"
