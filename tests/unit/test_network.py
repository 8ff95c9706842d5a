"""Which interface an address belongs to; ports that are held are tested with the store that uses them."""

from __future__ import annotations

from pathlib import Path

from hpctrain.network import interface_address, interface_of


def test_addresses_have_interfaces() -> None:
    """An address is told with the interface that has it; one of nobody has none."""
    assert "lo" == interface_of("127.0.0.1")
    assert "" == interface_of("192.0.2.1") == interface_of("not an address") == interface_of("2001:db8::1")
    listed = Path(__file__).with_name("no such file")
    assert "" == interface_of("fe80::1", inet6=listed)


def test_ipv6_addresses_have_interfaces(tmp_path: Path) -> None:
    """The kernel's list of IPv6 addresses is read as it is written."""
    listed = tmp_path / "if_inet6"
    listed.write_text("00000000000000000000000000000001 01 80 10 80       lo\n"
                      "fe800000000000000250b6fffe1d4f2a 02 40 20 80     ib0\n")
    assert ("lo", "ib0") == (interface_of("::1", inet6=listed), interface_of("fe80::250:b6ff:fe1d:4f2a%ib0", inet6=listed))


def test_interfaces_have_addresses() -> None:
    """The loopback's is known; an interface that does not exist has none."""
    assert ("127.0.0.1", None) == (interface_address("lo"), interface_address("nope0"))
