"""One connection: how responses are read, and how malformed or truncated ones fail."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure as TwistedFailure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.http.client.connection_pool import ClientLimits, HTTPClientProtocol
from ccmproxy.http.failures import (
    CarrierLost,
    RequestNotSent,
    ResponseLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.http.message import ResponseHead
from ccmproxy.testing.pump import KIB
from ccmproxy.transports.carried import CarrierConnectionLost
from tests.http.upstream import Receiver, Scene
from tests.profiles import examples

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

#: name → (method, response, status, body, whether the connection is kept)
WHOLE: dict[str, tuple[bytes, bytes, int, bytes, bool]] = {
    "length": (b"GET", OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "empty": (b"GET", OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "chunked": (b"GET", CHUNKED + b'3\r\nabc\r\n1;x="y"\r\nd\r\n0\r\n\r\n', 200, b"abcd", True),
    "chunked, nothing": (b"GET", CHUNKED + b"0\r\n\r\n", 200, b"", True),
    "trailers": (b"GET", CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", 200, b"a", True),
    "chunked in capitals": (
        b"GET",
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"0123456789",
        True,
    ),
    "no content": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "not modified": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, b"", True),
    "head": (b"HEAD", OK + b"Content-Length: 100\r\n\r\n", 200, b"", True),
    "head, chunked": (b"HEAD", CHUNKED, 200, b"", True),
    "head, nothing said": (b"HEAD", OK + b"\r\n", 200, b"", True),
    "early hints": (
        b"GET",
        b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
    "many interim": (
        b"GET",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\nContent-Length: 7\r\n\r\nHTTP/1.1 199 X\r\n\r\n"
        + OK
        + b"Content-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
    "no reason": (b"GET", b"HTTP/1.1 429\r\nContent-Length: 1\r\n\r\nx", 429, b"x", True),
    "empty reason": (b"GET", b"HTTP/1.1 529 \r\nContent-Length: 1\r\n\r\nx", 529, b"x", True),
    "close": (b"GET", OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "close among others": (
        b"GET",
        OK + b"connection: foo , CLOSE\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        False,
    ),
    "close, second field": (
        b"GET",
        OK + b"Connection: foo\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        False,
    ),
    "HTTP/1.0": (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "HTTP/1.0, kept": (
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
    "upgrade offered": (
        b"GET",
        OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
    "more than its length": (b"GET", OK + b"Content-Length: 1\r\n\r\nxy", 200, b"x", False),
    "more than nothing": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\ny", 204, b"", False),
    "more than the last chunk": (
        b"GET",
        CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"",
        False,
    ),
    "HEAD with a body": (b"HEAD", OK + b"Content-Length: 1\r\n\r\nx", 200, b"", False),
}

#: Responses that end with the connection.
UNTIL_CLOSE = {
    "no length": OK + b"\r\nuntil the end",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
}

BROKEN = {
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "one length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "endless length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhi",
    "empty length": OK + b"Content-Length:\r\n\r\nhi",
    "other coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
    "two codings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded": OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    "control in a value": OK + b"A: b\x01c\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"abc\r\n\r\n",
    "no name": OK + b": abc\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF in the fields": OK + b"A: b\nContent-Length: 0\r\n\r\n",
    "bare CR": OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "blank line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "chunk size with a space": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "chunk size with a prefix": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
    "chunk size missing": CHUNKED + b"\r\na\r\n0\r\n\r\n",
    "endless chunk size": CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "chunk without its end": CHUNKED + b"1\r\na0\r\n\r\n",
    "bare LF in chunks": CHUNKED + b"1\na\n0\n\n",
    "head too large": OK + b"A: " + b"x" * 257 * KIB + b"\r\n\r\n",
    "endless head": OK + (b"A: " + b"x" * 1021 + b"\r\n") * 300,
    "endless interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 20000,
    "too many interim responses": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 101
    + OK
    + b"Content-Length: 0\r\n\r\n",
    "too many fields": OK + b"a:\r\n" * 1001 + b"Content-Length: 0\r\n\r\n",
    "endless extension": CHUNKED + b"1;" + b"x" * 400 * KIB,
    "endless trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 100_000,
}


class HeadTests(SynchronousTestCase):
    """How the head of a response is reported."""

    def test_names_values_and_order_are_kept(self) -> None:
        receiver = Scene().exchange(
            b"HTTP/1.1 207 Multi \xe2\x80\x94 Status\r\nx-B: 1\r\nX-a:2\r\nX-B:  three  \r\nEmpty:\r\n"
            b"obs: \xe9\xff\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual(
            receiver.head,
            ResponseHead(
                207,
                b"Multi \xe2\x80\x94 Status",
                [
                    (b"x-B", b"1"),
                    (b"X-a", b"2"),
                    (b"X-B", b"three"),
                    (b"Empty", b""),
                    (b"obs", b"\xe9\xff"),
                    (b"Content-Length", b"0"),
                ],
            ),
        )

    def test_provides(self) -> None:
        verifyObject(IProtocol, HTTPClientProtocol(Scene().pool))


class WholeResponseTests(SynchronousTestCase):
    """Responses that are complete."""

    def test_all(self) -> None:
        for name, (method, reply, status, body, kept) in WHOLE.items():
            with self.subTest(name):
                scene = Scene()
                receiver = scene.exchange(reply, method)
                self.assertEqual(
                    (receiver.outcome, receiver.status, receiver.body), ("ended", status, body), name
                )
                self.assertEqual((scene.pool.idle, scene.pool.busy), (int(kept), 0), name)
                self.assertEqual(scene.pump.closed, not kept, name)

    def test_byte_by_byte(self) -> None:
        """F19: the size of the pieces makes no difference."""
        for name, (method, reply, status, body, kept) in WHOLE.items():
            if name.startswith("more than") or name == "HEAD with a body":
                continue  # in pieces, the extra bytes arrive on an idle connection, which another test covers
            with self.subTest(name):
                scene = Scene(chunk_size=1)
                receiver = scene.exchange(reply, method)
                self.assertEqual(
                    (receiver.outcome, receiver.status, receiver.body), ("ended", status, body), name
                )
                self.assertEqual(scene.pool.idle, int(kept), name)

    def test_until_close(self) -> None:
        for name, reply in UNTIL_CLOSE.items():
            for chunk_size in (64 * KIB, 1):
                scene = Scene(chunk_size=chunk_size)
                receiver = scene.exchange(reply)
                self.assertEqual((receiver.body, receiver.outcome), (b"until the end", None), name)
                scene.server.transport.loseConnection()
                scene.settle()
                self.assertEqual((receiver.body, receiver.outcome), (b"until the end", "ended"), name)
                self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0))

    def test_until_reset(self) -> None:
        """F22: a reset is not a clean end."""
        scene = Scene()
        receiver = scene.exchange(UNTIL_CLOSE["no length"])
        scene.server.transport.abortConnection()
        scene.settle()
        self.assertIsInstance(receiver.outcome, ResponseLost)

    @given(
        st.sampled_from(sorted(WHOLE)),
        st.lists(st.integers(1, 40), max_size=12),
    )
    @examples(150)
    @example("chunked", [57, 1, 2])
    def test_split_anyhow(self, name: str, sizes: list[int]) -> None:
        method, reply, status, body, _ = WHOLE[name]
        scene = Scene()
        receiver, _ = scene.send(method=method)
        scene.network.flush()
        for size in sizes:
            scene.server.transport.write(reply[:size])
            reply = reply[size:]
            scene.network.flush()
        scene.server.transport.write(reply)
        scene.settle()
        self.assertEqual((receiver.outcome, receiver.status, receiver.body), ("ended", status, body))

    def test_passed_on_at_once(self) -> None:
        """F17: no piece waits for another; the bytes of one read are passed on in that turn, in one piece."""
        scene = Scene()
        receiver = scene.exchange(CHUNKED + b"2\r\nab\r\n1\r\nc\r\n4\r\nde")
        self.assertEqual(receiver.pieces, [b"abcde"])
        scene.server.transport.write(b"f")
        scene.network.flush()
        self.assertEqual(receiver.pieces[-1], b"f")

    def test_large_body(self) -> None:
        payload = bytes(range(256)) * 8 * KIB
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (payload[:70000], payload[70000:]))
        for reply in (
            OK + b"Content-Length: %d\r\n\r\n" % len(payload) + payload,
            CHUNKED + chunks + b"0\r\n\r\n",
        ):
            scene = Scene()
            receiver = scene.exchange(reply)
            self.assertEqual(receiver.outcome, "ended")
            self.assertEqual(receiver.body, payload)


class BrokenResponseTests(SynchronousTestCase):
    """Responses that are not HTTP/1.1, or are ambiguous."""

    def check_broken(self, reply: bytes, chunk_size: int, name: str) -> None:
        scene = Scene(chunk_size=chunk_size)
        receiver = scene.exchange(reply)
        self.assertIsInstance(receiver.outcome, UpstreamProtocolError, name)
        self.assertTrue(scene.pump.closed, name)
        self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0))
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_all(self) -> None:
        for name, reply in BROKEN.items():
            with self.subTest(name):
                self.check_broken(reply, 64 * KIB, name)

    def test_byte_by_byte(self) -> None:
        for name, reply in BROKEN.items():
            if len(reply) < 10 * KIB:
                with self.subTest(name):
                    self.check_broken(reply, 1, name)

    def test_in_small_pieces(self) -> None:
        """A large head in small pieces does not take quadratic time."""
        self.check_broken(BROKEN["endless head"], 100, "endless head")

    def test_no_body_in_errors(self) -> None:
        """Nothing that the upstream sent is repeated in a message."""
        for reply in BROKEN.values():
            receiver = Scene().exchange(reply.replace(b"A: b", b"A: secret").replace(b"hi", b"secret"))
            self.assertNotIn("secret", str(receiver.outcome))

    @given(
        st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 ", OK, CHUNKED, OK + b"Content-Length: "])
    )
    @examples(300)
    def test_garbage(self, garbage: bytes, start: bytes) -> None:
        """Any bytes lead to an ordinary end or to a documented error, and nothing else is raised."""
        scene = Scene()
        receiver = scene.exchange(start + garbage)
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertTrue(receiver.outcome == "ended" or isinstance(receiver.outcome, UpstreamError))
        self.assertEqual(scene.pool.busy, 0)
        self.assertEqual(self.flushLoggedErrors(), [])


class CutTests(SynchronousTestCase):
    """Responses that stop in the middle."""

    def test_every_byte(self) -> None:
        """F22: cut anywhere, a response is lost; it is never taken for a complete one."""
        for name in ("length", "trailers", "early hints", "chunked"):
            method, reply, _, body, _ = WHOLE[name]
            for cut in range(1, len(reply)):
                for abort in (False, True):
                    scene = Scene()
                    receiver = scene.exchange(reply[:cut], method)
                    transport = scene.server.transport
                    transport.abortConnection() if abort else transport.loseConnection()
                    scene.settle()
                    self.assertIsInstance(receiver.outcome, ResponseLost, (name, cut))
                    self.assertTrue(body.startswith(receiver.body))

    def test_no_response(self) -> None:
        """The request was sent completely on a new connection, so the upstream may have acted on it."""
        for abort in (False, True):
            scene = Scene()
            receiver, _ = scene.send()
            scene.network.flush()
            transport = scene.server.transport
            transport.abortConnection() if abort else transport.loseConnection()
            scene.settle()
            self.assertIsInstance(receiver.outcome, ResponseLost)

    def test_kept_connection_was_closed(self) -> None:
        """The error says what the policy of retries needs to know (spec 12.3): whether the upstream had closed the
        connection when the request arrived, nobody can tell for sure."""
        scene = Scene(WHOLE["length"][1])
        scene.send()
        scene.settle()
        scene.reply = None
        receiver, _ = scene.send()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual(len(scene.servers), 1)
        self.assert_lost(receiver, was_reused=True, seconds=0.0, has_begun=False)

    def assert_lost(self, receiver: Receiver, **facts: object) -> None:
        """Check for a lost response, and for what is told about the loss."""
        error = receiver.outcome
        assert type(error) is ResponseLost
        self.assertEqual({name: getattr(error, name) for name in facts}, facts)

    def test_fresh_connection_lost(self) -> None:
        """Spec 12.3: what a connection without a history closes is not repeated."""
        scene = Scene()
        receiver, _ = scene.send()
        scene.network.flush()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assert_lost(receiver, was_reused=False, seconds=0.0, has_begun=False)

    def test_kept_connection_lost_during_a_large_upload(self) -> None:
        """The upstream did not receive the whole request, so it cannot have acted on it."""
        scene = Scene(WHOLE["length"][1])
        scene.send()
        scene.settle()
        scene.reply = None
        scene.network._pending.clear()
        receiver, _ = scene.send([bytes(64 * KIB)] * 64, b"POST")
        connection = cast(HTTPClientProtocol, scene.pump.client._protocol)
        connection.connectionLost(TwistedFailure(ConnectionLost()))
        self.assertIs(type(receiver.outcome), RequestNotSent)

    def test_kept_connection_lost_while_waiting(self) -> None:
        """If the connection is lost much later, the upstream was at work: the request must not be sent twice."""
        scene = Scene(WHOLE["length"][1])
        scene.send()
        scene.settle()
        scene.reply = None
        receiver, _ = scene.send()
        scene.pass_time(30)
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual(len(scene.servers), 1)
        self.assert_lost(receiver, was_reused=True, seconds=30.0, has_begun=False)

    def test_kept_connection_lost_after_a_byte(self) -> None:
        scene = Scene(WHOLE["length"][1])
        scene.send()
        scene.settle()
        scene.reply = b"H"
        receiver, _ = scene.send()
        scene.settle()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assert_lost(receiver, was_reused=True, has_begun=True)


class CarrierTests(SynchronousTestCase):
    """Loss of the connection that carries this one: a request without a byte of a response may be tried elsewhere."""

    def lose(self, scene: Scene) -> None:
        """Lose the connection beneath."""
        connection = cast(HTTPClientProtocol, scene.pump.client._protocol)
        connection.connectionLost(TwistedFailure(CarrierConnectionLost("the session is over")))

    def sent(self, **options: Any) -> tuple[Scene, Receiver]:
        """A request that the upstream has received completely."""
        scene = Scene()
        receiver, _ = scene.send(**options)
        scene.network.flush()
        return scene, receiver

    def test_before_a_byte(self) -> None:
        for waited in (0, 60):
            scene, receiver = self.sent()
            scene.pass_time(waited)
            self.lose(scene)
            self.assertIs(type(receiver.outcome), CarrierLost)
            self.assertEqual((scene.pool.busy, scene.pool.idle), (0, 0))
            self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_after_a_byte(self) -> None:
        """Any byte counts: an interim response, too, shows that the upstream works on the request."""
        for begun in (
            b"H",
            OK[:-2],
            b"HTTP/1.1 100 Continue\r\n\r\n",
            OK + b"Content-Length: 5\r\n\r\nhel",
            CHUNKED,
        ):
            scene, receiver = self.sent()
            scene.server.transport.write(begun)
            scene.network.flush()
            self.lose(scene)
            self.assertIs(type(receiver.outcome), ResponseLost, begun)

    def test_before_it_was_sent(self) -> None:
        """The upload is incomplete, so the upstream cannot have acted on the request."""
        scene = Scene()
        receiver, _ = scene.send([bytes(64 * KIB)] * 64, b"POST")
        scene.network._pending.pop()()
        scene.pump.advance(3)
        self.lose(scene)
        self.assertIs(type(receiver.outcome), RequestNotSent)

    def test_a_body_that_ends_with_the_connection(self) -> None:
        """Such a body is never complete when the carrier is lost."""
        for name, reply in UNTIL_CLOSE.items():
            scene, receiver = self.sent()
            scene.server.transport.write(reply)
            scene.network.flush()
            self.lose(scene)
            self.assertEqual(receiver.body, b"until the end")
            self.assertIs(type(receiver.outcome), ResponseLost, name)

    def test_a_kept_connection(self) -> None:
        """The cause is known: it is not that the upstream had closed the connection while it was idle (spec 12.3)."""
        scene, receiver = self.sent()
        scene.server.transport.write(OK + b"Content-Length: 0\r\n\r\n")
        scene.settle()
        self.assertEqual(scene.pool.idle, 1)
        again, _ = scene.send()
        self.lose(scene)
        self.assertIs(type(again.outcome), CarrierLost)
        self.assertEqual(receiver.outcome, "ended")

    def test_while_it_is_idle(self) -> None:
        scene, _ = self.sent()
        scene.server.transport.write(OK + b"Content-Length: 0\r\n\r\n")
        scene.settle()
        self.lose(scene)
        self.assertEqual((scene.pool.busy, scene.pool.idle), (0, 0))


class TimeoutTests(SynchronousTestCase):
    """A silent upstream."""

    def test_first_byte(self) -> None:
        """F42: the wait for the response and pauses within it have separate time-outs."""
        scene = Scene(limits=ClientLimits(first_byte_timeout=30.0, idle_timeout=5.0))
        receiver, _ = scene.send()
        scene.pass_time(29)
        self.assertIsNone(receiver.outcome)
        scene.pass_time(3)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)
        self.assertEqual(scene.server.lost, ConnectionLost)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_interim_responses_do_not_count(self) -> None:
        scene = Scene(limits=ClientLimits(first_byte_timeout=30.0))
        receiver, _ = scene.send()
        scene.network.flush()
        for _ in range(8):
            scene.server.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            scene.pass_time(4)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)

    def test_idle(self) -> None:
        """F42: the head arrives, then nothing."""
        for start in (CHUNKED, CHUNKED + b"2\r\nab\r\n", OK + b"Content-Length: 9\r\n\r\n", OK + b"\r\nx"):
            scene = Scene(limits=ClientLimits(first_byte_timeout=500.0, idle_timeout=20.0))
            receiver = scene.exchange(start)
            scene.pass_time(19)
            self.assertIsNone(receiver.outcome)
            scene.pass_time(3)
            self.assertIsInstance(receiver.outcome, UpstreamTimeout)

    def test_bytes_of_the_upstream_count(self) -> None:
        """F15: every byte that the upstream sends restarts the time-out, and nothing else does."""
        scene = Scene(limits=ClientLimits(idle_timeout=20.0))
        receiver = scene.exchange(CHUNKED)
        for _ in range(5):
            scene.pass_time(15)
            scene.server.transport.write(b"1\r\nx\r\n")
            scene.network.flush()
        self.assertIsNone(receiver.outcome)
        scene.pass_time(22)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)

    def test_slow_client(self) -> None:
        """Time during which reading is paused does not count as silence of the upstream."""
        scene = Scene(limits=ClientLimits(first_byte_timeout=20.0, idle_timeout=20.0))
        receiver, call = scene.send()
        scene.network.flush()
        scene.server.transport.write(CHUNKED + b"1\r\nx\r\n")
        scene.network.flush()
        call.pauseProducing()
        scene.pass_time(300)
        self.assertIsNone(receiver.outcome)
        call.resumeProducing()
        scene.pass_time(19)
        self.assertIsNone(receiver.outcome)
        scene.pass_time(3)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)


class BackPressureTests(SynchronousTestCase):
    """A consumer that is slower than the upstream."""

    def test_pause(self) -> None:
        """F23: bytes that are not read stay with the upstream."""
        scene = Scene()
        receiver, call = scene.send()
        scene.network.flush()
        receiver.on_start = call.pauseProducing
        scene.server.transport.write(OK + b"Content-Length: %d\r\n\r\n" % (1024 * KIB) + bytes(1024 * KIB))
        scene.network.flush()
        self.assertLess(len(receiver.body), 65 * KIB, "at most what had been read already")
        self.assertGreater(scene.pump.server.buffered, 800 * KIB)
        call.resumeProducing()
        scene.network.flush()
        self.assertEqual((receiver.outcome, len(receiver.body)), ("ended", 1024 * KIB))

    def test_pause_and_resume_all_the_time(self) -> None:
        scene = Scene(chunk_size=1000)
        receiver, call = scene.send()
        scene.network.flush()
        receiver.on_data = call.pauseProducing
        payload = bytes(range(250)) * 40
        scene.server.transport.write(OK + b"Content-Length: 10000\r\n\r\n" + payload)
        for _ in range(20):
            scene.network.flush()
            call.resumeProducing()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", payload))

    def test_pause_before_there_is_a_connection(self) -> None:
        scene = Scene(WHOLE["length"][1])
        receiver, call = scene.send()
        call.pauseProducing()
        scene.network.flush()
        self.assertIsNone(receiver.head)
        call.resumeProducing()
        scene.network.flush()
        self.assertEqual(receiver.outcome, "ended")

    def test_paused_when_it_ends(self) -> None:
        """Reading is resumed, so that a close by the upstream is noticed while the connection is idle."""
        scene = Scene(WHOLE["length"][1])
        receiver, call = scene.send()
        receiver.on_data = call.pauseProducing
        scene.network.flush()
        self.assertEqual(receiver.outcome, "ended")
        call.resumeProducing()  # late, and harmless
        call.pauseProducing()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual(scene.pool.idle, 0)


class CancelTests(SynchronousTestCase):
    """Cancelled calls, and receivers that raise."""

    def test_at_every_byte(self) -> None:
        """Whenever a call is cancelled, the upstream sees the close at once, and the receiver is not called again."""
        for name in ("length", "trailers", "early hints"):
            reply = WHOLE[name][1]
            for cut in range(len(reply)):
                scene = Scene()
                receiver, call = scene.send()
                scene.network.flush()
                scene.server.transport.write(reply[:cut])
                scene.network.flush()
                self.assertIsNone(receiver.outcome)
                call.cancel()
                receiver.cancelled = True
                scene.server.transport.write(reply[cut:])
                scene.settle()
                self.assertEqual(scene.server.lost, ConnectionLost, "aborted, not closed in good order")
                self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0))
                self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_from_within(self) -> None:
        """Cancelled by the receiver itself, in the middle of a read."""
        for moment in ("on_start", "on_data"):
            for reply in (
                CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
                CHUNKED + b"1\r\na\r\nnonsense\r\n",
                OK + b"Content-Length: 2\r\n\r\nab",
                OK + b"\r\nab",
            ):
                scene = Scene(reply)
                receiver, call = scene.send()

                def cancel(call: object = call, receiver: Receiver = receiver) -> None:
                    call.cancel()  # type: ignore[attr-defined]
                    receiver.cancelled = True

                setattr(receiver, moment, cancel)
                scene.settle()
                self.assertTrue(receiver.cancelled)
                self.assertTrue(scene.pump.closed)
                self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0))
                self.assertEqual(self.flushLoggedErrors(), [])

    def test_while_uploading(self) -> None:
        scene = Scene()
        receiver, call = scene.send([bytes(64 * KIB)] * 64, b"POST")
        scene.network.connections or scene.network._pending.pop()()
        scene.pump.advance(3)
        call.cancel()
        receiver.cancelled = True
        scene.settle()
        self.assertEqual(scene.server.lost, ConnectionLost)
        self.assertLess(len(scene.server.received), 1024 * KIB)

    def test_after_the_end(self) -> None:
        """Too late, and harmless: the connection may belong to another call already."""
        scene = Scene(WHOLE["length"][1])
        _, first = scene.send()
        scene.settle()
        scene.reply = None
        second_receiver, _ = scene.send()
        scene.settle()
        first.cancel()
        first.stopProducing()
        first.pauseProducing()
        first.resumeProducing()
        scene.server.transport.write(WHOLE["length"][1])
        scene.settle()
        self.assertEqual(second_receiver.outcome, "ended")

    def test_receiver_raises(self) -> None:
        """A bug in a receiver is logged and ends only its own call."""
        for moment in ("on_start", "on_data", "on_end"):
            for reply in (CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", OK + b"Content-Length: 2\r\n\r\nab"):
                scene = Scene(reply)
                receiver, _ = scene.send()

                def fail(receiver: Receiver = receiver) -> None:
                    receiver.cancelled = True
                    raise ZeroDivisionError

                setattr(receiver, moment, fail)
                scene.settle()
                self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
                self.assertEqual(scene.pool.busy, 0)
                self.assertEqual(scene.pump.closed, moment != "on_end")

    def test_receiver_raises_at_a_failure(self) -> None:
        scene = Scene()
        receiver, _ = scene.send()

        def fail() -> None:
            raise ZeroDivisionError

        receiver.on_end = fail
        scene.network.flush()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class GracefulCloseTests(SynchronousTestCase):
    """Closing connections gracefully."""

    def test_closed_in_good_order(self) -> None:
        scene = Scene(WHOLE["close"][1])
        scene.send()
        scene.settle()
        self.assertEqual(scene.server.lost, ConnectionDone)

    def test_a_close_that_does_not_happen(self) -> None:
        """A connection that does not close gracefully is aborted after a while."""
        scene = Scene()
        receiver, _ = scene.send([bytes(200 * KIB)], b"POST")
        scene.script = lambda server: server.transport.pauseProducing()  # type: ignore[method-assign]
        scene.network.flush()
        scene.server.transport.write(WHOLE["close"][1])
        scene.settle()
        self.assertEqual(receiver.outcome, "ended")
        self.assertFalse(scene.pump.client.disconnected, "its last bytes are not taken")
        scene.pass_time(12)
        self.assertTrue(scene.pump.client.disconnected)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_abort_is_not_announced(self) -> None:
        scene = Scene()
        scene.exchange(b"garbage")
        self.assertEqual(scene.server.lost, ConnectionLost)
        self.assertNotEqual(ConnectionAborted, ConnectionLost)
