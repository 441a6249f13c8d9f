"""CONNECT as bytes: RFC 9110 section 9.3.6."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.transports.connect import LONGEST_HEAD, ConnectHandshake
from ccmproxy.transports.proxy_dialogue import Login, ProxyError
from tests.profiles import examples

LOGIN = Login("me", "s3:cr3t")


def outcome(data: bytes, size: int | None = None, login: Login | None = None) -> tuple[bytes | None, str]:
    """Receive ``data`` in pieces of ``size`` bytes; return the bytes after the answer, or the error message."""
    handshake = ConnectHandshake("h.test", 443, login)
    size = size or max(1, len(data))
    try:
        for start in range(0, len(data), size):
            assert handshake.receive(data[start : start + size]) == b""
            if handshake.rest is not None:
                return handshake.rest + data[start + size :], ""
    except ProxyError as error:
        return None, str(error)
    return None, ""


class RequestTests(SynchronousTestCase):
    """The request that we send."""

    def test_request(self) -> None:
        for host, authority in (
            ("h.test", b"h.test:443"),
            ("192.0.2.7", b"192.0.2.7:443"),
            ("2001:db8::1", b"[2001:db8::1]:443"),
            ("bücher.example", b"xn--bcher-kva.example:443"),
        ):
            expected = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (authority, authority)
            self.assertEqual(ConnectHandshake(host, 443).start(), expected)

    def test_login(self) -> None:
        self.assertEqual(
            ConnectHandshake("h", 1, Login("Aladdin", "open sesame")).start(),
            b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n"
            b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",  # RFC 7617 section 2
        )
        # User names and passwords are UTF-8 (section 2.1).
        self.assertIn(b"Basic dGVzdDoxMjPCow==\r\n", ConnectHandshake("h", 1, Login("test", "123£")).start())


class AnswerTests(SynchronousTestCase):
    """The answers of the proxy."""

    def test_agreed(self) -> None:
        for head in (
            b"HTTP/1.1 200 Connection established\r\n\r\n",
            b"HTTP/1.0 200\r\n\r\n",
            b"HTTP/1.1 200 \r\n\r\n",
            b"HTTP/1.1 204 x\nVia: somebody\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ):
            for size in (None, 1):
                self.assertEqual(outcome(head, size), (b"", ""))
                self.assertEqual(outcome(head + b"220 hello\r\n\r\n", size), (b"220 hello\r\n\r\n", ""))

    def refused(self, data: bytes) -> str:
        """The error message, which is the same however the bytes are split."""
        rest, message = outcome(data, login=LOGIN)
        self.assertIsNone(rest)
        self.assertEqual(outcome(data, 1, LOGIN), (None, message))
        self.assertNotEqual(message, "")
        return message

    def test_refused(self) -> None:
        for status, words in (
            (407, "407 Proxy Authentication Required"),
            (403, "403 Forbidden"),
            (502, "502 Bad Gateway"),
            (300, "300 Multiple Choices"),
            (302, "302 Found"),
            (101, "101 Switching Protocols"),
        ):
            answer = b"HTTP/1.1 %d Nope\r\nContent-Length: 4\r\n\r\nnope" % status
            self.assertEqual(self.refused(answer), f"the proxy refuses the tunnel: {words}")
        self.assertEqual(self.refused(b"HTTP/1.1 599 Nope\r\n\r\n"), "the proxy refuses the tunnel: 599")

    def test_the_proxys_words_are_not_repeated(self) -> None:
        """The error does not repeat the proxy's own words: the proxy knows the login, and might quote it."""
        said = ConnectHandshake("h", 1, LOGIN).start().rpartition(b"Basic ")[2].strip()
        self.assertNotIn(said.decode(), self.refused(b"HTTP/1.1 407 %b is wrong\r\n\r\n" % said))

    def test_not_http(self) -> None:
        for data in (b"\x05\xff", b"SSH-2.0-x\r\n", b"http/1.1 200\r\n\r\n", b"HTTP/2 200\r\n\r\n"):
            self.assertIn("not an HTTP proxy", self.refused(data))
        for data in (b"HTTP/1.1 20\r\n\r\n", b"HTTP/1.1 2000\r\n\r\n", b"HTTP/1.2 200\r\n\r\n"):
            self.assertIn("not HTTP", self.refused(data))

    def test_a_head_that_never_ends(self) -> None:
        line = b"HTTP/1.1 200 OK\r\n"
        room = LONGEST_HEAD - len(line) - len(b"A: \r\n\r\n")
        fits = line + b"A: " + b"x" * room + b"\r\n\r\n"
        self.assertEqual(outcome(fits), (b"", ""))
        for endless in (
            line + b"A: " + b"x" * (room + 1) + b"\r\n\r\n",
            line + b"A: b\r\n" * LONGEST_HEAD,
            b"HTTP/1.1 100 Continue\r\n\r\n" * LONGEST_HEAD,
        ):
            data = endless[: LONGEST_HEAD + 100]
            for size in (None, 1000):
                rest, message = outcome(data, size)
                self.assertIsNone(rest)
                self.assertIn(f"more than {LONGEST_HEAD} bytes", message)

    @examples(200)
    @given(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=60).map(b"HTTP/1.".__add__),
            st.lists(
                st.sampled_from(
                    [b"HTTP/1.1 200 OK", b"HTTP/1.1 100 C", b"HTTP/1.1 407", b"\r", b"\n", b"A: b"]
                ),
                max_size=12,
            ).map(b"".join),
        ),
        st.integers(min_value=1, max_value=7),
    )
    def test_pieces_make_no_difference(self, data: bytes, size: int) -> None:
        """However the bytes are split, the result is the same, and nothing but ProxyError is raised."""
        self.assertEqual(outcome(data, size), outcome(data))
