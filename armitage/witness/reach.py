"""Which addresses a fetch may lead to: public ones, unless a rule names the others.

A name that leads to this host, to its network or to a cloud's metadata service would give an action
what it was not granted (server-side request forgery). Every address that a name has is checked, and
the connection goes to the one that was checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = ip_network("64:ff9b::/96")
_LAST_32_BITS = 0xFFFFFFFF
# Not public, though Python's tables call some of them so or say too little of them.
_SPECIAL: tuple[tuple[str, Network], ...] = (
    ("this network", ip_network("0.0.0.0/8")),
    ("shared by a carrier", ip_network("100.64.0.0/10")),
    ("for protocol assignments", ip_network("192.0.0.0/24")),
    ("for benchmarks", ip_network("198.18.0.0/15")),
    ("reserved", ip_network("240.0.0.0/4")),
    ("local NAT64", ip_network("64:ff9b:1::/48")),
    ("Teredo", ip_network("2001::/32")),
    ("ORCHID", ip_network("2001:10::/28")),
    ("for documentation", ip_network("2001:db8::/32")),
    ("6to4", ip_network("2002::/16")),
    ("for documentation", ip_network("3fff::/20")),
    ("segment routing", ip_network("5f00::/16")),
    ("site-local", ip_network("fec0::/10")),
)


def parse_address(text: str) -> Address | None:
    """Reads an address; None for a name. An IPv6 zone makes it none of ours."""
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else address


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (v4-mapped, NAT64), else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & _LAST_32_BITS)
    return address


def why_not_public(address: Address) -> str | None:
    """Answers what kind of address it is, None for a public one."""
    inner = embedded(address)
    kinds = (
        (inner.is_unspecified, "unspecified"),
        (inner.is_loopback, "loopback"),
        (inner.is_link_local, "link-local"),
        (inner.is_multicast, "multicast"),
        *(
            (inner in network, kind)
            for kind, network in _SPECIAL
            if network.version == inner.version
        ),
        (inner.is_private, "private"),
        (not inner.is_global, "not global"),
    )
    return next((kind for holds, kind in kinds if holds), None)


def refusal(host: str, addresses: Iterable[Address], granted: Iterable[Network] = ()) -> str | None:
    """Says why a host's addresses must not be connected to, None when all of them may be.

    `granted` are the networks that a rule names. One address that may not be reached refuses the
    host: which of them is used is not for the name's owner to say.
    """
    grants = tuple(granted)
    checked = [embedded(address) for address in addresses]
    if not checked:
        return f"{host} has no address"
    for address in checked:
        kind = why_not_public(address)
        if kind is not None and not any(
            address in network for network in grants if network.version == address.version
        ):
            return (
                f"{host} leads to {address}, which is {kind}; a rule must name that network to"
                " allow it"
            )
    return None
