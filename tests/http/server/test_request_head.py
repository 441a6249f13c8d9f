"""Which request heads are accepted, what follows from them, and with which status others are refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.framing import MOST_FIELDS, FramingError
from ccmproxy.http.server.request_head import CHUNKED, IncomingHead, check_partial, parse_request_head

HOST = b"Host: a\r\n"


def read(line: bytes, fields: bytes = HOST) -> IncomingHead:
    """A head of this request line and these lines."""
    return parse_request_head(line + b"\r\n" + fields + b"\r\n")


#: Everything that must be refused: (status, head without its last empty line).
REFUSED = (
    # request line
    (400, b"GET /\r\n" + HOST),
    (400, b"GET  / HTTP/1.1\r\n" + HOST),
    (400, b"GET / HTTP/1.1 \r\n" + HOST),
    (400, b" GET / HTTP/1.1\r\n" + HOST),
    (400, b"GET / x HTTP/1.1\r\n" + HOST),
    (400, b"GET\t/\tHTTP/1.1\r\n" + HOST),
    (400, b"G(T / HTTP/1.1\r\n" + HOST),
    (400, b"G\xc9T / HTTP/1.1\r\n" + HOST),
    (400, b"GET a HTTP/1.1\r\n" + HOST),
    (400, b"GET * HTTP/1.1\r\n" + HOST),
    (400, b"GET /\xe9 HTTP/1.1\r\n" + HOST),
    (400, b"GET /#fragment HTTP/1.1\r\n" + HOST),
    (400, b"GET ftp://a/ HTTP/1.1\r\n" + HOST),
    (400, b"GET http:/// HTTP/1.1\r\n" + HOST),
    (400, b"GET / http/1.1\r\n" + HOST),
    (400, b"GET / HTTP/1\r\n" + HOST),
    (400, b"GET / HTTP/1.10\r\n" + HOST),
    (400, b"GET / HTTQ/1.1\r\n" + HOST),
    (505, b"GET / HTTP/1.2\r\n" + HOST),
    (505, b"GET / HTTP/0.9\r\n" + HOST),
    (505, b"PRI * HTTP/2.0\r\n"),
    (501, b"CONNECT a:443 HTTP/1.1\r\n" + HOST),
    # Host
    (400, b"GET / HTTP/1.1\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n"),
    (400, b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a b\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n"),
    # body
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x10\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n".replace(b"\x0b", b"'")),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n"),
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n"),
    # fields
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nz: a\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX\xfc: y\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n"),
)


class RequestHeadTests(SynchronousTestCase):
    """Complete heads."""

    def test_ordinary(self) -> None:
        incoming = read(
            b"POST /v1/messages?beta=true HTTP/1.1", HOST + b"x-App: cli\r\nContent-Length: 12\r\n"
        )
        self.assertEqual((incoming.head.method, incoming.head.target), (b"POST", b"/v1/messages?beta=true"))
        self.assertEqual(
            incoming.head.headers, [(b"Host", b"a"), (b"x-App", b"cli"), (b"Content-Length", b"12")]
        )
        self.assertEqual(
            (incoming.is_http11, incoming.body_length, incoming.keep_alive, incoming.expects_continue),
            (True, 12, True, False),
        )

    def test_bodies(self) -> None:
        self.assertEqual(read(b"POST / HTTP/1.1").body_length, 0)
        self.assertEqual(
            read(b"POST / HTTP/1.1", HOST + b"TRANSFER-encoding: CHUNKED\r\n").body_length, CHUNKED
        )

    def test_obs_text_in_values(self) -> None:
        incoming = read(b"GET / HTTP/1.1", HOST + b"X: \xe9\xff\r\n")
        self.assertEqual(incoming.head.headers[1], (b"X", b"\xe9\xff"))

    def test_targets(self) -> None:
        for line, target in (
            (b'GET /a?b=c/d%20|"[] HTTP/1.1', b'/a?b=c/d%20|"[]'),
            (b"GET //a HTTP/1.1", b"//a"),
            (b"OPTIONS * HTTP/1.1", b"*"),
            (b"GET http://b/x?y HTTP/1.1", b"/x?y"),
            (b"GET HTTPS://b HTTP/1.1", b"/"),
            (b"GET http://b?y HTTP/1.1", b"/?y"),
        ):
            self.assertEqual(read(line).head.target, target)

    def test_hosts(self) -> None:
        for host in (b"", b"a.b-c_d", b"a:8080", b"[::1]:80", b"127.0.0.1:"):
            read(b"GET / HTTP/1.1", b"Host: " + host + b"\r\n")
        read(b"GET / HTTP/1.0", b"")

    def test_connections(self) -> None:
        for version, connection, kept in (
            (b"1.1", b"", True),
            (b"1.1", b"Connection: Close\r\n", False),
            (b"1.1", b"Connection: a, close\r\n", False),
            (b"1.1", b"Connection: a\r\nConnection: close\r\n", False),
            (b"1.1", b"Connection: closed\r\n", True),
            (b"1.0", b"", False),
            (b"1.0", b"Connection: Keep-Alive\r\n", True),
        ):
            incoming = read(b"GET / HTTP/" + version, HOST + connection)
            self.assertIs(incoming.keep_alive, kept, connection)

    def test_upgrades(self) -> None:
        """Spec 10: whoever asks to leave HTTP and is refused may read the answer until the connection ends."""
        for method, upgrade, kept in (
            (b"GET", b"Upgrade: websocket\r\n", False),
            (b"GET", b"UPGRADE: WebSocket\r\nConnection: Upgrade, keep-alive\r\n", False),
            (b"GET", b"Upgrade: reverse-proxy\r\n", False),
            (b"GET", b"Upgrade: h2c\r\n", True),
            (b"GET", b"Upgrade: h2\r\n", True),
            (b"GET", b"X-Upgrade: websocket\r\n", True),
            (b"GET", b"Upgrade:\r\n", True),
            (b"GET", b"Upgrade:  \r\nConnection: upgrade\r\n", True),
            (b"POST", b"Upgrade: websocket\r\n", True),
        ):
            self.assertIs(read(method + b" / HTTP/1.1", HOST + upgrade).keep_alive, kept, (method, upgrade))

    def test_expectation(self) -> None:
        expect = HOST + b"Expect: 100-Continue\r\n"
        self.assertTrue(read(b"POST / HTTP/1.1", expect).expects_continue)
        self.assertFalse(read(b"POST / HTTP/1.0", expect).expects_continue)

    def test_refused(self) -> None:
        for status, raw in REFUSED:
            with self.assertRaises(FramingError, msg=repr(raw)) as caught:
                parse_request_head(raw + b"\r\n")
            self.assertEqual(caught.exception.status, status, raw)

    def test_number_of_fields(self) -> None:
        """F63: a field takes four bytes of a head, and some microseconds in every place that goes through them."""
        head = b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * (MOST_FIELDS - 1)
        self.assertEqual(len(parse_request_head(head + b"\r\n").head.headers), MOST_FIELDS)
        with self.assertRaises(FramingError) as caught:
            parse_request_head(head + b"a:\r\n\r\n")
        self.assertEqual(caught.exception.status, 431)

    @given(st.binary())
    def test_garbage(self, garbage: bytes) -> None:
        try:
            parse_request_head(garbage + b"\r\n\r\n")
        except FramingError:
            pass

    @given(st.sampled_from(REFUSED), st.integers(0, 200), st.binary(min_size=1, max_size=2))
    def test_damaged(self, refused: tuple[int, bytes], place: int, damage: bytes) -> None:
        raw = refused[1]
        place %= len(raw)
        try:
            parse_request_head(raw[:place] + damage + raw[place + 1 :] + b"\r\n")
        except FramingError as error:
            self.assertIn(error.status, (400, 417, 501, 505))


class PartialHeadTests(SynchronousTestCase):
    """Heads of which only the beginning has arrived."""

    def test_every_beginning_of_a_good_head_passes(self) -> None:
        raw = b"GET / HTTP/1.1\r\nHost: a\r\nX:\t\xe9\r\n\r\n"
        for searched in range(len(raw)):
            for end in range(searched, len(raw)):
                check_partial(raw[:end], searched)

    def test_what_will_never_be_a_head(self) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01"
        for raw in (
            hello,
            b"GET / HTTP/1.1\n",
            b"\nGET",
            b"GET / HTTP/1.1\rX",
            b"GET / HTTP/1.1\r\nX\0",
            b"\r\r",
        ):
            with self.assertRaises(FramingError, msg=repr(raw)):
                check_partial(raw, 0)
            with self.assertRaises(FramingError, msg=repr(raw)):
                for end in range(1, len(raw) + 1):
                    check_partial(raw[:end], end - 1)
