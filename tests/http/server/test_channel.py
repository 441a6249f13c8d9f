"""Connections: request after request, however the bytes are split, and whatever they contain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge
from ccmproxy.http.framing import LAST_CHUNK, chunk
from ccmproxy.http.message import Body, ResponseHead
from ccmproxy.http.server.channel import MOST_AT_ONCE
from ccmproxy.http.server.factory import ServerLimits, ServerRequest
from tests.effort import Effort
from tests.http.conversation import OK, Client, ServerTestCase, echo
from tests.http.server.test_request_head import REFUSED
from tests.http.test_framing import BROKEN_CHUNKS, cut
from tests.profiles import examples

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

#: Requests of every kind, and the responses of ``echo`` to them.
CORPUS: tuple[tuple[str, bytes, bytes], ...] = (
    ("GET", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /1 "),
    ("POST", b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"POST /2 hello"),
    ("POST", b"POST /3 HTTP/1.1\r\nhost: a\r\nContent-Length: 0\r\n\r\n", b"POST /3 "),
    (
        "PUT",
        b"PUT /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
        b"PUT /4 hello world",
    ),
    ("HEAD", b"\r\nHEAD /5 HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    (
        "POST",
        b"POST /6 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        b"POST /6 abc",
    ),
    ("OPTIONS", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nX-Latin: \xe9\r\n\r\n", b"OPTIONS * "),
    (
        "GET",
        b"GET /8 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nGET ",
        b"GET /8 GET ",
    ),
    ("POST", b"POST http://a/9 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\r\n", b"POST /9 \r\n"),
)
METHODS = [method for method, _, _ in CORPUS]
EXPECTED = [(200, body) for _, _, body in CORPUS]
ALL = b"".join(raw for _, raw, _ in CORPUS)


@implementer(IPushProducer)
class Upload:
    """A client that sends ``size`` bytes as fast as they are taken."""

    def __init__(self, client: Client, size: int) -> None:
        self.transport = client.transport
        self.left = size
        self.paused = False
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            piece = min(self.left, 64 * 1024)
            self.left -= piece
            self.transport.write(b"x" * piece)
        if not self.left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.paused = True


class ConversationTests(ServerTestCase):
    """Good requests."""

    def setUp(self) -> None:
        super().setUp()
        self.handler = echo

    def test_one_after_the_other(self) -> None:
        client = self.connect()
        client.send(*[raw for _, raw, _ in CORPUS])
        self.assertEqual(client.answers(*METHODS), EXPECTED)
        self.assertIsNone(client.lost)

    def test_all_at_once(self) -> None:
        client = self.connect()
        client.send(ALL)
        self.assertEqual(client.answers(*METHODS), EXPECTED)

    def test_byte_by_byte(self) -> None:
        client = self.connect(chunk_size=1)
        client.send(ALL)
        self.assertEqual(client.answers(*METHODS), EXPECTED)

    @given(st.permutations(CORPUS), st.lists(st.integers(min_value=0)))
    def test_however_it_is_cut(self, requests: list[tuple[str, bytes, bytes]], places: list[int]) -> None:
        client = self.connect()
        client.send(*cut(b"".join(raw for _, raw, _ in requests), places))
        self.assertEqual(client.answers(*[r[0] for r in requests]), [(200, r[2]) for r in requests])

    def test_headers_reach_the_handler_as_they_were(self) -> None:
        self.handler = self.requests.append
        self.connect().send(b"GET / HTTP/1.1\r\nhOsT: a\r\nX-B:  1 \r\nx-b: \xff\r\n\r\n")
        self.assertEqual(self.requests[0].head.headers, [(b"hOsT", b"a"), (b"X-B", b"1"), (b"x-b", b"\xff")])
        self.assertEqual(str(self.requests[0].peer).count("50000"), 1)

    def test_body_comes_in_the_pieces_it_came_in(self) -> None:
        self.handler = self.requests.append
        client = self.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        bodies: list[Body] = []
        self.requests[0].receive_body(100_000, bodies.append, self.fail)
        client.send(b"x" * 60_000, b"y" * 40_000)
        self.assertEqual(
            [(body.size, list(map(len, body.chunks))) for body in bodies], [(100_000, [60_000, 40_000])]
        )

    def test_asked_twice(self) -> None:
        self.handler = self.requests.append
        self.connect().send(GET)
        self.requests[0].receive_body(10, lambda body: None, self.fail)
        with self.assertRaises(RuntimeError):
            self.requests[0].receive_body(10, lambda body: None, self.fail)


class PipeliningTests(ServerTestCase):
    """Requests that are sent before the one before them was answered."""

    def test_one_at_a_time(self) -> None:
        client = self.connect()
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", GET)
        self.assertEqual([request.head.target for request in self.requests], [b"/1"])
        self.requests.pop().respond(OK, b"one")
        self.assertEqual([request.head.target for request in self.requests], [b"/2"])
        self.requests.pop().respond(OK, b"two")
        self.requests.pop().respond(OK, b"three")
        self.flush()
        self.assertEqual(client.answers("GET", "GET", "GET"), [(200, b"one"), (200, b"two"), (200, b"three")])

    def test_waiting_bytes_are_bounded(self) -> None:
        client = self.connect()
        client.send(GET)
        upload = Upload(client, 5_000_000)
        self.flush()
        self.assertGreater(upload.left, 4_500_000)
        client.transport.unregisterProducer()

    def test_more_than_is_kept_waiting(self) -> None:
        client = self.connect()
        client.send(GET + GET * 8000)
        self.handler = echo
        self.requests.pop().respond(OK, b"first")
        self.flush()
        answers = client.answers(*["GET"] * 8001)
        self.assertEqual((answers[0], answers[-1]), ((200, b"first"), (200, b"GET / ")))

    def test_only_some_are_begun_in_one_turn(self) -> None:
        """F63: a read of 64 KiB holds 2,500 requests, of which each takes the time of one."""
        self.handler = echo
        client = self.connect()
        client.send(b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * (3 * MOST_AT_ONCE + 1))
        self.assertEqual(len(client.answers(*["GET"] * MOST_AT_ONCE)), MOST_AT_ONCE)
        client.send(GET)  # which is not read yet
        self.assertEqual(len(client.answers(*["GET"] * MOST_AT_ONCE)), MOST_AT_ONCE)
        self.assertTrue(self.is_due())
        self.flush()  # some turns later
        self.assertEqual(len(client.answers(*["GET"] * (3 * MOST_AT_ONCE + 2))), 3 * MOST_AT_ONCE + 2)
        client.send(GET)
        self.assertFalse(self.is_due())
        self.assertEqual(client.answers(*["GET"] * (3 * MOST_AT_ONCE + 3))[-1], (200, b"GET / "))

    def test_nothing_is_read_between_two_turns(self) -> None:
        """Or what was sent ahead would be gathered here: it comes faster than it is answered."""
        self.handler = echo
        client = self.connect()
        client.send(b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 20_000)
        waiting = client.transport.buffered
        self.assertGreater(waiting, 300_000)
        # The client reads slowly, and has read now.
        producer = client.pump.server.producer
        assert IPushProducer.providedBy(producer)
        producer.pauseProducing()
        producer.resumeProducing()
        client.pump.flush()
        self.assertEqual(client.transport.buffered, waiting)
        self.flush()
        self.assertEqual(client.transport.buffered, 0)
        self.assertEqual(len(client.answers(*["GET"] * 20_000)), 20_000)

    def test_dropped_between_two_turns(self) -> None:
        answered: list[ServerRequest] = []

        def answer(request: ServerRequest) -> None:
            answered.append(request)
            echo(request)

        self.handler = answer
        client = self.connect()
        client.send(GET * (MOST_AT_ONCE + 5))
        self.factory.abort_all()
        self.flush()
        self.assertEqual(len(answered), MOST_AT_ONCE)

    def test_many_empty_lines(self) -> None:
        """F63: empty lines before a request are skipped at once, not one by one with a copy of all that follow."""
        self.handler = echo
        client = self.connect()
        with Effort() as effort:
            client.send(b"\r\n" * 100_000, b"\r", b"\n" + GET)
        self.assertLess(effort.lines, 20_000)
        self.assertEqual(client.answers("GET"), [(200, b"GET / ")])

    def test_one_who_never_reads(self) -> None:
        """No further request is begun while the responses to earlier ones wait to be read."""
        self.handler = lambda request: request.respond(OK, b"x" * 50_000)
        client = self.connect()
        client.transport.pauseProducing()
        client.send((GET[:-2] + b"X: " + b"y" * 1000 + b"\r\n\r\n") * 300)
        self.assertLess(client.pump.server.peak, 200_000)
        self.assertGreater(client.transport.buffered, 0)
        client.transport.resumeProducing()
        self.flush()
        self.assertEqual(len(client.answers(*["GET"] * 300)), 300)

    def test_behind_the_last_response(self) -> None:
        client = self.connect()
        client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
        self.requests.pop().respond(OK, b"bye")
        client.send(GET)
        self.wait(3)
        self.assertEqual(client.answers("GET"), [(200, b"bye")])
        self.assertEqual((self.requests, client.lost), ([], ConnectionDone))


class RefusalTests(ServerTestCase):
    """Bytes that are not, or never become, a complete request."""

    limits = ServerLimits(head_size=8192)

    def refused(self, raw: bytes, status: int, chunk_size: int = 64 * 1024) -> None:
        """``raw`` is answered with ``status``, and the connection closed; no handler is called."""
        client = self.connect(chunk_size)
        client.send(raw)
        self.wait(3)
        self.assertEqual([found for found, _ in client.answers("GET")], [status], raw[:200])
        self.assertIn(b"\r\nConnection: close\r\n", client.received)
        self.assertEqual((client.lost, self.requests, self.factory.connections), (ConnectionDone, [], set()))

    def test_refused_heads(self) -> None:
        for status, raw in REFUSED:
            for end in (b"\r\n", b"\r\nhello", b"\r\n" + GET):
                self.refused(raw + end, status)
            self.refused(raw + b"\r\n", status, chunk_size=1)

    def test_other_protocols(self) -> None:
        self.refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0", 505)
        self.refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400)
        self.refused(b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", 400)
        self.refused(b"GET /\n\n", 400)
        self.refused(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400)

    def test_head_too_large(self) -> None:
        for raw in (
            b"GET /" + b"x" * 9000,
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2000,
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        ):
            for chunk_size in (1000, 64 * 1024):
                self.refused(raw, 431, chunk_size)

    def test_head_just_fits(self) -> None:
        self.handler = echo
        start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        for chunk_size in (1000, 64 * 1024):
            client = self.connect(chunk_size)
            client.send(start + b"y" * (8192 - len(start) - 4) + b"\r\n\r\n")
            self.assertEqual(client.answers("GET"), [(200, b"GET / ")])
            client.transport.loseConnection()
            self.flush()
        self.handler = self.fail
        self.refused(start + b"y" * (8193 - len(start) - 4) + b"\r\n\r\n", 431)

    def test_broken_chunks(self) -> None:
        self.handler = echo
        for raw in BROKEN_CHUNKS:
            client = self.connect()
            client.send(CHUNKED_POST + raw)
            self.wait(31)
            self.assertEqual(client.answers("POST"), [(400, BodyMalformed.__name__.encode())], raw[:200])
            self.assertEqual(client.lost, ConnectionDone)

    @examples(60)
    @given(st.binary(min_size=1), st.lists(st.integers(min_value=0), max_size=5))
    def test_garbage(self, garbage: bytes, places: list[int]) -> None:
        self.handler = echo
        client = self.connect()
        client.send(*filter(None, cut(garbage, places)))
        self.wait(34)
        self.assertEqual(client.lost, ConnectionDone)
        if client.received:
            self.assertIn(client.answers("GET")[0][0], (400, 408, 505))

    @given(st.integers(0, len(ALL)), st.binary(max_size=3), st.integers(0, 3))
    def test_damaged(self, place: int, damage: bytes, removed: int) -> None:
        """However the requests are damaged, every answer is complete, and there is none after a refusal."""
        methods: list[str] = []

        def handler(request: ServerRequest) -> None:
            methods.append(request.head.method.decode())
            echo(request)

        self.handler = handler
        client = self.connect()
        client.send(ALL[:place] + damage + ALL[place + removed :])
        self.wait(140)  # the damaged head may have announced a longer body, which the server waits for
        refusals = client.received.count(b"HTTP/1.1 ") - len(methods)
        self.assertIn(refusals, (0, 1))
        statuses = [status for status, _ in client.answers(*methods, *["GET"] * refusals)]
        self.assertTrue(all(status == 200 for status in statuses[:-1]), statuses)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_answers_are_shaped(self) -> None:
        def malformed(status: int, message: str) -> tuple[ResponseHead, bytes]:
            headers = [(b"Content-Length", b"999"), (b"Content-Type", b"application/json")]
            return ResponseHead(status, b"Oh", headers), message.encode()

        self.factory.malformed = malformed
        client = self.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(
            client.received,
            b"HTTP/1.1 400 Oh\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
            b"Connection: close\r\n\r\nmissing Host",
        )

    def test_answers_that_cannot_be_shaped(self) -> None:
        def malformed(status: int, message: str) -> tuple[ResponseHead, bytes]:
            raise ZeroDivisionError

        self.factory.malformed = malformed
        client = self.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        self.logged(ZeroDivisionError)
        self.assertEqual((client.received, client.lost), (b"", ConnectionDone))

    def test_the_answer_can_be_read(self) -> None:
        """Closing while the client is still sending would reset the connection, and destroy the answer."""
        client = self.connect()
        Upload(client, 1_000_000)
        self.flush()
        self.assertEqual([status for status, _ in client.answers("GET")], [431])
        self.assertIsNone(client.lost)
        self.wait(3)
        self.assertEqual(client.lost, ConnectionDone)


class BodyTests(ServerTestCase):
    """Bodies that are waited for, too large, broken, late, or not wanted."""

    limits = ServerLimits(drain_size=1_000_000)

    def setUp(self) -> None:
        super().setUp()
        self.bodies: list[Body] = []
        self.errors: list[Exception] = []

    def receive(self, limit: int = 100) -> None:
        """Ask for the body of the request."""
        self.requests[-1].receive_body(limit, self.bodies.append, self.errors.append)

    def post(self, *, length: int = 5, fields: bytes = b"") -> Client:
        """The head of a POST, on a new connection."""
        client = self.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, fields))
        return client

    def failed(self, kind: type[Exception]) -> None:
        """The body failed with this, once."""
        self.assertEqual(([type(error) for error in self.errors], self.bodies), ([kind], []))

    def test_continue_is_said_when_the_body_is_asked_for(self) -> None:
        client = self.post(fields=b"Expect: 100-continue\r\n")
        self.assertEqual(client.received, b"")
        self.receive()
        self.flush()
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"hello")
        self.requests.pop().respond(OK, self.bodies[0].joined())
        self.flush()
        self.assertEqual(client.answers("POST"), [(200, b"hello")])
        client.send(GET)
        self.assertEqual(len(self.requests), 1)

    def test_continue_is_not_said_too_late(self) -> None:
        client = self.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhe")
        self.receive()
        self.flush()
        self.assertEqual(client.received, b"")

    def test_continue_is_not_said_in_vain(self) -> None:
        client = self.post(length=101, fields=b"Expect: 100-continue\r\n")
        self.receive()
        self.failed(BodyTooLarge)
        self.requests.pop().respond(ResponseHead(413, b"", []), b"no")
        self.flush()
        self.assertEqual(client.received[:13], b"HTTP/1.1 413 ")
        self.assertIn(b"Connection: close", client.received)

    def test_too_large_chunks(self) -> None:
        client = self.connect()
        client.send(CHUNKED_POST)
        self.receive()
        client.send(chunk(b"x" * 60), chunk(b"x" * 41), chunk(b"x" * 60), LAST_CHUNK)
        self.failed(BodyTooLarge)
        self.requests.pop().respond(ResponseHead(413, b"", []), b"no")
        self.flush()
        self.assertEqual((client.answers("POST"), client.lost), ([(413, b"no")], ConnectionDone))

    def test_early_answer_with_much_behind_it(self) -> None:
        self.factory.limits = ServerLimits()
        client = self.post(length=30_000_000)
        self.receive()
        self.failed(BodyTooLarge)
        self.requests.pop().respond(ResponseHead(413, b"", []), b"no")
        upload = Upload(client, 30_000_000)
        self.flush()
        self.assertEqual((client.answers("POST"), client.lost), ([(413, b"no")], ConnectionDone))
        self.assertEqual(upload.left, 0)

    def test_early_answer_while_the_body_is_arriving(self) -> None:
        client = self.post(length=200_000)
        self.receive(200_000)
        client.send(b"x" * 100_000)
        self.requests.pop().respond(ResponseHead(429, b"", []), b"no")
        client.send(b"x" * 100_000)
        self.assertEqual((client.answers("POST"), client.lost), ([(429, b"no")], ConnectionDone))
        self.assertEqual((self.bodies, self.errors), ([], []))

    def test_draining_ends_with_the_limit(self) -> None:
        client = self.post(length=30_000_000)
        self.requests.pop().respond(ResponseHead(413, b"", []), b"no")
        upload = Upload(client, 30_000_000)
        self.flush()
        self.assertIsNotNone(client.lost)
        self.assertGreater(upload.left, 28_000_000)

    def test_draining_ends_with_its_time(self) -> None:
        client = self.post()
        self.requests.pop().respond(ResponseHead(413, b"", []), b"no")
        client.send(b"x")
        self.wait(29)
        self.assertIsNone(client.lost)
        self.wait(3)
        self.assertEqual((client.lost, client.answers("POST")), (ConnectionDone, [(413, b"no")]))

    def test_long_early_answer(self) -> None:
        """Bytes of the body are discarded while the response goes on, until there are too many."""
        client = self.post(length=3_000_000)
        request = self.requests.pop()
        request.start_response(ResponseHead(200, b"OK", []))
        upload = Upload(client, 3_000_000)
        self.flush()
        self.assertGreater(upload.left, 1_500_000)
        request.write(b"still here")
        self.wait(100)
        self.assertIn(b"still here", client.received)
        request.finish()
        self.flush()
        self.assertIsNotNone(client.lost)

    def test_small_body_that_nobody_asked_for(self) -> None:
        client = self.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET)
        self.requests.pop(0).respond(ResponseHead(401, b"", []), b"no")
        self.requests.pop(0).respond(OK, b"yes")
        self.flush()
        self.assertEqual((client.answers("POST", "GET"), client.lost), ([(401, b"no"), (200, b"yes")], None))

    def test_broken_body_that_nobody_asked_for(self) -> None:
        client = self.connect()
        client.send(CHUNKED_POST + b"x\r\n")
        self.requests.pop().respond(OK, b"yes")
        client.send(GET)
        self.wait(31)
        self.assertEqual((client.answers("POST"), self.requests), ([(200, b"yes")], []))
        self.assertEqual(client.lost, ConnectionDone)

    def test_large_body_that_nobody_asked_for_yet(self) -> None:
        client = self.post(length=1_000_000)
        upload = Upload(client, 1_000_000)
        self.flush()
        self.assertGreater(upload.left, 0)
        self.receive(1_000_000)
        self.flush()
        self.assertEqual(self.bodies[0].size, 1_000_000)

    def test_body_breaks_late(self) -> None:
        client = self.connect()
        client.send(CHUNKED_POST)
        self.receive()
        client.send(b"5\r\nhello\r\n", b"x\r\n", b"more rubbish")
        self.failed(BodyMalformed)
        self.requests.pop().respond(ResponseHead(400, b"", []), b"no")
        self.wait(31)
        self.assertEqual((client.answers("POST"), client.lost), ([(400, b"no")], ConnectionDone))

    def test_body_stops_coming(self) -> None:
        for head in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
            client = self.connect()
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
            self.receive()
            self.wait(50)
            client.send(b"1")
            self.wait(59)
            self.assertEqual(self.errors, [])
            self.wait(2)
            self.failed(BodyTimeout)
            self.errors.clear()
            self.wait(1000)
            self.assertIsNone(client.lost)  # the handler decides on the answer
            self.requests.pop().respond(ResponseHead(408, b"", []), b"late")
            self.wait(32)
            self.assertEqual((client.answers("POST"), client.lost), ([(408, b"late")], ConnectionDone))


class TimeTests(ServerTestCase):
    """How long a client may take."""

    def test_nothing_comes(self) -> None:
        client = self.connect()
        self.wait(29)
        self.assertIsNone(client.lost)
        self.wait(2)
        self.assertEqual((client.received, client.lost), (b"", ConnectionDone))

    def test_head_comes_too_slowly(self) -> None:
        client = self.connect()
        for byte in GET[:20]:
            client.send(bytes([byte]))
            self.wait(1.5)
        self.assertEqual([status for status, _ in client.answers("GET")], [408])
        self.wait(3)
        self.assertEqual(client.lost, ConnectionDone)

    def test_second_head_comes_too_slowly(self) -> None:
        self.handler = echo
        client = self.connect()
        client.send(GET)
        self.wait(100)
        client.send(GET[:10])
        self.wait(29)
        self.assertEqual(len(client.answers("GET")), 1)
        self.wait(4)
        self.assertEqual([status for status, _ in client.answers("GET", "GET")], [200, 408])
        self.assertEqual(client.lost, ConnectionDone)

    def test_idle(self) -> None:
        self.handler = echo
        client = self.connect()
        client.send(GET)
        for _ in range(3):
            self.wait(299)
            self.assertIsNone(client.lost)
            client.send(GET)
        self.wait(302)
        self.assertEqual((len(client.answers(*["GET"] * 4)), client.lost), (4, ConnectionDone))

    def test_a_response_may_take_its_time(self) -> None:
        client = self.connect()
        client.send(GET)
        self.wait(10_000)
        self.requests.pop().respond(OK, b"at last")
        self.flush()
        self.assertEqual(client.answers("GET"), [(200, b"at last")])

    def test_waiting_behind_unread_responses_is_not_the_clients_delay(self) -> None:
        self.handler = lambda request: request.respond(OK, b"x" * 200_000)
        client = self.connect()
        client.transport.pauseProducing()
        client.send(GET * 3)
        self.wait(100)
        client.transport.resumeProducing()
        self.flush()
        self.assertEqual(len(client.answers(*["GET"] * 3)), 3)

    def test_one_who_does_not_close(self) -> None:
        """A client that does not read the last bytes is dropped in the end."""
        client = self.connect()
        client.transport.pauseProducing()
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        self.requests.pop().respond(OK, b"x" * 200_000)
        self.wait(602)
        self.assertEqual(self.factory.connections, set())


class TransportTests(ServerTestCase):
    """What the server demands of its transport."""

    def test_small_pieces_are_sent_at_once(self) -> None:
        client = self.connect()
        self.assertTrue(client.pump.server.getTcpNoDelay())
        self.assertTrue(client.pump.server.getTcpKeepAlive())

    def test_one_who_was_gone_before_it_began(self) -> None:
        self.patch(type(self.connect().pump.server), "setTcpNoDelay", _refuse)
        self.handler = echo
        client = self.connect()
        client.send(GET)
        self.assertEqual(client.answers("GET"), [(200, b"GET / ")])


def _refuse(transport: object, enabled: bool) -> None:
    raise OSError(22, "Invalid argument")
