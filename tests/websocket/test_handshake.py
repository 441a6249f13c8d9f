"""Tests for :mod:`ccmproxy.websocket.handshake`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import Headers, RequestHead, ResponseHead, first_value
from ccmproxy.websocket.deflate import DeflateAgreement
from ccmproxy.websocket.handshake import (
    HandshakeError,
    accept,
    accept_value,
    check_answer,
    request_fields,
    wants_websocket,
    without_handshake,
)

NONCE = bytes(range(16))


def request(**changes: str | None) -> RequestHead:
    """A client's handshake; ``changes``: values by field name with underscores, None takes the field away."""
    fields: dict[str, str | None] = {
        "Host": "proxy",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    names = {name.lower().replace("-", "_"): name for name in fields}
    for key, value in changes.items():
        fields[names.get(key, key.replace("_", "-"))] = value
    headers = [
        (name.encode(), value.encode("latin-1")) for name, value in fields.items() if value is not None
    ]
    return RequestHead(b"GET", b"/v1/responses", headers)


def response(fields: Headers, status: int = 101) -> ResponseHead:
    """An upstream's answer."""
    return ResponseHead(status, b"Switching Protocols", fields)


class ServerTests(SynchronousTestCase):
    """Accepting clients."""

    def test_example_of_the_rfc(self) -> None:
        """RFC 6455 section 1.3."""
        accepted = accept(request())
        self.assertEqual(
            accepted.headers,
            [
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ],
        )
        self.assertIsNone(accepted.agreement)

    def test_lists_and_case(self) -> None:
        accept(request(connection="keep-alive, UPGRADE", upgrade="h2c, WebSocket"))

    def test_compression(self) -> None:
        """As the official client offers it; not if it is not wanted."""
        head = request(sec_websocket_extensions="permessage-deflate; client_max_window_bits")
        accepted = accept(head)
        self.assertEqual(accepted.agreement, DeflateAgreement())
        self.assertEqual(
            first_value(accepted.headers, b"sec-websocket-extensions"),
            b"permessage-deflate",
        )
        self.assertIsNone(accept(head, compress=False).agreement)
        self.assertIsNone(first_value(accept(head, compress=False).headers, b"sec-websocket-extensions"))

    def test_extensions_that_cannot_be_read(self) -> None:
        """Left out, and what can be read counts."""
        for text in (
            "permessage-deflate; =",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            ";;;",
            "permessage-deflate; a b",
            "x" * 100_000,
        ):
            self.assertIsNone(accept(request(sec_websocket_extensions=text)).agreement, text[:80])
        accepted = accept(
            request(sec_websocket_extensions='bad; =, permessage-deflate; server_max_window_bits="12"')
        )
        self.assertEqual(accepted.agreement, DeflateAgreement(12))

    def test_bad_handshakes(self) -> None:
        """Each field missing or wrong; nothing that was sent stands in the message."""
        for changes in (
            {"connection": None},
            {"connection": "keep-alive"},
            {"upgrade": "websockets"},
            {"upgrade": None},
            {"sec_websocket_key": None},
            {"sec_websocket_key": ""},
            {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ"},
            {"sec_websocket_key": "c2hvcnQ="},
            {"sec_websocket_key": "§§§"},
        ):
            with self.assertRaises(HandshakeError) as raised:
                accept(request(**changes))
            self.assertEqual(raised.exception.status, 400, changes)
        for version in (None, "8", "", "13, 14", "x"):
            with self.assertRaises(HandshakeError) as raised:
                accept(request(sec_websocket_version=version))
            self.assertEqual(raised.exception.status, 426, version)
        twice = request()
        twice.headers.append((b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="))
        self.assertRaises(HandshakeError, accept, twice)
        post = request()
        post.method = b"POST"
        self.assertRaises(HandshakeError, accept, post)

    def test_who_asks_for_websocket(self) -> None:
        self.assertTrue(wants_websocket(request()))
        self.assertTrue(wants_websocket(request(upgrade="WebSocket", connection=None)))
        self.assertFalse(wants_websocket(request(upgrade="h2c")))
        self.assertFalse(wants_websocket(request(upgrade=None)))

    def test_fields_of_the_handshake(self) -> None:
        """They concern one connection; the others pass."""
        head = request(sec_websocket_extensions="x", openai_beta="y")
        self.assertEqual(
            [name for name, _ in without_handshake(head.headers)],
            [b"Host", b"Connection", b"Upgrade", b"openai-beta"],
        )

    @given(st.text(alphabet=st.characters(min_codepoint=9, max_codepoint=255), max_size=80))
    def test_any_extensions(self, text: str) -> None:
        """Never an error of another kind."""
        accept(request(sec_websocket_extensions=text))


class ClientTests(SynchronousTestCase):
    """Asking an upstream."""

    def answer(self, **changes: str | None) -> ResponseHead:
        """A right answer to ``NONCE``, changed."""
        fields: dict[str, str | None] = {
            "connection": "upgrade",
            "upgrade": "WebSocket",
            "sec_websocket_accept": accept_value(
                first_value(request_fields(NONCE), b"sec-websocket-key") or b""
            ).decode(),
        }
        fields.update(changes)
        return response(
            [
                (key.replace("_", "-").encode(), value.encode())
                for key, value in fields.items()
                if value is not None
            ]
        )

    def test_both_sides_together(self) -> None:
        """What one side asks, the other takes, and its answer is a right one."""
        head = RequestHead(b"GET", b"/", request_fields(NONCE))
        accepted = accept(head)
        agreement = check_answer(NONCE, response(accepted.headers))
        self.assertEqual(accepted.agreement, DeflateAgreement())
        self.assertEqual(agreement, DeflateAgreement())
        plain = accept(RequestHead(b"GET", b"/", request_fields(NONCE, compress=False)))
        self.assertIsNone(check_answer(NONCE, response(plain.headers), compress=False))

    def test_bad_answers(self) -> None:
        for changes in (
            {"connection": None},
            {"upgrade": "h2c"},
            {"sec_websocket_accept": None},
            {"sec_websocket_accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
            {"sec_websocket_protocol": "chat"},
            {"sec_websocket_extensions": "x-webkit-deflate-frame"},
            {"sec_websocket_extensions": "permessage-deflate, permessage-deflate"},
            {"sec_websocket_extensions": "permessage-deflate; client_max_window_bits=99"},
            {"sec_websocket_extensions": ""},
        ):
            with self.assertRaises(HandshakeError):
                check_answer(NONCE, self.answer(**changes))
        self.assertIsNone(check_answer(NONCE, self.answer()))
        with self.assertRaises(HandshakeError):
            check_answer(NONCE, self.answer(sec_websocket_extensions="permessage-deflate"), compress=False)
        with self.assertRaises(HandshakeError):
            check_answer(NONCE, response([], status=200))
