"""Connections that users name the target of: checked first, then made to the checked address only.

A URL is taken apart once. Its host is resolved once, every address that comes back must be
permitted, and the connection goes to one of them: an answer of the name server that changes in
between has no effect. Redirects are answers like any other and never followed, environment
variables for proxies are not looked at. The lookup ends in a time of its own, and everything at one
deadline.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from models.addresses import Address, Network, is_metadata, is_public
from models.lookup import Resolver, looked_up

DEFAULT_PORTS = {"https": 443, "http": 80}
LOOKUP_SECONDS = 5.0
LONGEST_URL = 2000
LONGEST_ANSWER = 16 * 1024
URL_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
LOCAL_DOMAINS = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion", "invalid", "test")


class OutboundRefused(Exception):
    """This service opens no connection to that URL; the message says why, and no address."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


class OutboundFailed(Exception):
    """There was no answer; the message says why."""


@dataclass(frozen=True)
class OutboundPolicy:
    """What may be connected to. The hosts and networks are excepted from all but the metadata rule."""

    http: bool
    ports: frozenset[int]
    hosts: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, *, http: bool, ports: Iterable[int], allow: Iterable[str]) -> OutboundPolicy:
        """From settings: `allow` names hosts (`hooks.lan`) and networks (`10.1.0.0/16`, `127.0.0.1`).

        Raises:
            ValueError: an entry is neither.
        """
        hosts, networks = set(), []
        for entry in allow:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not HOST_NAME.fullmatch(entry.lower()) or _ends_in_number(entry):
                    raise ValueError(f"{entry!r} is neither a host name nor a network") from None
                hosts.add(entry.lower())
        return cls(http, frozenset(ports), frozenset(hosts), tuple(networks))

    def trusts(self, host: str) -> bool:
        """Whether the operator named this host, or a network with it."""
        address = _literal(host)
        return host in self.hosts if address is None else self._is_listed(address)

    def permits(self, host: str, address: Address) -> bool:
        """Whether `host` may be connected to at this address of it."""
        if is_metadata(address):
            return False
        return host in self.hosts or self._is_listed(address) or is_public(address)

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


@dataclass(frozen=True)
class Target:
    """A URL that was taken apart and found permissible, but for the addresses of its host name."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """Host and port as HTTP names them."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What came back: the status, and the beginning of the body."""

    status: int
    retry_after: str | None
    start: bytes


def system_resolver(host: str, port: int) -> Sequence[str]:
    """The addresses that this machine's resolver knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(entry[4][0]) for entry in found]


def check_url(url: str, policy: OutboundPolicy) -> Target:
    """Take the URL apart, and refuse what can be refused without asking a name server.

    Raises:
        OutboundRefused: with the reason and what would be right.
    """
    if len(url) > LONGEST_URL or not URL_CHARACTERS.fullmatch(url):
        raise OutboundRefused(
            "The URL is too long, or has characters that stand in no URL.",
            f"Give at most {LONGEST_URL} plain ASCII characters, without a fragment; escape others as %XX.",
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _not_a_url() from None
    schemes = ("https", "http") if policy.http else ("https",)
    if parts.scheme not in schemes:
        raise OutboundRefused(
            "The URL's scheme is not taken here.", f"Use {' or '.join(f'{each}://' for each in schemes)}."
        )
    if "@" in parts.netloc:
        raise OutboundRefused("The URL holds a user name or password.", "Leave out what stands before the @.")
    host = _host(parts)
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    _check_place(host, port, policy)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def addresses_of(
    target: Target,
    policy: OutboundPolicy,
    resolve: Resolver = system_resolver,
    *,
    timeout: float = LOOKUP_SECONDS,
) -> list[Address]:
    """The addresses to connect to. One that is not permitted spoils them all.

    Args:
        timeout: Seconds for the name server.

    Raises:
        OutboundRefused: there is such a one.
        OutboundFailed: the name has no address, or the name server does not answer in time.
    """
    literal = _literal(target.host)
    try:
        texts = [] if literal else looked_up(resolve, target.host, target.port, timeout)
        found = [literal] if literal else [ip_address(text) for text in texts]
    except TimeoutError as error:
        raise OutboundFailed(f"The host name was not found within {timeout:g} seconds.") from error
    except (OSError, UnicodeError) as error:
        raise OutboundFailed("The host name was not found.") from error
    except ValueError as error:  # an address with a zone: it means something on this machine only
        raise _not_public() from error
    if not found:
        raise OutboundFailed("The host name has no address.")
    if not all(policy.permits(target.host, address) for address in found):
        raise _not_public()
    return list(dict.fromkeys(found))


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    policy: OutboundPolicy,
    *,
    timeout: float,
    resolve: Resolver = system_resolver,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send `body` and give the answer, whatever its status.

    Args:
        timeout: Seconds for everything, of which the lookup of the name may take `LOOKUP_SECONDS`.
        tls: How certificates are checked; default: as the system does.

    Raises:
        OutboundRefused: the URL, or an address of its host, is not permitted.
        OutboundFailed: there was no answer in time.
    """
    target = check_url(url, policy)
    deadline = time.monotonic() + timeout
    addresses = addresses_of(target, policy, resolve, timeout=min(timeout, LOOKUP_SECONDS))
    try:
        with _connected(addresses, target.port, deadline) as plain, _cut_at(deadline, plain):
            return _exchange(plain, target, body, headers, tls)
    except TimeoutError as error:
        raise OutboundFailed(f"There was no answer within {timeout:g} seconds.") from error
    except ssl.SSLCertVerificationError as error:
        raise OutboundFailed(f"The certificate was not accepted: {error.verify_message}.") from error
    except ssl.SSLError as error:
        raise OutboundFailed("The TLS handshake failed.") from error
    except ConnectionRefusedError as error:
        raise OutboundFailed("The connection was refused.") from error
    except (OSError, http.client.HTTPException) as error:
        raise OutboundFailed(f"The connection failed: {type(error).__name__}.") from error


def _host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host or "%" in parts.netloc:  # a zone, or a name that is escaped
        raise _not_a_url()
    if parts.netloc.startswith("["):
        try:
            return str(IPv6Address(host))
        except AddressValueError:
            raise _not_a_url() from None
    if _ends_in_number(host):
        # 127.1, 2130706433, 0x7f.1 and 0177.0.0.1 are addresses to some resolvers: one form only.
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise _not_a_url() from None
    if len(host) > 253 or not HOST_NAME.fullmatch(host):
        raise _not_a_url()
    return host


def _check_place(host: str, port: int, policy: OutboundPolicy) -> None:
    address = _literal(host)
    if address is not None and not policy.permits(host, address):
        raise _not_public()
    if policy.trusts(host):
        return
    local = "." not in host or host.endswith(tuple(f".{name}" for name in LOCAL_DOMAINS))
    if address is None and local and not policy.networks:
        raise _not_public()
    if port not in policy.ports:
        raise OutboundRefused(
            "The URL's port is not taken here.",
            f"Use one of the ports {', '.join(map(str, sorted(policy.ports)))}.",
        )


@contextmanager
def _connected(addresses: Sequence[Address], port: int, deadline: float) -> Iterator[socket.socket]:
    """A connection to the first address that takes one."""
    failure: OSError | None = None
    for address in addresses:
        try:
            connection = socket.create_connection((str(address), port), timeout=_left(deadline))
        except OSError as error:
            failure = error
            continue
        with connection:
            yield connection
            return
    assert failure is not None
    raise failure


@contextmanager
def _cut_at(deadline: float, connection: socket.socket) -> Iterator[None]:
    """End the connection at the deadline. A time limit of a socket starts anew with every byte."""
    # A handle of its own: TLS takes the other one away.
    with connection.dup() as handle:
        cut = threading.Event()

        def end() -> None:
            cut.set()
            try:
                handle.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side was faster

        timer = threading.Timer(_left(deadline), end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if cut.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
            timer.join()
        if cut.is_set():  # what came looks whole: headers that break off are taken for their end
            raise TimeoutError


def _exchange(
    plain: socket.socket,
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None,
) -> Answer:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = plain
    if target.scheme == "https":
        context = tls or _system_tls()
        connection.sock = context.wrap_socket(plain, server_hostname=target.host)
    try:
        connection.request(
            "POST", target.path, body, {**headers, "Host": target.host_header, "Connection": "close"}
        )
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Retry-After"), _start(response))
    finally:
        connection.close()


@cache
def _system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _start(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(LONGEST_ANSWER)
    except (OSError, http.client.HTTPException):
        return b""  # the status has come: how the body goes on does not matter


def _ends_in_number(host: str) -> bool:
    return NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2].lower()) is not None


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _not_a_url() -> OutboundRefused:
    return OutboundRefused(
        "The URL has no host of a plain form.",
        "Give a host name in ASCII, or an address as 192.0.2.1 or [2001:db8::1], without a dot at its end.",
    )


def _not_public() -> OutboundRefused:
    return OutboundRefused(
        "The URL's host is not on the public internet.",
        "Give a public host, or ask the operator to allow this one (AXFORGE_OUTBOUND_ALLOW).",
    )
