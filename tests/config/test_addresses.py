"""Listening addresses and URLs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.addresses import (
    is_host,
    is_loopback,
    parse_endpoint,
    parse_listen,
    parse_url,
    tcp_address,
    tcp_endpoint,
)
from tests.profiles import examples


class ListenTests(SynchronousTestCase):
    """``listen`` and ``listen_port``."""

    def test_addresses(self) -> None:
        for text, host in (
            ("127.0.0.1", "127.0.0.1"),
            ("::", "::"),
            ("localhost", "127.0.0.1"),
            ("0:0::1", "::1"),
        ):
            self.assertEqual(parse_listen(text), host)
        for text in ("", "example.org", "127.0.0.1:80", "[::1]", "1.2.3", "*"):
            self.assertRaises(ValueError, parse_listen, text)

    def test_who_can_reach_it(self) -> None:
        for text, local in (
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("0.0.0.0", False),
            ("::", False),
        ):
            self.assertEqual(tcp_address(text, 1).is_local, local, text)

    def test_text(self) -> None:
        self.assertEqual(tcp_address("127.0.0.1", 80).text, "127.0.0.1:80")
        self.assertEqual(tcp_address("::1", 80).text, "[::1]:80")

    def test_twisted_listens_there(self) -> None:
        for listen, kind in (("127.0.0.1", IPv4Address), ("::", IPv6Address), ("2001:db8::1", IPv6Address)):
            reactor = MemoryReactor()
            serverFromString(reactor, tcp_endpoint(listen, 8080)).listen(Factory())
            ((port, _, _, interface),) = reactor.tcpServers
            self.assertEqual((port, interface), (8080, listen), kind)

    def test_overlaps(self) -> None:
        for first, second, clash in (
            (("127.0.0.1", 80), ("127.0.0.1", 80), True),
            (("127.0.0.1", 80), ("127.0.0.1", 81), False),
            (("127.0.0.1", 80), ("0.0.0.0", 80), True),
            (("::1", 80), ("::", 80), True),
            (("::", 80), ("0.0.0.0", 80), False),
            (("127.0.0.1", 80), ("127.0.0.2", 80), False),
            (("127.0.0.1", 0), ("127.0.0.1", 0), True),
            (("127.0.0.1", 0), ("0.0.0.0", 0), False),
        ):
            a, b = tcp_address(*first), tcp_address(*second)
            self.assertEqual((a.overlaps(b), b.overlaps(a)), (clash, clash), (first, second))


class EndpointTests(SynchronousTestCase):
    """Twisted's endpoint descriptions, as far as this program parses them."""

    def test_known_kinds(self) -> None:
        for text, host, port, local in (
            ("tcp:8080", "0.0.0.0", 8080, False),
            ("tcp:port=8080", "0.0.0.0", 8080, False),
            ("tcp:8080:interface=127.0.0.1", "127.0.0.1", 8080, True),
            (r"tcp:8080:interface=\:\:1", "::1", 8080, True),
            (r"tcp6:8080", "::", 8080, False),
            ("ssl:443:privateKey=a.pem:interface=127.0.0.1", "127.0.0.1", 443, True),
            ("haproxy:tcp:8080", "0.0.0.0", 8080, False),
            ("haproxy:tcp:8080:interface=127.0.0.1", "127.0.0.1", 8080, True),
            ("unix:/run/a.sock:mode=660", "/run/a.sock", None, True),
            ("unix:address=/run/a.sock", "/run/a.sock", None, True),
            ("systemd:domain=INET:index=0", "", None, False),
            ("systemd:domain=UNIX:index=0", "", None, True),
            ("onion:80", "", None, False),
        ):
            address = parse_endpoint(text)
            self.assertEqual((address.host, address.port, address.is_local), (host, port, local), text)

    def test_malformed(self) -> None:
        for text in (
            "",
            "8080",
            "tcp",
            "tcp:",
            "tcp:http",
            "tcp:70000",
            "tcp:" + "9" * 5000,
            "tcp:\uff18\uff10",
            "tcp:80:interface=::1",
            "tcp:80:interface=example.org",
            "unix:",
            "haproxy:",
            "haproxy:tcp",
            "tcp:80\\",
            "tcp:80\n",
            ":80",
            "/run/a.sock",
        ):
            self.assertRaises(ValueError, parse_endpoint, text)

    def test_overlaps(self) -> None:
        tcp, unix = parse_endpoint("haproxy:tcp:8080"), parse_endpoint("unix:/run/a")
        self.assertTrue(tcp.overlaps(tcp_address("127.0.0.1", 8080)))
        self.assertTrue(unix.overlaps(parse_endpoint("unix:/run/a:mode=600")))
        self.assertFalse(unix.overlaps(parse_endpoint("unix:/run/b")))
        self.assertFalse(unix.overlaps(tcp))
        systemd = parse_endpoint("systemd:domain=INET:index=0")
        self.assertTrue(systemd.overlaps(systemd))
        self.assertFalse(systemd.overlaps(parse_endpoint("systemd:domain=INET:index=1")))

    @examples(300)
    @given(st.text(st.sampled_from("tcpunixhaproxyssl:=\\/10[]. \n"), max_size=30))
    def test_garbage(self, text: str) -> None:
        try:
            parse_endpoint(text)
        except ValueError:
            pass


class URLTests(SynchronousTestCase):
    """Base URLs."""

    def test_valid(self) -> None:
        for text in (
            "https://ccm.example.org",
            "http://127.0.0.1:8080/",
            "https://[::1]:8443/prefix",
            "HTTPS://Example.org./a/b",
            "https://my_host",
        ):
            self.assertIn(parse_url(text).scheme, ("http", "https"))

    def test_malformed(self) -> None:
        for text in (
            "",
            "example.org",
            "ftp://example.org",
            "https://",
            "https://:80",
            "https://h:0",
            "https://h:70000",
            "https://h:x",
            "https://[::1",
            "https://[fe80::1%25eth0]:8443",
            "https://[fe80::1%eth0]",
            "https://a b",
            "https://a\n",
            "https://ä.org",
            "https://u:p@h",
            "https://@h",
            "https://h?x",
            "https://h/#x",
            "https://h?",
            "https://1.2.3",
            "https://a..b",
            "https://-a",
        ):
            self.assertRaises(ValueError, parse_url, text)

    def test_not_repeated(self) -> None:
        for text in ("s3cr3t://h", "https://s3cr3t@h", "https://s3cr3t:1@h:x", "s3cr3t", "https://h?s3cr3t"):
            with self.assertRaises(ValueError) as caught:
                parse_url(text)
            self.assertNotIn("s3cr3t", str(caught.exception))

    def test_hosts(self) -> None:
        self.assertTrue(all(map(is_host, ("a", "a.b", "1.2.3.4", "::1", "a-b.c."))))
        self.assertFalse(any(map(is_host, ("", "a b", "a:80", "1.2", "-", "a/b", "a..b", ".a", "."))))

    def test_lengths(self) -> None:
        """A label has at most 63 characters, a name 253; the resolver raises an error for longer ones."""
        label, longest = "a" * 63, ".".join(["a" * 49] * 5) + ".abc"
        self.assertTrue(all(map(is_host, (f"{label}.{label}", longest, f"{longest}."))))
        self.assertFalse(any(map(is_host, (f"a{label}.b", f"b.a{label}", f"{longest}d"))))

    def test_loopback(self) -> None:
        self.assertTrue(all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "LocalHost."))))
        self.assertFalse(any(map(is_loopback, ("10.0.0.1", "localhost.example.org", "", "0.0.0.0"))))
