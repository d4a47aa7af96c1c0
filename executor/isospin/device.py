"""GPUs and slices of GPUs, as plain values, and what an action may need of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from executor.coeffects import GpuGrant
from executor.errors import InvalidInput
from executor.spec import PassedDevice

ARCHITECTURE_PROPERTY = "gpu-arch"
"""Platform property: the exact architecture (`sm_90`) that an action's result is for."""
DRIVER_PROPERTY = "gpu-driver"
"""Platform property: the exact version of the driver that it is for."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG slice of one, that can be leased."""

    uuid: str
    name: str
    memory_mib: int
    sm: int
    """Compute capability: 90 is `sm_90`."""
    driver: str = ""
    cuda: str = ""
    """The newest CUDA that the driver serves."""
    profile: str = ""
    """Of a MIG slice, such as `1g.10gb`; empty for a whole GPU."""
    nodes: tuple[str, ...] = ()
    """Device nodes that using it takes."""
    files: tuple[str, ...] = ()
    """The driver's libraries."""
    fault: str = ""
    """Why nobody may have it at present; empty while it is healthy."""
    passed: PassedDevice | None = None
    """How a virtual machine gets it; None: it is for actions in other sandboxes."""

    @property
    def is_slice(self) -> bool:
        """Whether this is a MIG slice. A program can use but one of those."""
        return bool(self.profile)


@dataclass(frozen=True, slots=True)
class Need:
    """What somebody wants to hold, all of it at the same time."""

    count: int = 1
    memory_mib: int = 0
    sm: int = 0
    """At least."""
    architecture: int | None = None
    """Exactly, when it is said."""
    driver: str = ""
    """Exactly, when it is said."""
    in_guest: bool = False
    """Whether it is for a virtual machine: those get what is passed through, and nobody else."""

    def __str__(self) -> str:
        parts = [f"gpu:{self.count}"]
        parts += [f"mem>={self.memory_mib}"] if self.memory_mib else []
        parts += [f"sm>={self.sm}"] if self.sm else []
        text = ":".join(parts)
        exact = [] if self.architecture is None else [f"architecture sm_{self.architecture}"]
        exact += [f"driver {self.driver}"] if self.driver else []
        text = f"{text} with {' and '.join(exact)}" if exact else text
        return f"{text} in a virtual machine" if self.in_guest else text

    def suits(self, device: Device) -> bool:
        """Tells whether a device is of the kind, healthy or not, free or not."""
        return (
            self.in_guest == (device.passed is not None)
            and device.memory_mib >= self.memory_mib
            and device.sm >= self.sm
            and self.architecture in (None, device.sm)
            and self.driver in ("", device.driver)
            and not (device.is_slice and self.count > 1)
        )


def need_of(grant: GpuGrant, platform: Mapping[str, str], *, in_guest: bool = False) -> Need:
    """Answers what an action needs by its declaration, its platform and where it runs.

    Raises InvalidInput when a property of the platform is malformed.
    """
    return Need(
        count=grant.count,
        memory_mib=grant.memory_mib,
        sm=grant.sm,
        architecture=_architecture(platform.get(ARCHITECTURE_PROPERTY, "")),
        driver=platform.get(DRIVER_PROPERTY, ""),
        in_guest=in_guest,
    )


def _architecture(text: str) -> int | None:
    if not text:
        return None
    digits = text.removeprefix("sm_")
    if digits == text or not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        raise InvalidInput(
            f"platform property {ARCHITECTURE_PROPERTY} is {text[:40]!r}; write it like sm_90"
        )
    return int(digits)
