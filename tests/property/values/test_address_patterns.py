"""The patterns of a network match the full texts of its addresses, and those of no others."""

from __future__ import annotations

import ipaddress

from hypothesis import example, given
from hypothesis import strategies as st

from vaultpki.values.hosts import address_patterns


def matches(text: str, pattern: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


@st.composite
def networks(draw: st.DrawFn) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if draw(st.booleans()):
        address = draw(st.ip_addresses(v=4))
        return ipaddress.ip_network(f"{address}/{draw(st.integers(1, 32))}", strict=False)
    address = draw(st.ip_addresses(v=6))
    # Other lengths list thousands of patterns.
    length = draw(st.integers(1, 128).filter(lambda bits: bits % 16 == 0 or bits % 16 > 11))
    return ipaddress.ip_network(f"{address}/{length}", strict=False)


@given(networks(), st.integers(0, 2**128 - 1), st.ip_addresses())
@example(ipaddress.ip_network("fd00::/9"), 2**118, ipaddress.ip_address("fd::1"))
@example(ipaddress.ip_network("10.20.0.0/17"), 7, ipaddress.ip_address("10.20.128.1"))
def test_they_match_addresses_of_the_network_alone(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    offset: int,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    patterns = list(address_patterns(str(network)))
    inside = network[offset % network.num_addresses]
    assert any(matches(inside.exploded, each) for each in patterns)
    if other not in network:
        # However it is written.
        assert not any(matches(text, each) for each in patterns for text in (other.exploded, other.compressed))
    after = int(network.broadcast_address) + 1
    if after < 2**network.max_prefixlen:
        beside = (ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address)(after)
        assert not any(matches(beside.exploded, each) or matches(str(beside), each) for each in patterns)
