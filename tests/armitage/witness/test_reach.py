"""armitage.witness.reach: where a fetch may not lead."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from armitage.witness.reach import Address, parse_address, refusal, why_not_public


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1"),
        *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1"),
        *("64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:db8::1", "2001::1", "2002:7f00:1::"),
        *("fec0::1", "100::1", "5f00::1", "3fff::1", "2001:10::1"),
    ],
)
def test_what_is_not_public_is_refused(text: str) -> None:
    address = parse_address(text)

    assert address is not None
    assert why_not_public(address) is not None
    assert refusal("host", [address]) is not None


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"],
)
def test_what_is_public_is_allowed(text: str) -> None:
    address = parse_address(text)

    assert address is not None
    assert refusal("host", [address]) is None


def addresses(*texts: str) -> list[Address]:
    found = [parse_address(text) for text in texts]
    return [address for address in found if address is not None]


def test_one_bad_address_refuses_the_name() -> None:
    message = refusal("h.example", addresses("1.1.1.1", "::ffff:169.254.169.254"))

    assert message == (
        "h.example leads to 169.254.169.254, which is link-local; a rule must name that network"
        " to allow it"
    )


def test_a_rule_can_name_a_network() -> None:
    own = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]

    assert refusal("h", addresses("10.1.2.3", "fd00::1", "::ffff:10.1.2.3"), own) is None
    assert refusal("h", addresses("10.2.0.1"), own) is not None


def test_a_name_without_address_is_refused() -> None:
    assert refusal("h.example", []) == "h.example has no address"


@pytest.mark.parametrize("text", ["example.org", "", "1.2.3", "0x7f.1", "fe80::1%eth0", "1.2.3.04"])
def test_what_is_no_plain_address_is_a_name(text: str) -> None:
    assert parse_address(text) is None
