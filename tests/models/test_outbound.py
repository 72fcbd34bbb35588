"""What the service connects to, and what it does not, however it is written."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from models import lookup, outbound
from models.addresses import METADATA, NAT64, is_public
from models.lookup import Resolver
from models.outbound import (
    LONGEST_ANSWER,
    OutboundFailed,
    OutboundPolicy,
    OutboundRefused,
    addresses_of,
    check_url,
    post,
)
from tests.receiver import Receiver, answering, listening

PORTS = (80, 443, 8443)
STRICT = OutboundPolicy.of(http=False, ports=PORTS, allow=())
HTTP = OutboundPolicy.of(http=True, ports=PORTS, allow=())
LOCAL = OutboundPolicy.of(http=True, ports=PORTS, allow=["127.0.0.1"])
PUBLIC = "93.184.215.14"

REFUSED = [
    "",
    "example.com",
    "//example.com/",
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "https:example.com",
    "https:///path",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com#@127.0.0.1/",
    "https://exa mple.com/",
    "https://example.com/\r\nHost: evil",
    "https://example.com/\x00",
    "https://ex%61mple.com/",
    "https://exämple.com/",
    "https://①②⑦.①/",
    "https://example.com./",
    "https://.example.com/",
    "https://-a.example.com/",
    "https://" + "a" * 64 + ".com/",
    "https://example.com/" + "a" * 2000,
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:x/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://a.localhost/",
    "https://redis/",
    "https://metadata/",
    "https://metadata.google.internal/",
    "https://printer.local/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.0.0.1./",
    "https://0/",
    "https://0.0.0.0/",
    "https://10.0.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://168.63.129.16/",
    "https://100.100.100.200/",
    "https://172.31.255.255/",
    "https://192.0.0.192/",
    "https://192.168.1.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://256.1.1.1/",
    "https://[::]/",
    "https://[::1]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:93.184.215.14]/",
    "https://[64:ff9b::a00:1]/",
    "https://[64:ff9b::169.254.169.254]/",
    "https://[64:ff9b:1::1]/",
    "https://[2001::1]/",
    "https://[2001:db8::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:5db8:d70e::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[4000::1]/",
    "https://[v1.fe80::a]/",
    "https://[1:2/",
    "https://[127.0.0.1]/",
]
TAKEN = {
    "https://example.com": ("example.com", 443, "/"),
    "HTTPS://Example.COM/a?b=c%20d": ("example.com", 443, "/a?b=c%20d"),
    "https://xn--exmple-cua.com:8443/": ("xn--exmple-cua.com", 8443, "/"),
    "https://example.com?x": ("example.com", 443, "/?x"),
    "https://93.184.215.14/": (PUBLIC, 443, "/"),
    "https://[2606:2800:21f:CB07:6820:80da:af6b:8b2c]/": ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 443, "/"),
    "https://[64:ff9b::93.184.215.14]/": ("64:ff9b::5db8:d70e", 443, "/"),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


@pytest.mark.parametrize("url", REFUSED)
def test_url_that_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused) as caught:
        check_url(url, STRICT)
    assert caught.value.remedy


@pytest.mark.parametrize("url", TAKEN)
def test_url_that_is_taken(url: str) -> None:
    target = check_url(url, STRICT)
    assert (target.host, target.port, target.path) == TAKEN[url]


@given(st.ip_addresses())
@example(IPv4Address("100.64.0.0"))
@example(IPv6Address("::ffff:8.8.8.8"))
@example(IPv6Address("64:ff9b::10.0.0.1"))
@example(IPv6Address("2002:808:808::"))
def test_nothing_public_is_what_python_calls_not_global(address: IPv4Address | IPv6Address) -> None:
    if address in NAT64:
        assert is_public(address) == is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    elif not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(address)
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour):
        assert not is_public(address)


@given(
    st.sampled_from(["0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"]).flatmap(
        lambda network: st.ip_addresses(network=network)
    ),
    st.sampled_from(["dotted", "decimal", "hex", "octal", "short", "mapped", "compatible", "nat64", "6to4"]),
)
def test_private_addresses_are_refused_in_every_spelling(address: IPv4Address, form: str) -> None:
    number, parts = int(address), str(address).split(".")
    high, low = number >> 16, number & 0xFFFF
    host = {
        "dotted": str(address),
        "decimal": str(number),
        "hex": hex(number),
        "octal": ".".join(f"0{int(part):o}" for part in parts),
        "short": f"{parts[0]}.{number & 0xFFFFFF}",
        "mapped": f"[::ffff:{address}]",
        "compatible": f"[::{address}]",
        "nat64": f"[64:ff9b::{address}]",
        "6to4": f"[2002:{high:x}:{low:x}::1]",
    }[form]
    with pytest.raises(OutboundRefused):
        check_url(f"https://{host}/", STRICT)
    with pytest.raises(OutboundRefused):
        check_url(f"http://{host}:80/", HTTP)


@given(st.text())
def test_any_text_is_refused_or_names_one_plain_host(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}.example.com/", f"https://example.com{text}"):
        try:
            target = check_url(url, STRICT)
        except OutboundRefused:
            continue
        assert target.host.isascii()
        assert not set(target.host) & set("@/\\?#% ")
        assert target.port in PORTS


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.1"],
        ["fe80::1%eth0"],
        ["::ffff:10.0.0.1"],
        *([str(address)] for address in METADATA),
    ],
)
def test_name_with_an_address_that_is_not_public(found: list[str]) -> None:
    with pytest.raises(OutboundRefused) as caught:
        addresses_of(check_url("https://example.com/", STRICT), STRICT, lambda host, port: found)
    assert found[-1] not in str(caught.value) + caught.value.remedy


def test_what_the_operator_allows() -> None:
    policy = OutboundPolicy.of(http=True, ports=PORTS, allow=["Hooks.lan", "10.1.0.0/16", "fd00::/8"])
    assert check_url("http://hooks.lan:9000/", policy).port == 9000
    assert check_url("http://10.1.2.3:9000/", policy).host == "10.1.2.3"
    named = check_url("https://example.com/", policy)
    assert addresses_of(named, policy, lambda host, port: ["10.1.2.3"]) == [ip_address("10.1.2.3")]
    for url in ("http://10.2.0.1/", "http://[fd00:ec2::254]/", "http://hooks.lan.example.com:9000/"):
        with pytest.raises(OutboundRefused):
            check_url(url, policy)
    listed = check_url("http://hooks.lan/", policy)
    with pytest.raises(OutboundRefused):
        addresses_of(listed, policy, lambda host, port: ["169.254.169.254"])


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "", "a b", "127.1", "https://a.lan"])
def test_entry_that_allows_nothing(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        OutboundPolicy.of(http=False, ports=(), allow=[entry])


def test_the_name_is_resolved_once_and_the_connection_goes_there(receiver: Receiver) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    policy = OutboundPolicy.of(http=True, ports=[receiver.port], allow=["127.0.0.1"])
    url = f"http://rebind.example.com:{receiver.port}/a?b"
    assert post(url, b"x", {}, policy, timeout=5, resolve=rebinding).status == 204
    assert answers == [["127.0.0.2"]]
    assert receiver.messages[0].headers["Host"] == f"rebind.example.com:{receiver.port}"
    assert (receiver.messages[0].path, receiver.messages[0].body) == ("/a?b", b"x")
    with pytest.raises(OutboundRefused):
        post(url, b"x", {}, policy, timeout=5, resolve=rebinding)
    assert len(receiver.messages) == 1


def test_redirects_are_answers(receiver: Receiver) -> None:
    with listening() as other:
        receiver.behaviour = answering(302, Location=other.url)
        assert post(receiver.url, b"", {}, LOCAL, timeout=5).status == 302
        assert other.messages == []


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert post(receiver.url, b"", {}, LOCAL, timeout=5).status == 204


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_receiver_that_does_not_end(receiver: Receiver, how: str) -> None:
    receiver.behaviour = getattr(receiver, how)
    with pytest.raises(OutboundFailed, match=r"no answer within 0\.3 seconds"):
        post(receiver.url, b"", {}, LOCAL, timeout=0.3)


def test_only_the_beginning_of_an_answer_is_read(receiver: Receiver) -> None:
    receiver.behaviour = answering(500, b"a" * (LONGEST_ANSWER * 50), Retry_After="7")
    answer = post(receiver.url, b"", {}, LOCAL, timeout=5)
    assert (answer.status, answer.retry_after, len(answer.start)) == (500, "7", LONGEST_ANSWER)


def test_nobody_there() -> None:
    with pytest.raises(OutboundFailed, match="refused"):
        post("http://127.0.0.1:1/", b"", {}, LOCAL, timeout=5)
    with pytest.raises(OutboundFailed, match="not found"):
        post("https://example.com/", b"", {}, STRICT, timeout=5, resolve=_nothing)


@pytest.fixture
def hanging() -> Iterator[Callable[[str, int], Sequence[str]]]:
    """A name server that does not answer until the test is over."""
    over = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        assert over.wait(timeout=60)
        return ["127.0.0.1"]

    yield resolve
    over.set()


def test_a_name_server_that_hangs(hanging: Resolver) -> None:
    began = time.monotonic()
    with pytest.raises(OutboundFailed, match=r"not found within 0\.2 seconds"):
        post("https://example.com/", b"", {}, STRICT, timeout=0.2, resolve=hanging)
    assert time.monotonic() - began < 2
    target = check_url("https://example.com/", STRICT)
    with pytest.raises(OutboundFailed, match=r"within 0\.1 seconds"):
        addresses_of(target, STRICT, hanging, timeout=0.1)


def test_the_lookup_has_a_limit_of_its_own_and_counts(
    receiver: Receiver, hanging: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "LOOKUP_SECONDS", 0.1)
    with pytest.raises(OutboundFailed, match=r"not found within 0\.1 seconds"):
        post("https://example.com/", b"", {}, STRICT, timeout=30, resolve=hanging)
    monkeypatch.setattr(outbound, "LOOKUP_SECONDS", 5.0)
    receiver.behaviour = receiver.hang
    policy = OutboundPolicy.of(http=True, ports=[receiver.port], allow=["127.0.0.1"])

    def slow(host: str, port: int) -> Sequence[str]:
        time.sleep(0.5)
        return ["127.0.0.1"]

    began = time.monotonic()
    with pytest.raises(OutboundFailed, match="no answer within 1 seconds"):
        post(f"http://a.example.com:{receiver.port}/", b"", {}, policy, timeout=1, resolve=slow)
    assert time.monotonic() - began < 1.4


def test_lookups_that_hang_do_not_pile_up(hanging: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_places", threading.BoundedSemaphore(2))
    target = check_url("https://example.com/", STRICT)
    asked = []

    def counted(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return hanging(host, port)

    for _ in range(5):
        with pytest.raises(OutboundFailed):
            addresses_of(target, STRICT, counted, timeout=0.05)
    assert len(asked) == 2


def test_places_of_lookups_come_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_places", threading.BoundedSemaphore(1))
    target = check_url("https://example.com/", STRICT)
    for _ in range(5):
        assert addresses_of(target, STRICT, lambda host, port: [PUBLIC]) == [ip_address(PUBLIC)]
        with pytest.raises(OutboundFailed, match="was not found"):
            addresses_of(target, STRICT, _nothing)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of hooks.example.com, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(certificate: Path) -> None:
    asked_for: list[str | None] = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    serving.sni_callback = lambda connection, name, context: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=certificate)
    with listening(serving) as receiver:
        policy = OutboundPolicy.of(http=False, ports=[receiver.port], allow=["127.0.0.1"])

        def send(host: str, tls: ssl.SSLContext) -> int:
            url = f"https://{host}:{receiver.port}/"
            return post(url, b"x", {}, policy, timeout=5, tls=tls, resolve=lambda *_: ["127.0.0.1"]).status

        assert send("hooks.example.com", trusting) == 204
        with pytest.raises(OutboundFailed, match="certificate was not accepted"):
            send("other.example.com", trusting)
        with pytest.raises(OutboundFailed, match="certificate was not accepted"):
            send("hooks.example.com", ssl.create_default_context())
        assert len(receiver.messages) == 1
    assert asked_for == ["hooks.example.com", "other.example.com", "hooks.example.com"]


def test_receiver_without_tls(receiver: Receiver) -> None:
    with pytest.raises(OutboundFailed, match="TLS"):
        post(
            receiver.url.replace("http", "https"), b"", {}, LOCAL, timeout=5, tls=ssl.create_default_context()
        )


def _nothing(host: str, port: int) -> Sequence[str]:
    raise OSError("no such name")
