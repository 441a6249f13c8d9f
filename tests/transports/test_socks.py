"""SOCKS5 as bytes: RFC 1928 and RFC 1929."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.transports.proxy_dialogue import Login, ProxyError
from ccmproxy.transports.socks import SocksHandshake
from tests.profiles import examples

LOGIN = Login("me", "s3cr3t")
LOGIN_MESSAGE = b"\x01\x02me\x06s3cr3t"
REQUEST = b"\x05\x01\x00\x03\x06h.test\x01\xbb"
#: The three forms of the address that the proxy connects from.
REPLIES = [
    b"\x05\x00\x00\x01\x0a\x00\x00\x01\x12\x34",
    b"\x05\x00\x00\x04" + bytes(16) + b"\x12\x34",
    b"\x05\x00\x00\x03\x05proxy\x12\x34",
    b"\x05\x00\x00\x03\x00\x12\x34",
]


def talk(handshake: SocksHandshake, data: bytes, size: int | None = None) -> bytes:
    """Receive ``data`` in pieces of ``size`` bytes until the handshake is over; return all that we send meanwhile."""
    size = size or max(1, len(data))
    said = handshake.start()
    for start in range(0, len(data), size):
        said += handshake.receive(data[start : start + size])
        if handshake.rest is not None:
            handshake.rest += data[start + size :]
            break
    return said


def outcome(data: bytes, size: int | None, login: Login | None) -> tuple[bytes | None, str]:
    """Return the bytes after the handshake, or the error message."""
    handshake = SocksHandshake("h.test", 443, login)
    try:
        talk(handshake, data, size)
    except ProxyError as error:
        return None, str(error)
    return handshake.rest, ""


class ConversationTests(SynchronousTestCase):
    """The messages of both sides, and their order."""

    def test_without_login(self) -> None:
        for reply in REPLIES:
            handshake = SocksHandshake("h.test", 443)
            self.assertEqual(handshake.start(), b"\x05\x01\x00")
            self.assertEqual(handshake.receive(b"\x05\x00"), REQUEST)
            self.assertIsNone(handshake.rest)
            self.assertEqual(handshake.receive(reply + b"220 hello"), b"")
            self.assertEqual(handshake.rest, b"220 hello")

    def test_with_login(self) -> None:
        handshake = SocksHandshake("h.test", 443, LOGIN)
        self.assertEqual(handshake.start(), b"\x05\x02\x00\x02")
        self.assertEqual(handshake.receive(b"\x05\x02"), LOGIN_MESSAGE)
        self.assertEqual(handshake.receive(b"\x01\x00"), REQUEST)
        handshake.receive(REPLIES[0])
        self.assertEqual(handshake.rest, b"")

    def test_a_proxy_that_needs_no_login_is_not_told_it(self) -> None:
        handshake = SocksHandshake("h.test", 443, LOGIN)
        self.assertEqual(talk(handshake, b"\x05\x00" + REPLIES[0]), b"\x05\x02\x00\x02" + REQUEST)

    def test_the_login_reply_may_repeat_the_version_of_socks(self) -> None:
        handshake = SocksHandshake("h.test", 443, LOGIN)
        talk(handshake, b"\x05\x02\x05\x00" + REPLIES[0])
        self.assertEqual(handshake.rest, b"")

    def test_addresses(self) -> None:
        for host, expected in (
            ("192.0.2.7", b"\x01\xc0\x00\x02\x07"),
            ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
            ("a.b", b"\x03\x03a.b"),
            ("bücher.example", b"\x03\x15xn--bcher-kva.example"),
        ):
            handshake = SocksHandshake(host, 0x1234)
            self.assertEqual(handshake.receive(b"\x05\x00"), b"\x05\x01\x00" + expected + b"\x12\x34")

    def test_lengths(self) -> None:
        longest = "x" * 255
        SocksHandshake(longest, 1, Login(longest, longest))
        for host, username, password in (
            (longest + "x", "a", "a"),
            ("h", longest + "x", "a"),
            ("h", "a", longest + "x"),
            ("h", "a", "ä" * 128),
        ):
            with self.assertRaises(ValueError) as raised:
                SocksHandshake(host, 1, Login(username, password))
            self.assertNotIn("xxx", str(raised.exception))


class RefusalTests(SynchronousTestCase):
    """Why there is no connection, in words."""

    def refused(self, data: bytes, login: Login | None = None) -> str:
        """The error message, which is the same however the bytes are split."""
        rest, message = outcome(data, None, login)
        self.assertIsNone(rest)
        self.assertEqual(outcome(data, 1, login), (None, message))
        self.assertNotEqual(message, "")
        return message

    def test_methods(self) -> None:
        self.assertIn("wants a user name", self.refused(b"\x05\xff"))
        self.assertIn("accepts no user name", self.refused(b"\x05\xff", LOGIN))
        self.assertIn("not offered (2)", self.refused(b"\x05\x02"))
        self.assertIn("not offered (1)", self.refused(b"\x05\x01", LOGIN))

    def test_login(self) -> None:
        for status in (1, 2, 255):  # anything but 0 (RFC 1929 section 2)
            message = self.refused(b"\x05\x02\x01" + bytes([status]), LOGIN)
            self.assertIn("does not accept", message)
            self.assertNotIn(LOGIN.password, message)

    def test_replies(self) -> None:
        for code, words in (
            (1, "general failure"),
            (2, "not allowed"),
            (3, "network unreachable"),
            (4, "host unreachable"),
            (5, "connection refused"),
            (6, "TTL expired"),
            (7, "command not supported"),
            (8, "address type not supported"),
            (9, "reply code 9"),
            (255, "reply code 255"),
        ):
            self.assertIn(words, self.refused(b"\x05\x00\x05" + bytes([code])))

    def test_not_socks(self) -> None:
        self.assertIn("not a SOCKS5 proxy", self.refused(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        self.assertIn("not a SOCKS5 proxy", self.refused(b"\x00\x5a"))
        self.assertIn("not SOCKS5", self.refused(b"\x05\x00\x04\x00"))
        self.assertIn("unknown type (2)", self.refused(b"\x05\x00\x05\x00\x00\x02\x00"))


class PieceTests(SynchronousTestCase):
    """Any bytes, in pieces of any size."""

    @examples(200)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.binary(max_size=300).map(b"\x05\x00".__add__),
            st.binary(max_size=300).map(b"\x05\x02\x01\x00".__add__),
            st.tuples(st.sampled_from(REPLIES), st.binary(max_size=20)).map(
                lambda parts: b"\x05\x02\x01\x00" + parts[0] + parts[1]
            ),
        ),
        st.integers(min_value=1, max_value=7),
        st.sampled_from([None, LOGIN]),
    )
    def test_pieces_make_no_difference(self, data: bytes, size: int, login: Login | None) -> None:
        """However the bytes are split, the result is the same, and nothing but ProxyError is raised."""
        self.assertEqual(outcome(data, size, login), outcome(data, None, login))
