"""Tests for :mod:`ccmproxy.yamux.session`: conversations with a peer that the test plays."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux import (
    CannotOpen,
    CarrierClosed,
    DataReceived,
    EndReceived,
    EndSent,
    PeerFailed,
    PeerGoesAway,
    PingAnswered,
    ProtocolError,
    Rate,
    SessionConfig,
    SessionEnded,
    SessionTimeout,
    Stream,
    StreamAcknowledged,
    StreamOpened,
    StreamReset,
)
from ccmproxy.yamux.frames import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE
from tests.yamux.sides import ALL, ConnectionPair, Side, frame

KIB = 1024
WINDOW = 256 * KIB


class SessionCase(SynchronousTestCase):
    """Set-up and checks that the tests share."""

    def server(self, config: SessionConfig | None = None) -> Side:
        """Make a session that accepts every stream and consumes no data."""
        side = Side(config or SessionConfig(max_window=WINDOW))
        side.on_event = side.hold
        return side

    def opened(self, side: Side, stream_id: int = 1) -> Stream:
        """Let the peer open a stream, and return it."""
        side.receive(frame(WINDOW_UPDATE, SYN, stream_id))
        side.output()
        return side.streams[stream_id]

    def acknowledged(self, side: Side) -> Stream:
        """Open a stream, let the peer acknowledge it, and return it."""
        stream = side.open()
        side.receive(frame(WINDOW_UPDATE, ACK, stream.id))
        side.output()
        return stream

    def last_error(self, side: Side) -> str:
        """Return why the session ended; check that the last event says so and that the peer is told by GO_AWAY(1)."""
        event = side.events[-1]
        assert isinstance(event, SessionEnded), event
        self.assertIs(event.error, side.session.error)
        self.assertIsInstance(event.error, ProtocolError)
        self.assertEqual(side.says()[-1], "GOAWAY id=0 len=1")
        return str(event.error)


class OpeningTests(SessionCase):
    """Opening streams."""

    def test_ids(self) -> None:
        for is_client, ids in ((True, [1, 3, 5]), (False, [2, 4, 6])):
            side = Side(is_client=is_client)
            self.assertEqual([side.open().id for _ in range(3)], ids)

    def test_data_at_once(self) -> None:
        """Data is sent before the acknowledgement, as far as the initial window allows."""
        side = Side(is_client=True)
        stream = side.open()
        side.session.send(stream, bytes(WINDOW + 1))
        said = side.says()
        self.assertEqual(said[0], "WUPD|SYN id=1 len=262144")
        self.assertEqual(len(said), 1 + WINDOW // (32 * KIB))
        self.assertEqual(stream.queue.size, 1)
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, ACK, 1, 5)), ["DATA id=1 len=1 b'\\x00'"])
        self.assertIn(StreamAcknowledged(stream), side.events)
        self.assertEqual(stream.send_window.available, 4)

    def test_window_of_the_syn(self) -> None:
        side = self.server()
        side.receive(frame(WINDOW_UPDATE, SYN, 1, 1000))
        self.assertEqual(side.streams[1].send_window.available, WINDOW + 1000)

    def test_acknowledged_once_and_at_once(self) -> None:
        side = Side()  # nobody accepts
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 1)), ["WUPD|ACK id=1 len=262144"])
        side.session.accept(side.streams[1])
        side.session.send(side.streams[1], b"x")
        self.assertEqual(side.says(), ["DATA id=1 len=1 b'x'"])

    def test_any_frame_acknowledges(self) -> None:
        for answer in (
            frame(WINDOW_UPDATE, 0, 1, 5),
            frame(DATA, 0, 1, payload=b"x"),
            frame(WINDOW_UPDATE, FIN, 1),
            frame(WINDOW_UPDATE, RST, 1),
        ):
            side = Side(SessionConfig(open_backlog=1), is_client=True)
            stream = side.open()
            self.assertEqual(side.receive(answer)[0], StreamAcknowledged(stream))
            side.open()

    def test_too_many_not_acknowledged(self) -> None:
        side = Side(is_client=True)
        streams = [side.open() for _ in range(256)]
        error = self.assertRaises(CannotOpen, side.open)
        self.assertFalse(error.for_good)
        side.receive(frame(WINDOW_UPDATE, ACK, streams[100].id))
        self.assertEqual(side.open().id, 513)
        side.session.reset(streams[0])
        self.assertEqual(side.open().id, 515)

    def test_superfluous_acknowledgement(self) -> None:
        side = Side(is_client=True)
        self.acknowledged(side)
        self.assertEqual(side.receive(frame(WINDOW_UPDATE, ACK, 1)), [])

    def test_never_acknowledged(self) -> None:
        side = Side(is_client=True)
        silent = side.open()
        side.output()
        side.wait(30)
        side.receive(frame(PING, ACK, 0, 0))
        later = self.acknowledged(side)
        self.assertEqual(side.session.next_deadline(), 1045.0)  # the keep-alive
        side.receive(frame(PING, ACK, 0, 0))
        side.session._keepalive.stop()
        self.assertEqual(side.session.next_deadline(), 1075.0)
        events = side.wait(45)
        self.assertEqual(events, [StreamReset(silent, False, "not acknowledged within 75 seconds")])
        self.assertIn("WUPD|RST id=1 len=0", side.says())
        self.assertFalse(later.is_closed)

    def test_peer_uses_ids_of_ours(self) -> None:
        side = self.server()
        self.opened(side, 2)
        self.assertEqual(side.open().id, 4)

    def test_ids_run_out(self) -> None:
        side = Side(is_client=True)
        side.session._opening._next_id = 2**32 - 1
        self.assertEqual(side.open().id, 2**32 - 1)
        error = self.assertRaises(CannotOpen, side.open)
        self.assertTrue(error.for_good)

    def test_opened_twice(self) -> None:
        side = self.server()
        self.opened(side)
        side.receive(frame(WINDOW_UPDATE, SYN, 1))
        self.assertEqual(self.last_error(side), "stream 1 was opened twice")

    def test_flags_together(self) -> None:
        """SYN, window and FIN in one frame; and a stream that is reset by the frame that opens it."""
        side = Side()
        events = side.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 7))
        self.assertEqual(events, [StreamOpened(side.streams[1]), EndReceived(side.streams[1])])
        self.assertEqual(side.streams[1].send_window.available, WINDOW + 7)
        events = side.receive(frame(DATA, SYN | RST, 3, payload=b"lost"))
        self.assertEqual([type(event) for event in events], [StreamOpened, StreamReset])
        self.assertEqual(side.session.streams, 1)


class DataTests(SessionCase):
    """Data transfer and windows."""

    def test_pieces(self) -> None:
        """Data is delivered as it arrives, without waiting for the end of a frame."""
        side = self.server()
        stream = self.opened(side)
        data = frame(DATA, 0, 1, payload=b"hello")
        self.assertEqual(side.receive(data[:14]), [DataReceived(stream, b"he")])
        self.assertEqual(side.receive(data[14:]), [DataReceived(stream, b"llo")])

    def test_credit(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, payload=bytes(WINDOW)))
        side.read(stream, WINDOW // 2 - 1)
        self.assertEqual(side.says(), [])
        side.read(stream, 1)
        self.assertEqual(side.says(), ["WUPD id=1 len=131072"])
        self.assertEqual(side.session.unread, WINDOW // 2)

    def test_credit_in_the_middle_of_a_frame(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, WINDOW) + bytes(WINDOW // 2))
        side.read(stream)
        self.assertEqual(side.says(), ["WUPD id=1 len=131072"])

    def test_no_credit_behind_the_end(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, payload=bytes(WINDOW)) + frame(WINDOW_UPDATE, FIN, 1))
        side.read(stream)
        self.assertEqual((side.says(), side.session.unread), ([], 0))

    def test_consumed_too_much(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, 10) + b"12345")
        self.assertRaises(ValueError, side.session.consumed, stream, 6)

    def test_window_exceeded(self) -> None:
        """The session ends at the header, without waiting for the payload."""
        side = self.server()
        self.opened(side)
        side.receive(frame(DATA, 0, 1, WINDOW + 1))
        self.assertEqual(self.last_error(side), "stream 1: 262145 bytes in a window of 262144")

    def test_data_behind_the_end_is_thrown_away(self) -> None:
        side = self.server()
        self.opened(side)
        self.assertEqual(len(side.receive(frame(WINDOW_UPDATE, FIN, 1))), 1)
        self.assertEqual(side.receive(frame(DATA, 0, 1, payload=b"late")), [])
        side.receive(frame(DATA, 0, 1, WINDOW))
        self.assertEqual(self.last_error(side), "stream 1: 262144 bytes in a window of 262140")

    def test_reset_in_the_middle_of_a_frame(self) -> None:
        """The rest of the payload is skipped, not parsed as a frame."""
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, FIN, 1, 10) + b"12345")
        side.session.reset(stream)
        events = side.receive(b"67890" + frame(WINDOW_UPDATE, SYN | FIN, 3))
        self.assertEqual(events, [StreamOpened(side.streams[3]), EndReceived(side.streams[3])])

    def test_frames_of_32_kib_in_turn(self) -> None:
        side = self.server()
        streams = [self.opened(side, number) for number in (1, 3)]
        for stream in streams:
            side.session.send(stream, bytes(100_000))
        lengths = [said.split()[1:3] for said in side.says()]
        self.assertEqual(lengths[:3], [["id=1", "len=32768"], ["id=3", "len=32768"], ["id=1", "len=32768"]])

    def test_full_carrier(self) -> None:
        """Control frames are sent even while the carrier is full."""
        side = self.server()
        side.session.send(self.opened(side), b"data")
        self.assertEqual(side.says(0), [])
        side.receive(frame(PING, SYN, 0, 9))
        self.assertEqual(side.says(0), ["PING|ACK id=0 len=9"])
        self.assertEqual(side.says(1), ["DATA id=1 len=4 b'data'"])

    def test_waits_for_window_too_long(self) -> None:
        side = self.server(SessionConfig(keepalive_interval=1e6))
        stream, other = self.opened(side), self.opened(side, 3)
        side.session.send(stream, bytes(WINDOW + 1))
        side.output()
        side.wait(400)
        side.answers(frame(WINDOW_UPDATE, 0, 1, 1))
        side.session.send(stream, b"xy")
        side.output()
        self.assertEqual(side.session.next_deadline(), side.now + 600)
        self.assertEqual(side.wait(599), [])
        events = side.wait(1)
        self.assertEqual(events, [StreamReset(stream, False, "the peer read nothing for 600 seconds")])
        self.assertEqual(side.says(), ["WUPD|RST id=1 len=0"])
        self.assertFalse(other.is_closed)


class EndTests(SessionCase):
    """Closing and resetting streams."""

    def test_end_by_itself(self) -> None:
        """FIN is sent after the data, never on a frame with payload."""
        side = self.server()
        stream = self.opened(side)
        side.session.send(stream, b"last")
        side.session.close_write(stream)
        side.session.close_write(stream)
        self.assertEqual(side.says(), ["DATA id=1 len=4 b'last'", "WUPD|FIN id=1 len=0"])
        self.assertEqual(side.events[-1], EndSent(stream))
        side.session.close_write(stream)
        self.assertEqual(side.says(), [])
        self.assertRaises(ValueError, side.session.send, stream, b"more")

    def test_half_closed(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.session.close_write(stream)
        side.answers(frame(DATA, 0, 1, payload=b"x"))
        self.assertEqual(side.read(stream), b"x")
        self.assertFalse(stream.is_closed)
        side.receive(frame(WINDOW_UPDATE, FIN, 1))
        self.assertTrue(stream.is_closed)
        self.assertEqual(side.session.streams, 0)

    def test_unread_survives_both_ends(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, FIN, 1, payload=b"hello"))
        side.session.close_write(stream)
        self.assertEqual((stream.is_closed, side.session.unread), (True, 5))
        self.assertEqual(side.read(stream), b"hello")
        self.assertEqual(side.session.unread, 0)

    def test_end_on_a_frame_with_payload(self) -> None:
        """FIN on a frame with payload takes effect after the payload."""
        side = self.server()
        stream = self.opened(side)
        data = frame(DATA, FIN, 1, payload=b"hello")
        events = [event for at in range(len(data)) for event in side.receive(data[at : at + 1])]
        self.assertEqual(events[-1], EndReceived(stream))
        self.assertEqual(side.read(stream), b"hello")
        self.assertEqual(events.count(EndReceived(stream)), 1)

    def test_end_on_an_empty_frame_of_data(self) -> None:
        side = self.server()
        stream = self.opened(side)
        self.assertEqual(side.receive(frame(DATA, FIN, 1)), [EndReceived(stream)])

    def test_second_end(self) -> None:
        for second in (frame(WINDOW_UPDATE, FIN, 1), frame(DATA, FIN, 1, payload=b"x")):
            side = self.server()
            self.opened(side)
            side.receive(frame(WINDOW_UPDATE, FIN, 1) + second)
            self.assertEqual(self.last_error(side), "second end of stream 1")

    def test_reset_by_us(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, payload=b"unread"))
        side.session.send(stream, b"unsent")
        side.session.reset(stream)
        side.session.reset(stream)
        self.assertEqual(side.says(), ["WUPD|RST id=1 len=0"])
        self.assertEqual((side.session.streams, side.session.unread), (0, 0))
        side.session.send(stream, b"x")
        side.session.close_write(stream)
        side.session.close(stream, side.now)
        side.session.consumed(stream, 6)
        self.assertEqual(side.answers(frame(DATA, 0, 1, payload=b"late") + frame(WINDOW_UPDATE, FIN, 1)), [])

    def test_reset_by_the_peer(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, payload=b"unread"))
        side.session.send(stream, b"unsent")
        self.assertEqual(
            side.receive(frame(WINDOW_UPDATE, RST, 1)),
            [StreamReset(stream, True, "the peer reset the stream")],
        )
        self.assertEqual((side.says(), side.session.unread, stream.queue.size), ([], 0, 0))
        side.read(stream)  # what it was given before still is its own
        self.assertEqual((side.says(), side.session.unread), ([], 0))

    def test_nothing_else_of_a_frame_that_resets(self) -> None:
        """The other flags and the payload of a frame that resets its stream are ignored, even if they are invalid."""
        for last in (frame(WINDOW_UPDATE, RST | FIN, 1), frame(DATA, RST, 1, WINDOW + 1)):
            side = self.server()
            stream = self.opened(side)
            events = side.receive(frame(WINDOW_UPDATE, FIN, 1) + last)
            self.assertEqual(events[1:], [StreamReset(stream, True, "the peer reset the stream")])
            self.assertIsNone(side.session.error)

    def test_number_used_again(self) -> None:
        """The object identifies the stream: late calls of the old owner do not affect a new stream with the same id."""
        side = self.server()
        old = self.opened(side)
        side.receive(frame(WINDOW_UPDATE, RST, 1))
        new = self.opened(side)
        side.session.send(old, b"x")
        side.session.reset(old)
        self.assertEqual((side.says(), new.is_closed), ([], False))

    def test_close_discards_and_lingers(self) -> None:
        side = self.server(SessionConfig(keepalive_interval=1e6, max_window=WINDOW))
        stream = self.opened(side)
        side.receive(frame(DATA, 0, 1, payload=b"unread"))
        side.session.send(stream, b"last")
        side.session.close(stream, side.now)
        self.assertEqual(side.says(), ["DATA id=1 len=4 b'last'", "WUPD|FIN id=1 len=0"])
        self.assertEqual(side.session.unread, 0)
        side.wait(20)
        self.assertEqual(side.answers(frame(DATA, 0, 1, payload=bytes(WINDOW - 6))), [])  # no credit
        self.assertEqual(side.session.unread, 0)
        self.assertEqual(side.session.next_deadline(), side.now + 30)
        side.wait(29)
        self.assertEqual(side.says(), [])
        side.wait(1)
        self.assertEqual(side.says(), ["WUPD|RST id=1 len=0"])
        self.assertEqual(
            side.events[-1], StreamReset(stream, False, "the peer did not close it within 30 seconds")
        )

    def test_close_in_good_order(self) -> None:
        side = self.server(SessionConfig(keepalive_interval=1e6))
        stream = self.opened(side)
        side.session.close(stream, side.now)
        side.receive(frame(WINDOW_UPDATE, FIN, 1))
        self.assertEqual(side.says(), ["WUPD|FIN id=1 len=0"])
        self.assertEqual((stream.is_closed, side.wait(100), side.says()), (True, [], []))

    def test_lingers_from_when_the_end_was_sent(self) -> None:
        """The linger time counts from when FIN was sent or the stream closed, not from an earlier frame of the peer."""
        side = self.server(SessionConfig(keepalive_interval=1e6))
        stream, ended = self.opened(side), self.opened(side, 3)
        side.session.send(stream, b"last")
        side.session.close(stream, side.now)
        side.session.close_write(ended)
        side.now += 20
        side.output()
        self.assertEqual(side.session.next_deadline(), side.now + 30)
        side.receive(frame(WINDOW_UPDATE, FIN, 1))
        side.now += 20
        side.session.close(ended, side.now)
        self.assertEqual(side.session.next_deadline(), side.now + 30)

    def test_close_after_half(self) -> None:
        side = self.server(SessionConfig(keepalive_interval=1e6))
        stream = self.opened(side)
        side.session.close_write(stream)
        side.wait(100)
        self.assertEqual(side.says(), ["WUPD|FIN id=1 len=0"])
        side.session.close(stream, side.now)
        side.wait(30)
        self.assertEqual(side.says(), ["WUPD|RST id=1 len=0"])


class SessionTests(SessionCase):
    """Pings, GO_AWAY and the end of the session."""

    def test_ping(self) -> None:
        side = Side(is_client=True)
        number = side.session.ping(side.now)
        self.assertEqual(side.says(), ["PING|SYN id=0 len=0"])
        self.assertEqual(side.receive(frame(PING, SYN, 0, number)), [])  # a question is no answer
        side.output()
        side.now += 2
        self.assertEqual(side.receive(frame(PING, ACK, 0, number)), [PingAnswered(0, 2.0)])
        self.assertEqual(side.answers(frame(PING, SYN, 5, 77)), ["PING|ACK id=0 len=77"])

    def test_keepalive(self) -> None:
        side = Side()
        self.assertEqual(side.session.next_deadline(), side.now + 15)
        side.wait(15)
        self.assertEqual(side.says(), ["PING|SYN id=0 len=0"])
        side.wait(9)
        self.assertEqual(side.receive(frame(PING, ACK, 0, 0)), [])
        self.assertEqual(side.session.next_deadline(), side.now + 15)
        side.wait(15)
        self.assertEqual(side.says(), ["PING|SYN id=0 len=1"])
        (event,) = side.wait(10)
        assert isinstance(event, SessionEnded)
        self.assertIsInstance(event.error, SessionTimeout)
        self.assertEqual(str(event.error), "no answer to a ping within 10 seconds")
        self.assertEqual((side.says(), side.session.next_deadline()), ([], float("inf")))

    def test_carrier_takes_nothing(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.session.blocked(side.now)
        side.wait(5)
        side.session.unblocked()
        side.session.blocked(side.now)
        side.session.blocked(side.now + 1)
        self.assertEqual(side.session.next_deadline(), side.now + 10)
        (event,) = side.wait(10)
        assert isinstance(event, SessionEnded)
        self.assertIsInstance(event.error, SessionTimeout)
        self.assertEqual(str(event.error), "the peer took nothing for 10 seconds")
        self.assertTrue(stream.is_closed)

    def test_peer_goes_away(self) -> None:
        side = Side(is_client=True)
        stream = self.acknowledged(side)
        self.assertEqual(side.receive(frame(GO_AWAY) + frame(GO_AWAY)), [PeerGoesAway()])
        error = self.assertRaises(CannotOpen, side.open)
        self.assertTrue(error.for_good)
        side.session.send(stream, b"x")
        self.assertEqual(side.says(), ["DATA id=1 len=1 b'x'"])
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 2)), ["WUPD|ACK id=2 len=262144"])

    def test_we_go_away(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.session.go_away()
        side.session.go_away()
        self.assertEqual(side.says(), ["GOAWAY id=0 len=0"])
        refused = frame(DATA, SYN, 3, payload=b"dropped") + frame(DATA, 0, 1, payload=b"kept")
        self.assertEqual(side.answers(refused), ["WUPD|RST id=3 len=0"])
        self.assertEqual(side.read(stream), b"kept")
        side.open()
        self.assertEqual(side.says(), ["WUPD|SYN id=2 len=0"])

    def test_peer_fails(self) -> None:
        for code in (1, 2, 9):
            side = self.server()
            stream = self.opened(side)
            event = side.receive(frame(GO_AWAY, 0, 0, code) + frame(WINDOW_UPDATE, SYN, 3))[-1]
            assert isinstance(event, SessionEnded)
            assert isinstance(event.error, PeerFailed)
            self.assertEqual((event.error.code, stream.is_closed, side.says()), (code, True, []))

    def test_carrier_ends(self) -> None:
        for data, message in (
            (b"", "the connection ended"),
            (bytes(5), "the connection ended in the middle of a frame"),
            (frame(DATA, 0, 9, 5) + b"1234", "the connection ended in the middle of a frame"),
        ):
            side = self.server()
            side.receive(data)
            side.session.receive_end()
            side.session.receive_end()
            (event,) = side.take_events()
            assert isinstance(event, SessionEnded)
            self.assertIsInstance(event.error, CarrierClosed)
            self.assertEqual(str(event.error), message)

    def test_nothing_after_the_end(self) -> None:
        side = self.server()
        stream = self.opened(side)
        side.session.send(stream, b"unsent")
        side.session.close_write(stream)
        side.receive(frame(DATA, 0, 1, payload=b"hello") + b"\1" + bytes(11))
        self.assertEqual(self.last_error(side), "version 1 of the protocol is not known")
        self.assertEqual((side.session.unread, stream.queue.size), (0, 0))
        side.session.send(stream, b"x")
        side.session.go_away()
        side.session.ping(side.now)
        self.assertEqual(
            (side.receive(frame(WINDOW_UPDATE, SYN, 3)), side.wait(1000), side.says()), ([], [], [])
        )
        side.session.consumed(stream, 5)
        self.assertEqual(side.session.unread, 0)
        self.assertFalse(side.session.can_open)
        error = self.assertRaises(CannotOpen, side.open)
        self.assertTrue(error.for_good)
        self.assertEqual(repr(side.session), f"<Session ended: {side.session.error}, 0 streams>")

    def test_repr(self) -> None:
        side = self.server()
        self.opened(side)
        self.assertEqual(repr(side.session), "<Session open, 1 streams>")

    def test_two_of_ours(self) -> None:
        """A request and its response."""
        pair = ConnectionPair()
        pair.server.on_event = pair.server.echo
        stream = pair.client.open()
        pair.client.session.send(stream, b"hello")
        pair.client.session.close_write(stream)
        pair.exchange()
        self.assertEqual(pair.client.read(stream), b"hello")
        self.assertEqual((pair.client.session.streams, pair.server.session.streams), (0, 0))


class LimitTests(SessionCase):
    """A peer that exceeds our limits."""

    def test_backlog(self) -> None:
        """Streams that the owner has not accepted."""
        side = Side()
        said = side.answers(*(frame(WINDOW_UPDATE, SYN, number) for number in range(1, 2 * 258, 2)))
        self.assertEqual(len(said), 258)
        self.assertEqual(
            said[255:], ["WUPD|ACK id=511 len=262144", "WUPD|RST id=513 len=0", "WUPD|RST id=515 len=0"]
        )
        side.session.accept(side.streams[1])
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 517)), ["WUPD|ACK id=517 len=262144"])
        side.session.close(side.streams[3], side.now)  # taken, too, though it lingers
        side.output()
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 519)), ["WUPD|ACK id=519 len=262144"])

    def test_streams_at_the_same_time(self) -> None:
        side = self.server(SessionConfig(max_inbound_streams=2, max_window=WINDOW))
        self.opened(side, 1)
        self.opened(side, 3)
        self.assertEqual(side.answers(frame(DATA, SYN, 5, payload=b"no")), ["WUPD|RST id=5 len=0"])
        side.session.reset(side.streams[1])
        side.output()
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 7)), ["WUPD|ACK id=7 len=0"])

    def test_streams_per_second(self) -> None:
        side = self.server(SessionConfig(opens=Rate(2, 1.0), max_window=WINDOW))
        self.opened(side, 1)
        self.opened(side, 3)
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 5)), ["WUPD|RST id=5 len=0"])
        side.wait(1)
        self.assertEqual(side.answers(frame(WINDOW_UPDATE, SYN, 7)), ["WUPD|ACK id=7 len=0"])

    def test_rapid_reset(self) -> None:
        side = self.server(SessionConfig(wasted_streams=Rate(10, 1.0)))
        for number in range(1, 23, 2):
            side.receive(frame(WINDOW_UPDATE, SYN, number) + frame(WINDOW_UPDATE, RST, number))
        self.assertEqual(self.last_error(side), "too many streams that were opened for nothing")

    def test_refused_and_goes_on(self) -> None:
        side = self.server(SessionConfig(max_inbound_streams=0, wasted_streams=Rate(10, 1.0)))
        side.receive(b"".join(frame(WINDOW_UPDATE, SYN, number) for number in range(1, 23, 2)))
        self.assertEqual(self.last_error(side), "too many streams that were opened for nothing")

    def test_refusals_of_the_peer_do_not_count(self) -> None:
        side = Side(SessionConfig(wasted_streams=Rate(1, 0.1)), is_client=True)
        for _ in range(10):
            side.receive(frame(WINDOW_UPDATE, RST, side.open().id))
        self.assertIsNone(side.session.error)

    def test_pings(self) -> None:
        side = self.server(SessionConfig(pings=Rate(3, 1.0)))
        self.assertEqual(len(side.answers(*[frame(PING, SYN)] * 3)), 3)
        side.wait(1)
        self.assertEqual(len(side.answers(frame(PING, SYN))), 1)
        side.receive(frame(PING, SYN))
        self.assertEqual(self.last_error(side), "too many pings")

    def test_unread_over_all_streams(self) -> None:
        """The stream that holds most is reset, not the one that happens to receive."""
        side = self.server(SessionConfig(max_unread=1000))
        slow, quick, other = (self.opened(side, number) for number in (1, 3, 5))
        side.receive(frame(DATA, 0, 1, payload=bytes(600)) + frame(DATA, 0, 3, payload=bytes(400)))
        side.read(quick)
        side.receive(frame(DATA, 0, 5, payload=bytes(400)))
        self.assertEqual(side.says(), [])
        events = side.receive(frame(DATA, 0, 3, payload=b"x"))
        self.assertEqual(events[1:], [StreamReset(slow, False, "too much of what came was not read")])
        self.assertEqual((side.says(), side.session.unread), (["WUPD|RST id=1 len=0"], 401))
        self.assertFalse(quick.is_closed or other.is_closed)

    def test_unread_of_the_stream_that_receives(self) -> None:
        side = self.server(SessionConfig(max_unread=1000))
        stream = self.opened(side)
        side.receive(frame(DATA, FIN, 1, payload=bytes(1001)) + frame(WINDOW_UPDATE, SYN, 3))
        self.assertTrue(stream.is_closed)
        self.assertNotIn(EndReceived(stream), side.events)
        self.assertEqual(side.says()[0], "WUPD|RST id=1 len=0")

    def test_memory_while_nobody_reads(self) -> None:
        """Memory is bounded for a peer that fills every window of as many streams as it may open."""
        side = self.server(SessionConfig(max_inbound_streams=5, max_window=WINDOW))
        for number in range(1, 21, 2):
            side.receive(frame(WINDOW_UPDATE, SYN, number) + frame(DATA, 0, number, payload=bytes(WINDOW)))
        self.assertEqual(side.session.unread, 5 * WINDOW)

    def test_output_while_the_carrier_is_full(self) -> None:
        """Memory is bounded for a peer that never reads, until it is given up."""
        side = Side(SessionConfig(keepalive_interval=1e6))
        side.on_event = side.echo
        side.session.blocked(side.now)
        size = number = 0
        for _ in range(3):
            for _ in range(100):
                number = number % 2000 + 2
                side.receive(frame(PING, SYN) + frame(WINDOW_UPDATE, SYN | FIN, number))
                size += len(side.output(0))
            side.wait(4.99)
        self.assertIsNotNone(side.session.error)
        self.assertIn("too many pings", str(side.session.error))
        self.assertLess(size, 100_000)

    def test_garbage_says_go_away(self) -> None:
        side = self.server()
        side.receive(b"GET / HTTP/1.1\r\n")
        self.assertEqual(self.last_error(side), "version 71 of the protocol is not known")
        self.assertEqual(side.output(ALL), b"")
