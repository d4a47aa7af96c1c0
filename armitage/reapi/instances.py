"""Instances: the named views of one server (REAPI `instance_name`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from armitage.errors import InvalidRequest, NotFound
from armitage.reapi.digests import DigestPolicy
from cas.digest import Digest
from cas.quotas import Quotas

RESERVED_SEGMENTS = frozenset(
    {
        "blobs",
        "uploads",
        "actions",
        "actionResults",
        "operations",
        "capabilities",
        "compressed-blobs",
        "logstreams",
    }
)
"""Path segments that no instance name may hold (REAPI, `instance_name`; the last is the log stream
API's).
"""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: what it offers. Instances share blobs, never action results.

    The name may be empty or of several segments (`a/b/c`). Raises InvalidRequest for a name that
    resource names could not carry.
    """

    name: str = ""
    digests: DigestPolicy = field(default_factory=DigestPolicy)
    action_cache_update_enabled: bool = True
    """Whether clients may write action results."""
    exec_enabled: bool = True
    max_blob_size_bytes: int = 0
    """Larger blobs are refused; 0 is no limit."""
    quota_bytes: int = 0
    """What its clients and actions may have stored, together; 0 is no limit. A blob counts for the
    instance that stored it first.
    """

    def __post_init__(self) -> None:
        segments = self.name.split("/") if self.name else []
        if "" in segments or RESERVED_SEGMENTS & set(segments):
            raise InvalidRequest(
                f"instance name {self.name!r} cannot be: no empty segment and none of"
                f" {', '.join(sorted(RESERVED_SEGMENTS))} may be in it"
            )

    @property
    def action_cache_key(self) -> str:
        """The instance's name in the ActionCache."""
        return self.name


class Instances:
    """All instances of this server, by name, and their quotas."""

    def __init__(self, instances: Iterable[Instance], quotas: Quotas | None = None) -> None:
        self._quotas = quotas
        self._by_name = {instance.name: instance for instance in instances}

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Instance:
        """Answers the instance. Raises NotFound: every service answers an unknown one alike."""
        instance = self._by_name.get(name)
        if instance is None:
            offered = ", ".join(repr(known) for known in sorted(self._by_name))
            raise NotFound(f"instance {name[:200]!r} is not here; this server has {offered}")
        return instance

    def reserve(self, instance: Instance, size_bytes: int) -> AbstractContextManager[None]:
        """Sets a part of the instance's quota aside while something is stored for it. Raises
        cas.errors.StoreFull.
        """
        if self._quotas is None:
            return nullcontext()
        return self._quotas.reserve(instance.name, size_bytes)

    def charge(self, name: str, digests: Iterable[Digest]) -> None:
        """Charges what was stored for an instance to its quota."""
        if self._quotas is not None:
            self._quotas.charge(name, digests)
