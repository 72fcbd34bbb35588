"""Which internet addresses are public: what a stranger may make this service connect to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registries (RFC 6890 and its updates), and what is not unicast.
NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, with most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # automatic multicast tunnelling
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
UNICAST_V6 = IPv6Network("2000::/3")
NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo (which carries an IPv4 address), ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which carries an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
NAT64 = IPv6Network("64:ff9b::/96")
METADATA = frozenset(
    {
        IPv4Address("169.254.169.254"),  # AWS, Google, Azure and others
        IPv4Address("169.254.170.2"),  # AWS containers
        IPv4Address("169.254.170.23"),  # AWS EKS pod identity
        IPv4Address("168.63.129.16"),  # Azure's wire server: looks public
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("192.0.0.192"),  # Oracle
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd00:ec2::23"),  # AWS EKS pod identity
        IPv6Address("fd20:ce::254"),  # Google
    }
)
"""Where a cloud hands out a machine's credentials."""


def is_public(address: Address) -> bool:
    """Whether the address is one of the internet's, and stands for no other that is not."""
    if is_metadata(address):
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    if address in NAT64:  # how hosts that only speak IPv6 reach IPv4
        return is_public(_last_32_bits(address))
    return address in UNICAST_V6 and not any(address in network for network in NOT_PUBLIC_V6)


def is_metadata(address: Address) -> bool:
    """Whether a cloud hands out credentials there, however the address is wrapped."""
    if isinstance(address, IPv6Address):
        wrapped = [_last_32_bits(address)] if _carries_ipv4(address) else []
        wrapped += [address.sixtofour] if address.sixtofour else []
        return address in METADATA or any(each in METADATA for each in wrapped)
    return address in METADATA


def _carries_ipv4(address: IPv6Address) -> bool:
    return address in NAT64 or int(address) >> 32 in (0, 0xFFFF)  # IPv4-compatible, IPv4-mapped


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)
