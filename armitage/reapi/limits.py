"""Sizes that the services keep to, said once."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a message may hold. The defaults fit the clients' own limits (tonic and grpc-java refuse
    messages over 4 MiB).
    """

    max_batch_total_size_bytes: int = 4_000_000
    """For the blobs of one batch request, as advertised. The transport must take messages well
    above it: 50,000 one-byte blobs come with 4 MB of digests around them.
    """
    max_response_bytes: int = 4 * _MIB - 64 * 1024
    """For an ActionResult with what is inlined, and for a page of GetTree."""
    max_tree_bytes: int = 256 * _MIB
    """For a Tree blob that a completeness check must read."""
    max_tree_directories: int = 1_000_000
    """For a walk from Directory to Directory."""
