"""Responses on the wire, and what their handler is told meanwhile."""

from __future__ import annotations

from http.client import IncompleteRead

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from ccmproxy.http.failures import BodyTooLarge
from ccmproxy.http.message import Body, Headers, ResponseHead
from ccmproxy.http.server.factory import ServerRequest
from tests.http.conversation import OK, Client, ServerTestCase, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD_GET = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def head(*headers: tuple[bytes, bytes], status: int = 200) -> ResponseHead:
    """A response head with these fields."""
    return ResponseHead(status, b"Reason", list(headers))


@implementer(IPushProducer)
class Producer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class RequestTestCase(ServerTestCase):
    """One request that is waiting for its answer."""

    def ask(self, raw: bytes = GET) -> tuple[Client, ServerRequest]:
        """Send a request; the connection and the request."""
        client = self.connect()
        client.send(raw)
        return client, self.requests.pop()

    def wire(self, raw: bytes, head: ResponseHead, *pieces: bytes) -> tuple[bytes, bool]:
        """The bytes that a client receives for this response, and whether the connection closes after it. They must be
        the same whether the head is sent alone or together with the first piece of the body."""
        apart = self.wire_with(raw, head, False, *pieces)
        self.assertEqual(self.wire_with(raw, head, True, *pieces), apart)
        return apart

    def wire_with(self, raw: bytes, head: ResponseHead, together: bool, *pieces: bytes) -> tuple[bytes, bool]:
        """Like :meth:`wire`, with the head sent in one of the two ways."""
        client, request = self.ask(raw)
        first, *rest = pieces if together and pieces else (b"", *pieces)
        request.start_response(ResponseHead(head.status, head.reason, list(head.headers)), first)
        if not first:
            self.flush()
            self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        for piece in rest:
            request.write(piece)
        request.finish()
        self.flush()
        return bytes(client.received), client.lost is not None


class FramingTests(RequestTestCase):
    """How the end of a response is marked."""

    def test_whole_response(self) -> None:
        client, request = self.ask()
        request.respond(head((b"X-a", b"1"), (b"x-A", b"\xe9"), (b"content-length", b"99")), b"hello")
        self.flush()
        self.assertEqual(
            client.received, b"HTTP/1.1 200 Reason\r\nX-a: 1\r\nx-A: \xe9\r\nContent-Length: 5\r\n\r\nhello"
        )
        self.assertIsNone(client.lost)

    def test_empty_response(self) -> None:
        client, request = self.ask()
        request.respond(ResponseHead(404, b"", []), b"")
        self.flush()
        self.assertEqual(client.received, b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n")

    def test_known_length(self) -> None:
        received = self.wire(GET, head((b"Content-Length", b"5")), b"he", b"", b"llo")
        self.assertEqual(received, (b"HTTP/1.1 200 Reason\r\nContent-Length: 5\r\n\r\nhello", False))

    def test_chunks(self) -> None:
        received, closed = self.wire(GET, head(), b"hello", b"", b"x" * 20_000)
        self.assertEqual(
            received,
            b"HTTP/1.1 200 Reason\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n",
        )
        self.assertFalse(closed)

    def test_large_whole_response(self) -> None:
        client, request = self.ask()
        request.respond(OK, b"x" * 200_000)
        self.flush()
        self.assertEqual(client.answers("GET"), [(200, b"x" * 200_000)])

    def test_http10(self) -> None:
        self.assertEqual(
            self.wire(OLD_GET, head(), b"hello"),
            (b"HTTP/1.1 200 Reason\r\nConnection: close\r\n\r\nhello", True),
        )
        kept = OLD_GET[:-2] + b"Connection: keep-alive\r\n\r\n"
        received = b"HTTP/1.1 200 Reason\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"
        self.assertEqual(self.wire(kept, head((b"Content-Length", b"2")), b"hi"), (received, False))
        self.assertTrue(self.wire(kept, head(), b"hi")[1])

    def test_head_has_no_body(self) -> None:
        self.assertEqual(
            self.wire(HEAD, head((b"Content-Length", b"5")), b"hello"),
            (b"HTTP/1.1 200 Reason\r\nContent-Length: 5\r\n\r\n", False),
        )
        client, request = self.ask(HEAD)
        request.respond(head(), b"hello")
        self.flush()
        self.assertEqual(client.received, b"HTTP/1.1 200 Reason\r\nContent-Length: 5\r\n\r\n")

    def test_statuses_without_body(self) -> None:
        for status, kept in ((204, b""), (304, b"Content-Length: 5\r\n")):
            received, closed = self.wire(GET, head((b"Content-Length", b"5"), status=status), b"hello")
            self.assertEqual(received, b"HTTP/1.1 %d Reason\r\n%b\r\n" % (status, kept))
            self.assertFalse(closed)
            client, request = self.ask()
            request.respond(head(status=status), b"hello")
            self.flush()
            self.assertEqual(client.received, b"HTTP/1.1 %d Reason\r\n\r\n" % status)

    def test_framing_is_the_servers(self) -> None:
        received, _ = self.wire(
            GET, head((b"Transfer-Encoding", b"gzip"), (b"Keep-Alive", b"x"), (b"Connection", b"x")), b"a"
        )
        self.assertEqual(
            received, b"HTTP/1.1 200 Reason\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        )

    def test_closing(self) -> None:
        asked = GET[:-2] + b"Connection: close\r\n\r\n"
        expected = b"HTTP/1.1 200 Reason\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self.assertEqual(self.wire(asked, head((b"Content-Length", b"0"))), (expected, True))
        told = head((b"Content-Length", b"0"), (b"Connection", b"close"))
        self.assertEqual(self.wire(GET, told), (expected, True))
        client, request = self.ask()
        request.close_after_response()
        request.respond(head(), b"")
        self.flush()
        self.assertEqual((client.received, client.lost), (expected, ConnectionDone))

    def test_closing_decided_late(self) -> None:
        client, request = self.ask()
        request.start_response(head())
        request.close_after_response()
        request.finish()
        self.flush()
        self.assertEqual(client.lost, ConnectionDone)


class BrokenResponseTests(RequestTestCase):
    """Responses that cannot be sent, or that are not completed."""

    def test_abort(self) -> None:
        for body in (head(), head((b"Content-Length", b"9"))):
            client, request = self.ask()
            gone: list[None] = []
            request.on_gone(lambda gone=gone: gone.append(None))  # type: ignore[misc]
            request.start_response(body)
            request.write(b"hello")
            self.flush()
            request.write(b"!")
            request.abort()
            self.flush()
            self.assertEqual(client.lost, ConnectionDone)
            self.assertIn(b"!", client.received, "what was written comes before the end")
            with self.assertRaises(IncompleteRead):
                client.answers("GET")
            request.write(b"more")
            request.finish()
            request.abort()
            self.assertEqual(gone, [])

    def test_shorter_than_announced(self) -> None:
        client, request = self.ask()
        request.start_response(head((b"Content-Length", b"9")))
        request.write(b"hello")
        request.finish()
        self.flush()
        self.assertEqual(client.lost, ConnectionDone)
        with self.assertRaises(IncompleteRead):
            client.answers("GET")

    def test_reset(self) -> None:
        """A reset is used if nothing else shows the truncation, if nothing else can be sent, and on demand."""
        client, request = self.ask(OLD_GET)
        request.start_response(head())
        request.write(b"hello")
        self.flush()
        request.abort()
        self.flush()
        self.assertEqual(client.lost, ConnectionLost)
        client, request = self.ask()
        request.start_response(head())
        request.write(b"hello")
        request.abort(reset=True)
        self.flush()
        self.assertEqual(client.lost, ConnectionLost)

    def test_longer_than_announced(self) -> None:
        client, request = self.ask()
        gone: list[None] = []
        request.on_gone(lambda: gone.append(None))
        request.start_response(head((b"Content-Length", b"5")))
        request.write(b"hello!")
        self.flush()
        self.assertEqual((client.lost, gone), (ConnectionLost, [None]))
        request.finish()

    def test_heads_that_cannot_be_sent(self) -> None:
        bad: list[Headers] = [
            [(b"X", b"a\r\nSet-Cookie: b")],
            [(b"X", b"a\nb")],
            [(b"X", b"a\0")],
            [(b"X\r\nY", b"a")],
            [(b"Content-Length", b"x")],
            [(b"Content-Length", b"5"), (b"Content-Length", b"5")],
        ]
        for headers in bad:
            client, request = self.ask()
            gone: list[None] = []
            request.on_gone(lambda gone=gone: gone.append(None))  # type: ignore[misc]
            request.start_response(ResponseHead(200, b"OK", headers))
            request.write(b"hello")
            request.finish()
            self.wait(3)
            self.assertEqual([status for status, _ in client.answers("GET")], [502])
            self.assertNotIn(b"Cookie", client.received)
            self.assertEqual((client.lost, gone), (ConnectionDone, [None]))
        for status, reason in ((200, b"OK\r\nX: y"), (101, b"Switching"), (1000, b"")):
            client, request = self.ask()
            request.respond(ResponseHead(status, reason, []), b"hello")
            self.assertTrue(request.is_over)
            self.wait(3)
            self.assertEqual([status for status, _ in client.answers("GET")], [502])

    def test_out_of_order(self) -> None:
        _, request = self.ask()
        for call in (lambda: request.write(b"x"), request.finish):
            with self.assertRaises(RuntimeError):
                call()
        request.start_response(head())
        for call in (
            lambda: request.start_response(head()),
            lambda: request.respond(head(), b""),
            lambda: request.receive_body(1, lambda body: None, lambda error: None),
            lambda: request.take_over(Protocol()),
        ):
            with self.assertRaises(RuntimeError):
                call()
        request.finish()
        for call in (lambda: request.write(b"x"), request.finish, lambda: request.start_response(head())):
            with self.assertRaises(RuntimeError):
                call()


class GoneTests(RequestTestCase):
    """Clients that go away."""

    def test_while_waiting(self) -> None:
        for leave in ("loseConnection", "abortConnection", "loseWriteConnection"):
            client, request = self.ask()
            gone: list[None] = []
            request.on_gone(lambda gone=gone: gone.append(None))  # type: ignore[misc]
            getattr(client.transport, leave)()
            self.flush()
            self.assertEqual(gone, [None], leave)
            self.assertTrue(request.is_over)
            # From now on, all of these calls have no effect.
            request.receive_body(10, self.fail, self.fail)
            request.register_producer(Producer())
            request.start_response(head())
            request.write(b"x")
            request.finish()
            request.respond(head(), b"")
            request.abort()
            request.take_over(Protocol())
            self.assertEqual(gone, [None])

    def test_while_streaming(self) -> None:
        client, request = self.ask()
        gone: list[None] = []
        request.on_gone(lambda: gone.append(None))
        request.start_response(head())
        request.write(b"x")
        client.transport.loseConnection()
        self.flush()
        self.assertEqual(gone, [None])

    def test_while_sending_the_body(self) -> None:
        client, request = self.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        gone: list[None] = []
        request.on_gone(lambda: gone.append(None))
        request.receive_body(10, self.fail, self.fail)
        client.transport.loseConnection()
        self.flush()
        self.assertEqual(gone, [None])

    def test_not_after_the_end(self) -> None:
        client, request = self.ask()
        request.on_gone(self.fail)
        request.respond(head(), b"")
        client.transport.loseConnection()
        self.flush()
        client, request = self.ask()
        request.on_gone(self.fail)
        request.on_gone(None)
        client.transport.loseConnection()
        self.flush()

    def test_with_pipelined_requests_waiting(self) -> None:
        client, request = self.ask(GET + GET * 500)
        gone: list[None] = []
        request.on_gone(lambda: gone.append(None))
        client.transport.loseConnection()
        self.flush()
        self.assertEqual(gone, [None])
        self.assertEqual(self.requests, [])


class BackPressureTests(RequestTestCase):
    """Clients that read slowly."""

    def test_producer_waits_for_the_client(self) -> None:
        client, request = self.ask()
        producer = Producer()
        request.start_response(head())
        request.register_producer(producer)
        client.transport.pauseProducing()
        while not producer.calls:
            request.write(b"x" * 10_000)
            client.pump.flush()
        self.assertEqual(producer.calls, ["pause"])
        self.assertLess(client.pump.server.written, 300_000)
        client.transport.resumeProducing()
        self.flush()
        self.assertEqual(producer.calls, ["pause", "resume"])
        request.unregister_producer()
        request.finish()
        client.transport.pauseProducing()
        self.flush()
        self.assertEqual(producer.calls, ["pause", "resume"])

    def test_registered_while_blocked(self) -> None:
        client, request = self.ask()
        request.start_response(head())
        client.transport.pauseProducing()
        request.write(b"x" * 200_000)
        producer = Producer()
        request.register_producer(producer)
        self.assertEqual(producer.calls, ["pause"])
        with self.assertRaises(RuntimeError):
            request.register_producer(Producer())

    def test_not_told_of_the_end(self) -> None:
        client, request = self.ask()
        producer = Producer()
        request.register_producer(producer)
        client.transport.loseConnection()
        self.flush()
        self.assertEqual(producer.calls, [])

    def test_one_who_never_reads_is_dropped(self) -> None:
        client, request = self.ask()
        gone: list[None] = []
        request.on_gone(lambda: gone.append(None))
        request.start_response(head())
        client.transport.pauseProducing()
        request.write(b"x" * 200_000)
        self.wait(599)
        self.assertEqual(gone, [])
        self.wait(3)
        self.assertEqual(gone, [None])
        self.assertEqual(self.factory.connections, set())

    def test_one_who_never_reads_the_end_is_dropped(self) -> None:
        client, request = self.ask(OLD_GET)
        client.transport.pauseProducing()
        request.respond(head(), b"x" * 200_000)
        self.wait(599)
        self.assertEqual(len(self.factory.connections), 1)
        self.wait(3)
        self.assertEqual(self.factory.connections, set())


class HandlerErrorTests(RequestTestCase):
    """Handlers that fail."""

    def test_before_the_response(self) -> None:
        def handler(request: ServerRequest) -> None:
            raise ZeroDivisionError("token-123")

        self.handler = handler
        client = self.connect()
        client.send(GET)
        self.logged(ZeroDivisionError)
        self.wait(3)
        self.assertEqual(client.answers("GET"), [(500, b"internal error\n")])
        self.assertEqual(client.lost, ConnectionDone)

    def test_with_the_body(self) -> None:
        def answer(body: Body) -> None:
            raise ZeroDivisionError

        client, request = self.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        request.receive_body(10, answer, self.fail)
        client.send(b"hello")
        self.logged(ZeroDivisionError)
        self.assertEqual([status for status, _ in client.answers("POST")], [500])

    def test_with_the_error(self) -> None:
        def refuse(error: Exception) -> None:
            assert isinstance(error, BodyTooLarge)
            raise ZeroDivisionError

        client, request = self.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n")
        request.receive_body(10, self.fail, refuse)
        self.flush()
        self.logged(ZeroDivisionError)
        self.assertEqual([status for status, _ in client.answers("POST")], [500])

    def test_after_the_response_began(self) -> None:
        def handler(request: ServerRequest) -> None:
            request.start_response(head())
            raise ZeroDivisionError

        self.handler = handler
        client = self.connect()
        client.send(GET)
        self.logged(ZeroDivisionError)
        self.assertEqual(client.lost, ConnectionLost)

    def test_when_gone(self) -> None:
        client, request = self.ask()

        def gone() -> None:
            raise ZeroDivisionError

        request.on_gone(gone)
        client.transport.loseConnection()
        self.flush()
        self.logged(ZeroDivisionError)
        self.assertEqual(self.factory.connections, set())

    def test_after_the_response(self) -> None:
        """The error does not affect the next request, which may have begun meanwhile."""

        def handler(request: ServerRequest) -> None:
            echo(request)
            if request.head.target == b"/1":
                raise ZeroDivisionError

        self.handler = handler
        client = self.connect()
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        self.logged(ZeroDivisionError)
        self.assertEqual(client.answers("GET", "GET"), [(200, b"GET /1 "), (200, b"GET /2 ")])


class TakeOverTests(RequestTestCase):
    """Connections that continue with another protocol."""

    class Successor(Protocol):
        """Answers in capitals."""

        lost = False

        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(data.upper())

        def connectionLost(self, reason: object = None) -> None:
            self.lost = True

    def test_taking_over(self) -> None:
        client, request = self.ask(GET[:-2] + b"Upgrade: x\r\nConnection: upgrade\r\n\r\nearly ")
        successor = self.Successor()
        request.take_over(successor)
        self.flush()
        client.send(b"late ", GET)
        self.assertEqual(
            client.received, b"HTTP/1.1 101 Switching Protocols\r\n\r\nEARLY LATE " + GET.upper()
        )
        self.wait(1000)
        self.assertIsNone(client.lost)
        client.transport.loseConnection()
        self.flush()
        self.assertTrue(successor.lost)
        self.assertEqual(self.factory.connections, set())

    def test_much_early_data(self) -> None:
        client, request = self.ask(GET)
        client.transport.write(b"x" * 500_000)
        self.flush()
        request.take_over(self.Successor())
        self.flush()
        self.assertEqual(client.received.count(b"X"), 500_000)

    def test_not_before_the_body(self) -> None:
        _, request = self.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        with self.assertRaises(RuntimeError):
            request.take_over(self.Successor())
