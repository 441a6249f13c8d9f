"""Tests of :mod:`ccmproxy.credentials.control`: real HTTP over an in-memory network."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import zstandard
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.config import ProxyOutboundConfig
from ccmproxy.credentials.control import MAX_ANSWER, Answer, ControlClient, ControlError
from ccmproxy.dialects.oauth import ControlRequest
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.testing.pump import KIB, MemoryNetwork
from ccmproxy.transports.outbounds import ProxyOutbound
from ccmproxy.transports.tls import ClientTLS
from tests.logged import log_events
from tests.transports.proxies import ConnectProxy

#: What a peer that never ends is allowed to send before a test gives up on it (bytes).
ENOUGH = 4 * KIB * KIB
REQUEST = ControlRequest(
    "POST", "https://token.example/v1/token?x=1", (("Content-Type", "application/json"),), b'{"a": 1}'
)


@implementer(IOutbound)
class MemoryOutbound:
    """An outbound into an in-memory network that records the endpoints it was asked for."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.asked: list[tuple[str, int, bool]] = []

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        self.asked.append((host, port, tls))
        return self.network.endpoint(host, port)


class Peer(Protocol):
    """Collects what it receives, and answers when the request is complete. ``is_lost``: the connection has ended."""

    is_lost = False

    def __init__(self, received: list[bytes], answer: Callable[[Peer], None]) -> None:
        self._received = received
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        self._received.append(data)
        received = b"".join(self._received)
        if b"\r\n\r\n" in received and (b"Content-Length" not in received or received.endswith(b"}")):
            self._answer(self)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.is_lost = True

    def say(self, data: bytes, close: bool = False) -> None:
        assert self.transport is not None
        self.transport.write(data)
        if close:
            self.transport.loseConnection()


class ControlCase(SynchronousTestCase):
    """A client, and the upstream ``token.example``."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.outbound = MemoryOutbound(self.network)
        self.client = ControlClient(self.clock, self.outbound)
        self.received: list[bytes] = []

    def serve(self, answer: Callable[[Peer], None]) -> None:
        factory = Factory.forProtocol(lambda: Peer(self.received, answer))
        factory.noisy = False
        self.network.listen("token.example", 443, factory)

    def fetch(self, request: ControlRequest = REQUEST) -> Deferred[Answer]:
        fetching = Deferred.fromCoroutine(self.client.fetch(request))
        self.network.flush()
        self.clock.advance(0)  # A failure to connect is told in the next turn of the reactor.
        self.network.flush()
        return fetching

    def answered(self, *parts: bytes) -> Answer:
        """Return the answer to a request when the upstream sends ``parts``."""
        self.serve(lambda peer: peer.say(b"".join(parts)))
        return self.successResultOf(self.fetch())

    def failed(self, fetching: Deferred[Answer]) -> str:
        return str(self.failureResultOf(fetching, ControlError).value)

    def closed(self) -> None:
        """Assert that no connection and no timer is left."""
        self.network.flush()
        self.assertTrue(all(pump.closed for pump in self.network.connections))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ControlTests(ControlCase):
    def test_whole_exchange(self) -> None:
        answer = self.answered(
            b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\n",
            b"hel",
            b"lo",
        )
        self.assertEqual(answer.status, 429)
        self.assertEqual(answer.body, b"hello")
        self.assertEqual((answer.headers["retry-after"], answer.headers["x-a"]), ("7", "1,2"))
        sent = b"".join(self.received)
        self.assertTrue(sent.startswith(b"POST /v1/token?x=1 HTTP/1.1\r\n"), sent)
        self.assertIn(b"\r\nContent-Type: application/json\r\n", sent)
        self.assertIn(b"\r\nHost: token.example\r\n", sent)
        self.assertTrue(sent.endswith(b'\r\n\r\n{"a": 1}'), sent)
        self.closed()

    def test_f30_through_the_outbound_only(self) -> None:
        self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.outbound.asked, [("token.example", 443, True)])

    def test_own_port_without_tls(self) -> None:
        fetching = self.fetch(ControlRequest("GET", "http://127.0.0.1:8123/usage"))
        self.assertEqual(self.outbound.asked, [("127.0.0.1", 8123, False)])
        self.assertIn("ConnectionRefused", self.failed(fetching))

    def test_an_ipv6_address(self) -> None:
        for url, port, host in (
            ("https://[2001:db8::1]/v1/token?x=1", 443, b"[2001:db8::1]"),
            ("https://[::1]:8443/v1/token?x=1", 8443, b"[::1]:8443"),
        ):
            address = host.decode().partition("]")[0].removeprefix("[")
            factory = Factory.forProtocol(
                lambda: Peer(
                    self.received, lambda peer: peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                )
            )
            self.network.listen(address, port, factory)
            self.received.clear()
            answer = self.successResultOf(self.fetch(ControlRequest("GET", url, ())))
            self.assertEqual((answer.status, answer.body), (200, b"ok"))
            received = b"".join(self.received)
            self.assertTrue(received.startswith(b"GET /v1/token?x=1 HTTP/1.1\r\n"))
            self.assertIn(b"Host: " + host + b"\r\n", received)

    def test_a_path_passes_as_it_is(self) -> None:
        self.serve(lambda peer: peer.say(b"HTTP/1.1 204 OK\r\n\r\n"))
        self.fetch(ControlRequest("GET", "https://token.example/a%2fb/%C3%A4/..;/c", ()))
        self.assertTrue(b"".join(self.received).startswith(b"GET /a%2fb/%C3%A4/..;/c HTTP/1.1\r\n"))

    def test_chunked_and_compressed(self) -> None:
        packed = gzip.compress(b"hello")
        answer = self.answered(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
        )
        self.assertEqual(answer.body, b"hello")

    def test_no_body(self) -> None:
        self.assertEqual(self.answered(b"HTTP/1.1 204 No Content\r\n\r\n").body, b"")

    def test_until_the_connection_ends(self) -> None:
        self.serve(lambda peer: peer.say(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True))
        self.assertEqual(self.successResultOf(self.fetch()).body, b"hello")

    def test_redirects_are_not_followed(self) -> None:
        """A token must not be sent to an address that an answer names."""
        answer = self.answered(
            b"HTTP/1.1 307 Elsewhere\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual(answer.status, 307)
        self.assertEqual(len(self.outbound.asked), 1)

    def test_cookies_are_not_kept(self) -> None:
        self.answered(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
        self.received.clear()
        self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertNotIn(b"cookie", b"".join(self.received).lower())

    def test_refused(self) -> None:
        self.assertEqual(self.failed(self.fetch()), "ConnectionRefusedError")

    def test_refused_by_a_proxy(self) -> None:
        """Only the type of other errors is reported; a proxy's error says what is wrong and quotes nothing."""
        proxy = ConnectProxy(self.network.endpoint, ("me", "s3cr3t"))
        self.network.listen("proxy.test", 3128, proxy)
        config = ProxyOutboundConfig("p", "http", "proxy.test", 3128)
        outbound = ProxyOutbound(config, self.outbound, ClientTLS(), self.clock)
        self.client = ControlClient(self.clock, outbound)
        self.assertEqual(
            self.failed(self.fetch()), "the proxy refuses the tunnel: 407 Proxy Authentication Required"
        )

    def test_closed_without_an_answer(self) -> None:
        self.serve(lambda peer: peer.say(b"", close=True))
        self.assertIn("ResponseNeverReceived", self.failed(self.fetch()))
        self.closed()

    def test_cut_short(self) -> None:
        self.serve(lambda peer: peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", close=True))
        self.assertIn("middle of the answer", self.failed(self.fetch()))
        self.closed()

    def test_not_http(self) -> None:
        self.serve(lambda peer: peer.say(b"SSH-2.0\r\n\r\n", close=True))
        self.assertNotIn("SSH", self.failed(self.fetch()))
        self.closed()

    def test_too_large(self) -> None:
        """This holds also for a body that is small before it is decoded."""
        for body, encoding in (
            (b"x" * (MAX_ANSWER + 1), b"identity"),
            (gzip.compress(bytes(1 << 25)), b"gzip"),
        ):
            head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
            data = head % (encoding, len(body)) + body
            self.serve(lambda peer, data=data: peer.say(data))  # type: ignore[misc]
            self.assertIn("exceeds", self.failed(self.fetch()))
            self.closed()

    def test_silent(self) -> None:
        """The upstream is silent before the head, and in the middle of the body."""
        for said in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"):
            self.serve(lambda peer, said=said: peer.say(said))  # type: ignore[misc]
            fetching = self.fetch()
            self.network.advance(29.9)
            self.assertNoResult(fetching)
            self.network.advance(0.2)
            self.assertEqual(self.failed(fetching), "no answer within 30 s")
            self.closed()

    def test_cancelled(self) -> None:
        for said in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"):
            self.serve(lambda peer, said=said: peer.say(said))  # type: ignore[misc]
            fetching = self.fetch()
            fetching.cancel()
            self.failureResultOf(fetching, CancelledError)
            self.closed()

    def test_secrets_are_not_shown(self) -> None:
        request = ControlRequest("GET", "https://x/", (("Authorization", "Bearer SECRET"),), b"SECRET")
        self.assertNotIn("SECRET", repr(request))
        self.assertNotIn("SECRET", repr(Answer(200, {"x": "SECRET"}, b"SECRET")))

    def test_the_request_as_bytes(self) -> None:
        """Order, names and case of the fields are those that Twisted's Agent and treq give them."""
        for request, expected in (
            (
                REQUEST,
                b"POST /v1/token?x=1 HTTP/1.1\r\nConnection: close\r\nContent-Length: 8\r\n"
                b"Content-Type: application/json\r\nAccept-Encoding: gzip\r\nHost: token.example\r\n\r\n"
                b'{"a": 1}',
            ),
            (
                ControlRequest(
                    "GET",
                    "https://token.example",
                    (("User-Agent", "ua/1"), ("anthropic-beta", "b"), ("Authorization", "Bearer t")),
                ),
                b"GET / HTTP/1.1\r\nConnection: close\r\nUser-Agent: ua/1\r\nAnthropic-Beta: b\r\n"
                b"Authorization: Bearer t\r\nAccept-Encoding: gzip\r\nHost: token.example\r\n\r\n",
            ),
        ):
            self.received.clear()
            self.serve(lambda peer: peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
            self.fetch(request)
            self.assertEqual(b"".join(self.received), expected)

    def test_time_that_the_caller_names(self) -> None:
        """There is one timer for each request, whatever the time."""
        self.serve(lambda peer: peer.say(b""))
        fetching = Deferred.fromCoroutine(self.client.fetch(REQUEST, 5))
        self.network.flush()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)  # and the tick of the connections
        self.network.advance(4.9)
        self.assertNoResult(fetching)
        self.network.advance(0.2)
        self.assertEqual(self.failed(fetching), "no answer within 5 s")
        self.closed()

    def test_codings_that_nobody_asked_for(self) -> None:
        """F59: they are read, too."""
        for coding, data in (
            (b"gzip", gzip.compress(b"hel") + gzip.compress(b"lo")),
            (b"br", brotli.compress(b"hello")),
            (b"deflate", zlib.compress(b"hello")),
            (b"zstd", zstandard.compress(b"hello")),
        ):
            head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
            answer = self.answered(head % (coding, len(data)) + data)
            self.assertEqual(answer.body, b"hello", coding)

    def test_a_body_that_cannot_be_decoded(self) -> None:
        """The status of a refusal counts without it; of a success nothing is left."""
        for coding in (b"gzip", b"nonsense"):
            said = b"Content-Encoding: %b\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nhello" % coding
            answer = self.answered(b"HTTP/1.1 429 No\r\n" + said)
            self.assertEqual((answer.status, answer.headers["retry-after"], answer.body), (429, "7", b""))
            self.serve(lambda peer, said=said: peer.say(b"HTTP/1.1 200 OK\r\n" + said))  # type: ignore[misc]
            self.assertIn("cannot be decoded", self.failed(self.fetch()))
            self.closed()


class EndlessTests(ControlCase):
    """F64: answers that never come to an end. What is read and kept of them is bounded, and they are not logged."""

    def setUp(self) -> None:
        super().setUp()
        self.events = log_events(self)
        self.peers: list[Peer] = []

    def pour(self, begin: bytes, piece: bytes) -> tuple[int, str]:
        """Answer with ``begin``, and then ``piece`` again and again. Returns how many bytes were sent before we ended
        it (at most ENOUGH), and what the request failed with."""
        self.serve(self.peers.append)
        fetching = self.fetch()
        peer = self.peers[-1]
        peer.say(begin)
        sent = 0
        while not peer.is_lost and sent < ENOUGH:
            peer.say(piece)
            self.network.flush()
            sent += len(piece)
        problem = self.failed(fetching) if peer.is_lost else "not ended"
        self.closed()
        self.assertEqual(self.events, [])
        return sent, problem

    def test_headers(self) -> None:
        tracemalloc.start()
        try:
            sent, problem = self.pour(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 400)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(sent, 100 * KIB)
        self.assertLess(peak, 2048 * KIB)
        self.assertIn("head of the upstream's response is too large", problem)

    def test_interim_answers(self) -> None:
        sent, problem = self.pour(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10)
        self.assertLess(sent, 100 * KIB)
        self.assertIn("interim", problem)

    def test_chunks_extensions_and_trailers(self) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for begin, piece, most in (
            (b"", b"1000\r\n" + bytes(4096) + b"\r\n", MAX_ANSWER),
            (b"1;a=", b"b" * 4096, 64 * KIB),
            (b"0\r\n", b"X-Trailer: b\r\n" * 400, 64 * KIB),
        ):
            sent, _ = self.pour(chunked + begin, piece)
            self.assertLess(sent, most + 100 * KIB, begin)

    def test_until_the_connection_ends_which_it_does_not(self) -> None:
        sent, problem = self.pour(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 8192)
        self.assertLess(sent, MAX_ANSWER + 100 * KIB)
        self.assertIn("exceeds", problem)

    def test_bytes_behind_a_compressed_body(self) -> None:
        """A decompressor puts nothing out for them, so that only a bound on what comes in ends them."""
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
        sent, problem = self.pour(head + gzip.compress(b"{}"), b"x" * 8192)
        self.assertLess(sent, MAX_ANSWER + 100 * KIB)
        self.assertIn("exceeds", problem)

    def test_what_a_small_body_becomes(self) -> None:
        """Neither a coding nor a coding within a coding makes much of it."""
        bomb = gzip.compress(bytes(1 << 26))
        for coding, data in ((b"gzip", bomb), (b"gzip, gzip", gzip.compress(bomb))):
            head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
            said = head % (coding, len(data)) + data
            self.serve(lambda peer, said=said: peer.say(said))  # type: ignore[misc]
            tracemalloc.start()
            try:
                self.assertIn("exceeds", self.failed(self.fetch()))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            self.assertLess(peak, 8 * MAX_ANSWER, coding)
            self.closed()
        self.assertEqual(self.events, [])
