"""The frames of WebSockets, and what the messages in them mean."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.websocket_frames import CodexFrames
from ccmproxy.http.message import RequestHead
from ccmproxy.websocket.connection import Connection, Message, ProtocolError
from ccmproxy.websocket.deflate import DeflateAgreement
from ccmproxy.websocket.frame_head import frame_head
from ccmproxy.websocket.handshake import HandshakeError, accept
from ccmproxy.websocket.masking import mask
from tests.effort import Effort
from tests.fuzz.mutation import PIECES, mutated, pieces
from tests.profiles import examples

LIMIT = 20_000


def _packed(data: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _frame(first: int, payload: bytes) -> bytes:
    key = b"\x01\x02\x03\x04"
    return frame_head(first, len(payload), True) + key + bytes(mask(payload, key))


TEXTS = st.sampled_from(
    (
        b'{"type":"response.create","model":"m","input":[]}',
        b'{"type":"response.completed","response":{"usage":{"input_tokens":5}}}',
        b'{"type":"error","status":429,"error":{"code":"usage_limit_reached"},"headers":{"x-a":1}}',
        b'{"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":5}}}',
        "größer 🙂".encode(),
        b"",
        b"x" * 200,
    )
)
FRAMES = st.lists(
    st.one_of(
        TEXTS.map(lambda text: _frame(0x81, text)),
        TEXTS.map(lambda text: _frame(0xC1, _packed(text))),
        TEXTS.map(lambda text: _frame(0x01, text[:3]) + _frame(0x89, b"p") + _frame(0x80, text[3:])),
        TEXTS.map(lambda text: _frame(0x41, _packed(text)[:3]) + _frame(0x80, _packed(text)[3:])),
        st.sampled_from(
            (_frame(0x8A, b""), _frame(0x88, b"\x03\xe8bye"), _frame(0xC1, _packed(bytes(500_000))))
        ),
    ),
    min_size=1,
    max_size=5,
).map(b"".join)
_TOKENS = (
    *(b"\x81\xfe", b"\x81\xff\0\0\0\0\0\1\0\0", b"\x00\x80\0\0\0\0"),
    *(_frame(0x00, b"x") * 500, _frame(0x89, b"") * 500),
)


class FrameTests(SynchronousTestCase):
    """What comes from a client."""

    def read(self, data: bytes, size: int) -> list[object]:
        connection = Connection(None, DeflateAgreement(), LIMIT)
        found: list[object] = []
        try:
            for piece in pieces(data, size):
                connection.receive(piece)
                while (event := connection.next_event()) is not None:
                    found.append(event)
        except ProtocolError as error:
            found.append(error.code)
        return found

    @given(mutated(FRAMES, _TOKENS))
    @examples(200)
    def test_frames(self, data: bytes) -> None:
        with Effort(memory=True) as effort:
            whole = self.read(data, 0)
        self.assertLess(effort.lines, 500 + 20 * len(data))
        self.assertLess(effort.peak, 450_000 + 6 * LIMIT + 40 * len(data))
        for event in whole:
            if isinstance(event, Message):
                self.assertLessEqual(len(event.data), LIMIT)
        for size in PIECES:
            found = self.read(data, size)
            # A violation may be seen before or after an event that is complete already.
            if whole and isinstance(whole[-1], int):
                self.assertIsInstance(found[-1], int)
            else:
                self.assertEqual(found, whole)


class MeaningTests(SynchronousTestCase):
    """What messages mean: nothing is raised, whatever they hold."""

    @given(mutated(TEXTS, (b'"response.create"', b'{"type":"error",', b"[1," * 500)))
    @examples(200)
    def test_messages(self, data: bytes) -> None:
        frames = CodexFrames()
        with Effort() as effort:
            frames.client_frame(data)
            frames.upstream_frame(data, 1000.0)
        self.assertLess(effort.lines, 2000 + len(data))

    @given(
        mutated(
            st.sampled_from(
                (b"permessage-deflate", b'permessage-deflate; client_max_window_bits=9, x; y="z"', b"a;b;c")
            ),
            (b";", b",", b'"', b"\\", b"; server_no_context_takeover"),
        )
    )
    @examples(200)
    def test_extensions(self, data: bytes) -> None:
        """What a client offers in its handshake."""
        head = RequestHead(
            b"GET",
            b"/v1/responses",
            [
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Sec-WebSocket-Version", b"13"),
                (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"Sec-WebSocket-Extensions", data),
            ],
        )
        with Effort() as effort:
            try:
                accept(head)
            except HandshakeError:
                pass
        self.assertLess(effort.lines, 500 + 20 * len(data))
