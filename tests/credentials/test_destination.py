"""Tests of :mod:`ccmproxy.credentials.destination`: the parts of base URLs."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.destination import host_field, origin, upstream_of
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.testing.pump import MemoryNetwork


class DestinationTests(SynchronousTestCase):
    """Which part of a URL is used where."""

    def test_host_field(self) -> None:
        for url, host in (
            ("https://api.example", b"api.example"),
            ("https://api.example:443/x", b"api.example"),
            ("http://api.example:443", b"api.example:443"),
            ("http://127.0.0.1:8080", b"127.0.0.1:8080"),
            ("http://[::1]:80", b"[::1]"),
            ("http://[::1]:8080/path", b"[::1]:8080"),
        ):
            self.assertEqual(host_field(url), host)

    def test_base_path(self) -> None:
        clock = Clock()
        connections = ConnectionPool(MemoryNetwork(clock).endpoint("api.example", 443), clock)
        for url, path in (
            ("https://api.example", b""),
            ("https://api.example/", b""),
            ("https://api.example/a/b/", b"/a/b"),
        ):
            upstream = upstream_of(url, connections)
            self.assertEqual((upstream.host, upstream.base_path), (b"api.example", path))
            self.assertIs(upstream.connections, connections)

    def test_origin(self) -> None:
        for url, expected in (
            ("https://api.example", ("api.example", 443, True)),
            ("http://api.example/a", ("api.example", 80, False)),
            ("https://api.example:8443/a/", ("api.example", 8443, True)),
            ("http://[::1]:8080", ("::1", 8080, False)),
        ):
            self.assertEqual(origin(url), expected)
