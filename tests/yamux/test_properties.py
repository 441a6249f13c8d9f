"""Properties of every session, whatever the peer sends and however the carrier splits it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux import Direction, ProtocolError, SessionConfig, SessionEnded, Stream
from ccmproxy.yamux.errors import PeerFailed
from ccmproxy.yamux.frames import DATA, FIN, RST, SYN, WINDOW_UPDATE
from tests.profiles import examples
from tests.yamux.sides import ConnectionPair, Side, described, frame, told

KIB = 1024
WINDOW = 256 * KIB

CONFIGS = st.builds(
    SessionConfig,
    max_window=st.integers(WINDOW, 4 * WINDOW),
    max_frame=st.sampled_from([1000, 32 * KIB, WINDOW]),
)


def check(side: Side) -> None:
    """Check the invariants of a session."""
    session = side.session
    streams = list(session._streams)
    for stream in streams:
        window = stream.receive_window
        assert window.remaining >= 0 and window.unread >= stream.held >= 0
        assert window.remaining + window.unread <= window.maximum == side.config.max_window
        assert 0 <= stream.send_window.available < 2**32
        assert not stream.is_closed
        assert (stream.inbound, stream.outbound) != (Direction.ENDED, Direction.ENDED)
    assert len(session._opening.unacknowledged) <= side.config.open_backlog
    assert session.unread >= sum(stream.held for stream in streams)
    if session.error is not None:
        assert not streams
        assert isinstance(side.events[-1], SessionEnded)


class AnyFrameTests(SynchronousTestCase):
    """Every frame in every state of a stream."""

    #: How to bring the stream with id 1 into each state.
    STATES = (
        "never opened",
        "opened by the peer",
        "opened by us",
        "acknowledged",
        "ended by the peer",
        "ended by us",
        "ending",
        "closed",
        "discarding",
        "reset",
        "in a frame",
    )

    def side_in(self, state: str) -> Side:
        """Return a session whose stream 1 is in ``state``."""
        side = Side(SessionConfig(max_window=WINDOW), is_client=True)
        if state in ("opened by us", "acknowledged"):
            side.open()
            if state == "acknowledged":
                side.receive(frame(WINDOW_UPDATE, 2, 1))
        elif state != "never opened":
            side.receive(frame(WINDOW_UPDATE, SYN, 1))
            stream = side.streams[1]
            session = side.session
            match state:
                case "ended by the peer":
                    side.receive(frame(WINDOW_UPDATE, FIN, 1))
                case "ended by us":
                    session.close_write(stream)
                case "ending":
                    session.send(stream, bytes(WINDOW + 1))
                    session.close_write(stream)
                case "closed":
                    side.receive(frame(WINDOW_UPDATE, FIN, 1))
                    session.close_write(stream)
                case "discarding":
                    session.close(stream, side.now)
                case "reset":
                    side.receive(frame(WINDOW_UPDATE, RST, 1))
                case "in a frame":
                    side.receive(frame(DATA, 0, 1, 5) + b"abcde")
        side.output()
        return side

    @given(
        st.sampled_from(STATES),
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.integers(0, 31),
                st.sampled_from([0, 1, 2, 3]),
                st.sampled_from([0, 1, 5, WINDOW - 5, WINDOW, WINDOW + 1, 2**32 - 1]),
            ),
            min_size=1,
            max_size=3,
        ),
        st.sampled_from(["nothing", "send", "close", "reset", "read"]),
    )
    @examples(300)
    def test_any_frame(self, state: str, sent: list[tuple[int, int, int, int]], act: str) -> None:
        """After any frame in any state, the session either still works or has ended for good."""
        side = self.side_in(state)
        for kind, flags, stream_id, length in sent:
            payload = bytes(min(length, WINDOW)) if kind == DATA else b""
            side.receive(frame(kind, flags, stream_id, length, payload))
            check(side)
            stream = side.streams.get(1)
            if stream is not None:
                self.act(side, stream, act)
                side.output()
                check(side)
        described(side.output())
        if side.session.error is not None:
            self.assertIsInstance(side.session.error, ProtocolError | PeerFailed)
            self.assertEqual(sum(isinstance(event, SessionEnded) for event in side.events), 1)

    def act(self, side: Side, stream: Stream, act: str) -> None:
        """The calls that an owner makes."""
        session = side.session
        if act == "send" and stream.outbound is Direction.OPEN:
            session.send(stream, bytes(100))
        elif act == "close":
            session.close(stream, side.now)
        elif act == "reset":
            session.reset(stream)
        elif act == "read":
            session.consumed(stream, stream.held)


class GarbageTests(SynchronousTestCase):
    """Arbitrary bytes from the peer."""

    #: Mostly valid frames of few streams: random bytes would end the session at the first header.
    FRAMES = st.builds(
        lambda kind, flags, stream_id, payload, number: frame(
            kind, flags, stream_id, *((0, payload) if kind == DATA else (number, b""))
        ),
        st.integers(0, 3),
        st.integers(0, 15),
        st.integers(0, 3),
        st.binary(max_size=20),
        st.sampled_from([0, 1, 0, WINDOW]),
    )
    BYTES = st.lists(st.one_of(FRAMES, FRAMES, FRAMES, FRAMES, st.binary(max_size=15)), max_size=12).map(
        b"".join
    )

    @given(BYTES, st.integers(1, 20))
    @examples(200)
    def test_whole_is_byte_by_byte(self, data: bytes, step: int) -> None:
        """Events and answers are the same, however the bytes are split."""
        results = []
        for size in (len(data) or 1, 1, step):
            side = Side()
            for at in range(0, len(data), size):
                side.receive(data[at : at + size])
            error = side.session.error
            results.append((told(side.events), side.says(), type(error), str(error)))
            if error is not None:
                self.assertIsInstance(error, ProtocolError | PeerFailed)
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])


class JoinedTests(SynchronousTestCase):
    """Two sessions with different limits, and a carrier that splits the bytes at random."""

    @given(CONFIGS, CONFIGS, st.integers(0, 2**32))
    @examples(25)
    def test_everything_arrives(self, client: SessionConfig, server: SessionConfig, seed: int) -> None:
        chance = random.Random(seed)
        pair = ConnectionPair(client, server)
        sides = (pair.client, pair.server)
        given_: dict[tuple[Side, int], bytearray] = {}
        got: dict[tuple[Side, int], bytearray] = {}

        def step(finishing: bool) -> bool:
            """Do something on each side; return whether anything happened."""
            happened = False
            for side in sides:
                if not finishing and chance.random() < 0.1 and side.session.streams < 6:
                    side.open()
                for stream in list(side.streams.values()):
                    key = side, stream.id
                    if stream.outbound is Direction.OPEN and not finishing and chance.random() < 0.4:
                        data = chance.randbytes(chance.choice((1, 100, 50_000)))
                        side.session.send(stream, data)
                        given_.setdefault(key, bytearray()).extend(data)
                    if stream.outbound is Direction.OPEN and chance.random() < (1 if finishing else 0.05):
                        side.session.close_write(stream)
                        happened = True
                    if finishing or chance.random() < 0.5:
                        data = side.read(stream, chance.choice((10, 100_000, 1_000_000)))
                        got.setdefault(key, bytearray()).extend(data)
                        happened = happened or bool(data)
                piece = chance.choice((1000, 7777, 1 << 20))
                happened = pair.move(side, chance.choice((1, 40_000, 1 << 20)), piece) or happened
                check(side)
            return happened

        for _ in range(40):
            step(False)
        while step(True):
            pass
        for side in sides:
            self.assertIsNone(side.session.error)
            self.assertEqual((side.session.streams, side.session.unread), (0, 0))
            for stream_id in side.streams:
                sent = given_.get((side, stream_id), b"")
                received = got.get((pair.peer(side), stream_id), b"")
                self.assertTrue(received == sent, f"stream {stream_id}: {len(received)} of {len(sent)} bytes")
