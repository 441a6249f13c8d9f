"""Tests of :mod:`ccmproxy.credentials.remote.status_watch`: an open stream, byte by byte (spec 7.5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.remote.status_watch import APART, BURST, LONGEST_LINE, StatusWatch
from ccmproxy.dialects.remote import RemoteStatus
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.message import RequestHead
from ccmproxy.testing.pump import KIB
from tests.http.upstream import Scene
from tests.logged import everything, log_events, messages

SECRET = b"our-token-4711"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
HOUR = 3600.0
#: What a remote that never ends sends before a test gives up on it (bytes).
FLOOD = 8 * KIB * KIB


def line(weekly: float = 5, **more: object) -> bytes:
    """A state."""
    fields = {
        "five_hour_utilization": 1,
        "five_hour_reset": 0,
        "weekly_utilization": weekly,
        "weekly_reset": 0,
        "plan_weight": 10,
    }
    return json.dumps(fields | more).encode() + b"\n"


def answer(status: int) -> bytes:
    """A refusal."""
    return b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status


class WatchCase(SynchronousTestCase):
    """A stream from ``friend.test`` whose bytes the test sends itself."""

    def setUp(self) -> None:
        self.scene = Scene(limits=ClientLimits(idle_timeout=inf, keepalive_timeout=1.0))
        self.has_way = True
        self.states: list[float] = []
        self.failures = 0
        self.then: Callable[[], None] = lambda: None
        self.watch = StatusWatch(
            "friend", self.request, self.apply, self.scene.clock, lambda: 0.0, self.failed
        )
        self.events = log_events(self)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Assert that nothing is left after stopping, and that no token was logged."""
        self.watch.stop()
        self.scene.pool.close()
        self.scene.settle()
        self.scene.pass_time(2)
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])
        self.assertFalse(self.watch.is_open)
        self.assertFalse(SECRET.decode() in everything(self.events), "a token was logged")

    def request(self) -> tuple[ConnectionPool, RequestHead] | None:
        if not self.has_way:
            return None
        headers = [(b"Host", b"friend.test"), (b"Authorization", b"Bearer " + SECRET)]
        return self.scene.pool, RequestHead(b"GET", b"/ccm/v1/status?watch=true", headers)

    def failed(self) -> None:
        self.failures += 1

    def apply(self, status: RemoteStatus) -> None:
        assert status.limits.weekly is not None and status.limits.weekly.utilization is not None
        self.states.append(status.limits.weekly.utilization)
        self.then()

    @property
    def attempts(self) -> int:
        """Return how often the stream was requested."""
        return self.scene.listener.attempts

    def open(self, head: bytes = HEAD) -> None:
        """Start, and let the remote send the head of the answer."""
        self.watch.start()
        self.scene.settle()
        self.write(head)

    def write(self, data: bytes) -> None:
        """Send these bytes as the remote."""
        self.scene.server.transport.write(data)
        self.scene.settle()

    def chunk(self, *pieces: bytes) -> None:
        """Send these chunks as the remote, each separately."""
        for piece in pieces:
            self.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def flood(self, lines: bytes) -> int:
        """Let the remote send ``lines`` again and again until it is not read any more, at most FLOOD bytes. Returns how
        many bytes were read."""
        transport = self.scene.server.transport
        before: int = transport.written - transport.buffered
        sent = before
        while not transport.buffered and sent - before < FLOOD:
            self.chunk(lines)
            sent = transport.written - transport.buffered
        return sent - before

    def lines(self, words: str) -> list[str]:
        """The messages with these words in them."""
        return messages(self.events, words)

    def assert_next_attempt_after(self, *delays: float) -> None:
        """Check that the requests come at these delays, not earlier or later. ``scene.reply`` refuses each request
        again."""
        for delay in delays:
            before = self.attempts
            self.scene.pass_time(delay - 0.25)
            self.assertEqual(self.attempts, before, f"too early: {delay}")
            self.scene.pass_time(0.25)
            self.scene.settle()
            self.assertEqual(self.attempts, before + 1, f"too late: {delay}")


class LineTests(WatchCase):
    """The content of the stream."""

    def test_each_line_is_a_state(self) -> None:
        self.open()
        request = bytes(self.scene.server.received)
        self.assertTrue(request.startswith(b"GET /ccm/v1/status?watch=true HTTP/1.1\r\n"))
        self.assertIn(b"\r\nAuthorization: Bearer " + SECRET + b"\r\n", request)
        self.chunk(line(5))
        self.assertEqual(self.states, [5])
        self.chunk(line(6) + line(7), line(8))
        self.assertEqual(self.states, [5, 6, 7, 8])
        self.assertTrue(self.watch.is_open)
        self.assertEqual(self.attempts, 1)

    def test_split_anywhere(self) -> None:
        """The states are the same wherever the network splits the bytes."""
        whole = line(5) + b"\n" + line(6)
        self.open()
        for cut in range(len(whole) + 1):
            self.states.clear()
            self.chunk(*filter(None, (whole[:cut], whole[cut:])))
            self.assertEqual(self.states, [5, 6], cut)
            self.scene.pass_time(1)
        self.states.clear()
        self.chunk(*(whole[at : at + 1] for at in range(len(whole))))
        self.assertEqual(self.states, [5, 6])

    def test_a_line_counts_when_it_is_whole(self) -> None:
        self.open()
        self.chunk(line(5)[:-1])
        self.assertEqual(self.states, [])
        self.chunk(b"\n")
        self.assertEqual(self.states, [5])

    def test_blank_lines_and_other_line_ends(self) -> None:
        self.open()
        self.chunk(b"\n\n", b"\r\n", b"  \n", line(5)[:-1] + b"\r\n", b"\t" + line(6))
        self.assertEqual(self.states, [5, 6])
        self.assertEqual(self.lines("was not taken over"), [])

    def test_a_bad_state_is_refused(self) -> None:
        """This is logged once, and the stream goes on."""
        self.open()
        self.chunk(
            line(5), b"hush\n", b"{}\n", line(6, plan_weight=None), b'{"hush": NaN}\n', b"\xff\0\n", line(7)
        )
        self.assertEqual(self.states, [5, 7])
        self.assertEqual(
            self.lines("was not taken over"),
            ["friend: a state was not taken over: the remote's status is not JSON"],
        )
        self.assertEqual(self.lines("hush"), [])
        self.assertTrue(self.watch.is_open)

    def test_each_stream_complains_anew(self) -> None:
        self.open()
        self.chunk(b"[]\n")
        self.watch.restart()
        self.scene.settle()
        self.write(HEAD)
        self.chunk(b"[]\n")
        self.assertEqual(len(self.lines("was not taken over")), 2)

    def test_the_rest_of_a_lost_stream_does_not_spoil_the_next(self) -> None:
        self.open()
        self.chunk(line(5)[:20])
        self.scene.server.transport.abortConnection()
        self.scene.settle()
        self.assert_next_attempt_after(2)
        self.write(HEAD)
        self.chunk(line(6))
        self.assertEqual(self.states, [6])

    def test_the_longest_line(self) -> None:
        padded = b" " * (LONGEST_LINE - len(line(5)) + 1) + line(5)
        self.open()
        self.chunk(padded)
        self.chunk(padded[:1000], padded[1000:])
        self.assertEqual(self.states, [5, 5])
        self.chunk(b" " + padded)
        self.assertEqual(self.states, [5, 5])
        self.assertFalse(self.watch.is_open)

    def test_a_line_that_never_ends(self) -> None:
        """Little of the line is kept; the connection is dropped, and the stream is requested again."""
        self.open()
        sent = 0
        while self.scene.server.lost is None and sent < 100 * KIB * KIB:
            self.chunk(b"x" * (8 * KIB))
            sent += 8 * KIB
        self.assertLessEqual(sent, LONGEST_LINE + 16 * KIB)
        self.assertFalse(self.watch.is_open)
        self.assertEqual(
            self.lines("a line is too long"),
            ["friend: status stream lost (a line is too long), again in 2.0 s"],
        )
        self.assert_next_attempt_after(2)
        self.write(HEAD)
        self.chunk(line(5))
        self.assertEqual(self.states, [5])

    def test_a_flood_of_states(self) -> None:
        """Not every state causes a log line and an update to all watchers; the newest is taken over."""
        self.open()
        self.scene.pass_time(100)  # The idle time before the burst does not add to it.
        self.chunk(b"".join(line(number % 100) for number in range(5000)))
        at_once = len(self.states)
        self.assertIn(at_once, (BURST, BURST + 1))
        self.assertEqual(self.states, [*range(at_once)])
        self.scene.pass_time(1)
        self.assertEqual(self.states[at_once:], [99])
        for number in range(100):
            self.chunk(line(number), line(100))
            self.scene.pass_time(0.1)
        self.scene.pass_time(1)
        self.assertLess(len(self.states), 2 * BURST + 110)
        self.assertEqual(self.states[-1], 100)

    def check_endless(self, lines: bytes) -> None:
        """Check that a stream that never ends (F64) is read at the rate at which states may change: what the remote
        sends beyond that stays in its own buffers."""
        self.open()
        burst = BURST * LONGEST_LINE
        self.assertLess(self.flood(lines), burst + 3 * 64 * KIB)
        # For ten seconds, it is read again each time that it may be.
        read = 0
        for _ in range(100):
            self.scene.pass_time(APART)
            read += self.flood(lines)
        self.assertLess(read, 100 * LONGEST_LINE + burst)
        self.assertLessEqual(len(self.states), BURST + 101)
        self.assertTrue(self.watch.is_open)
        self.assertLessEqual(len(self.lines("")), 1)

    def test_states_without_end(self) -> None:
        self.check_endless(b"".join(map(line, range(100))))
        self.assertGreater(len(self.states), 100)

    def test_nonsense_without_end(self) -> None:
        self.check_endless(b"{}\n" * 3000)

    def test_ends_of_lines_without_end(self) -> None:
        self.check_endless(b"\n" * 9000)

    def test_white_space_without_end(self) -> None:
        self.check_endless(b" \r\n" * 3000)

    def test_f64_a_new_stream_brings_no_new_burst(self) -> None:
        """Ending the stream does not help a remote to be read faster."""
        self.open()
        self.flood(b"\n" * 9000)
        self.watch.restart()
        self.scene.settle()
        self.write(HEAD)
        self.assertLess(self.flood(b"\n" * 9000), 4 * 64 * KIB)

    def test_the_newest_state_after_a_pause(self) -> None:
        self.open()
        self.flood(line(5) * 100)
        self.chunk(line(6))
        self.scene.pass_time(10)
        self.assertEqual(self.states[-1], 6)
        self.assertEqual(self.scene.server.transport.buffered, 0)

    def test_lines_without_a_state_count(self) -> None:
        """F64: finding out that a line holds no state is as much work as a state."""
        self.open()
        self.chunk(b"{}\n" * BURST + line(5) + b"{}\n" + line(6))
        self.assertEqual(self.states, [])
        self.scene.pass_time(APART)
        self.assertEqual(self.states, [6])

    def test_a_line_that_is_too_long_among_others(self) -> None:
        """Wherever it stands, it ends the stream."""
        long = b" " * LONGEST_LINE + line(5)
        self.open()
        for before, after in ((b"", b""), (b"", b"{}\n"), (b"{}\n" * BURST, b"")):
            self.chunk(before + long + after)
            self.assertEqual(len(self.lines("a line is too long")), 1, before)
            self.events.clear()
            self.watch.restart()
            self.scene.settle()
            self.write(HEAD)

    def test_a_state_that_waits_outlives_its_stream(self) -> None:
        """It does not outlive the watch or the route over which it came."""
        self.open()
        self.chunk(b"".join(map(line, range(50))))
        self.scene.server.transport.abortConnection()
        self.scene.pass_time(1)
        self.assertEqual(self.states[-1], 49)
        self.watch.restart()
        self.scene.settle()
        self.write(HEAD)
        self.chunk(b"".join(map(line, range(50, 100))))
        last = self.states[-1]
        self.assertLess(last, 99)
        timers = len(self.scene.clock.getDelayedCalls())
        self.watch.restart()
        self.assertLess(len(self.scene.clock.getDelayedCalls()), timers)
        self.scene.pass_time(1)
        self.assertEqual(self.states[-1], last)

    def test_a_stream_without_chunks(self) -> None:
        """A remote may end the stream by closing the connection."""
        self.open(b"HTTP/1.1 200 OK\r\n\r\n" + line(5) + line(6)[:10])
        self.write(line(6)[10:])
        self.assertEqual(self.states, [5, 6])

    def test_nothing_for_hours(self) -> None:
        """Silence is no reason for a new request: nothing has changed."""
        self.open()
        self.scene.clock.pump([60.0] * 600)
        self.scene.settle()
        self.assertTrue(self.watch.is_open)
        self.assertEqual(self.attempts, 1)


class LossTests(WatchCase):
    """How the stream ends, and when it is requested again (spec 7.4, 7.5)."""

    def test_refusals_that_may_mend(self) -> None:
        for status in (500, 503, 429, 400, 204, 302):
            self.events.clear()
            self.open(answer(status))
            self.assertFalse(self.watch.is_open)
            self.assertEqual(
                self.lines("status stream"),
                [f"friend: status stream lost (refused with {status}), again in 2.0 s"],
            )
            self.assert_next_attempt_after(2)
            self.write(answer(status))
            self.assert_next_attempt_after(4)
            self.watch.restart()
            self.watch.stop()
            self.scene.settle()

    def test_ever_longer_delays(self) -> None:
        self.scene.reply = answer(500)
        self.watch.start()
        self.scene.settle()
        self.assert_next_attempt_after(2, 4, 8, 16, 30, 30, 30)

    def test_nobody_listens(self) -> None:
        self.scene.listener.refusing = True
        self.watch.start()
        self.scene.settle()
        self.assert_next_attempt_after(2, 4, 8, 16, 30, 30)
        self.scene.listener.refusing = False
        self.assert_next_attempt_after(30)
        self.write(HEAD + b"%x\r\n%b\r\n" % (len(line(5)), line(5)))
        self.assertEqual(self.states, [5])

    def test_lost_and_ended(self) -> None:
        for end, words, failures in (
            (lambda: self.scene.server.transport.abortConnection(), "broke off", 1),
            (lambda: self.scene.server.transport.loseConnection(), "broke off", 1),
            (lambda: self.scene.server.transport.write(b"0\r\n\r\n"), "ended by the remote", 0),
            (lambda: self.scene.server.transport.write(b"nonsense"), "malformed", 1),
        ):
            self.events.clear()
            self.failures = 0
            self.open()
            end()
            self.scene.settle()
            self.assertEqual((len(self.lines(words)), self.failures), (1, failures), words)
            self.assert_next_attempt_after(2)
            self.watch.restart()
            self.watch.stop()
            self.scene.settle()

    def test_a_stream_that_lived_long_was_a_good_one(self) -> None:
        self.scene.reply = answer(500)
        self.watch.start()
        self.scene.settle()
        self.assert_next_attempt_after(2, 4)
        self.scene.reply = None
        self.assert_next_attempt_after(8)
        self.write(HEAD)
        self.scene.pass_time(60)
        self.scene.server.transport.abortConnection()
        self.scene.settle()
        self.assert_next_attempt_after(2)

    def test_a_stream_that_lived_shortly_was_none(self) -> None:
        self.scene.reply = answer(500)
        self.watch.start()
        self.scene.settle()
        self.scene.reply = None
        self.assert_next_attempt_after(2)
        self.write(HEAD)
        self.scene.pass_time(59)
        self.scene.server.transport.abortConnection()
        self.scene.settle()
        self.assert_next_attempt_after(4)

    def test_waiting_for_an_answer_is_no_life(self) -> None:
        """A remote that delays its answer and then closes or refuses does not reset the back-off."""
        self.open()
        self.scene.server.transport.abortConnection()
        self.scene.settle()
        self.assert_next_attempt_after(2)
        for delay, end in ((4, b""), (8, answer(500)), (16, b"")):
            self.scene.pass_time(70)
            if end:
                self.write(end)
            else:
                self.scene.server.transport.abortConnection()
                self.scene.settle()
            self.assert_next_attempt_after(delay)

    def test_the_delay_is_in_the_log(self) -> None:
        self.watch = StatusWatch(
            "friend", self.request, self.apply, self.scene.clock, lambda: 0.5, self.failed
        )
        self.scene.listener.refusing = True
        self.watch.start()
        self.scene.settle()
        (text,) = self.lines("status stream lost")
        self.assertIn("cannot connect to the upstream", text)
        self.assertTrue(text.endswith("again in 2.5 s"), text)
        self.assert_next_attempt_after(2.5)


class HopelessTests(WatchCase):
    """Permanent refusals: 401, 403, 404."""

    def test_not_asked_again(self) -> None:
        for status in (401, 403, 404):
            self.open(answer(status))
            before = self.attempts
            self.scene.clock.pump([60.0] * 120)
            self.scene.settle()
            self.assertEqual(self.attempts, before)
            self.assertFalse(self.watch.is_open)
            self.assertEqual(len(self.lines(f"refused ({status})")), 1)
            self.watch.stop()

    def test_a_poll_that_succeeds(self) -> None:
        self.open(answer(404))
        self.watch.recovered()
        self.scene.settle()
        self.assertEqual(self.attempts, 2)
        self.write(answer(404))
        self.scene.pass_time(100)
        self.assertEqual(self.attempts, 2)
        self.watch.recovered()
        self.scene.settle()
        self.write(HEAD)
        self.chunk(line(5))
        self.assertEqual(self.states, [5])
        self.watch.recovered()
        self.scene.settle()
        self.assertEqual(self.attempts, 3)

    def test_another_way(self) -> None:
        self.open(answer(401))
        self.watch.restart()
        self.scene.settle()
        self.assertEqual(self.attempts, 2)

    def test_a_poll_changes_nothing_while_a_delay_runs(self) -> None:
        """Otherwise a remote that answers only polls would receive a request for its stream with each of them."""
        self.open(answer(500))
        self.watch.recovered()
        self.scene.settle()
        self.assertEqual(self.attempts, 1)
        self.assert_next_attempt_after(2)


class WayTests(WatchCase):
    """Routes to the remote that appear and disappear."""

    def test_none_at_first(self) -> None:
        self.has_way = False
        self.watch.start()
        self.scene.pass_time(100)
        self.assertEqual((self.attempts, self.watch.is_open), (0, False))
        self.has_way = True
        self.watch.restart()
        self.scene.settle()
        self.assertEqual((self.attempts, self.watch.is_open), (1, True))

    def test_another_one_is_used_at_once(self) -> None:
        self.open()
        old = self.scene.server
        self.watch.restart()
        self.scene.settle()
        self.assertIsNotNone(old.lost)
        self.assertEqual(self.attempts, 2)
        self.write(HEAD)
        self.chunk(line(6))
        self.assertEqual(self.states, [6])

    def test_while_a_delay_runs(self) -> None:
        self.scene.listener.refusing = True
        self.watch.start()
        self.scene.settle()
        self.assert_next_attempt_after(2, 4, 8)
        self.watch.restart()
        self.scene.settle()
        self.assertEqual(self.attempts, 5)
        self.assert_next_attempt_after(2)

    def test_gone_when_the_delay_is_over(self) -> None:
        self.scene.listener.refusing = True
        self.watch.start()
        self.scene.settle()
        self.has_way = False
        self.scene.pass_time(100)
        self.assertEqual(self.attempts, 1)

    def test_a_state_that_leads_to_another_way(self) -> None:
        """Remaining bytes of the old stream are not taken for bytes of the new one."""
        self.open()
        self.then = self.watch.restart
        self.chunk(line(5) + line(6) + line(7)[:20])
        self.then = lambda: None
        self.write(HEAD)
        self.chunk(line(8))
        self.assertEqual(self.states, [5, 8])


class StopTests(WatchCase):
    """No state is reported after stopping."""

    def assert_ended(self) -> None:
        """Assert that nothing is requested or scheduled any more."""
        self.assertFalse(self.watch.is_open)
        before = self.attempts
        for again in (self.watch.restart, self.watch.recovered):
            again()
            self.scene.settle()
            self.assertFalse(self.watch.is_open)
        self.scene.pass_time(40)
        self.assertEqual(self.attempts, before)
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])

    def test_before_it_begins(self) -> None:
        self.watch.stop()
        self.assert_ended()
        self.assertEqual(self.attempts, 0)

    def test_while_connecting(self) -> None:
        self.scene.listener.hanging = True
        self.watch.start()
        self.scene.settle()
        self.watch.stop()
        self.assert_ended()

    def test_before_the_head(self) -> None:
        self.watch.start()
        self.scene.settle()
        self.watch.stop()
        self.scene.settle()
        self.assertIsNotNone(self.scene.server.lost)
        self.assert_ended()

    def test_while_it_runs(self) -> None:
        self.open()
        self.watch.stop()
        self.scene.settle()
        self.assertIsNotNone(self.scene.server.lost)
        self.assert_ended()

    def test_while_a_delay_runs(self) -> None:
        self.open(answer(500))
        self.watch.stop()
        self.assert_ended()

    def test_after_a_hopeless_refusal(self) -> None:
        self.open(answer(401))
        self.watch.stop()
        self.assert_ended()

    def test_while_a_state_waits(self) -> None:
        self.open()
        timers = len(self.scene.clock.getDelayedCalls())
        self.chunk(b"".join(map(line, range(50))))
        self.assertEqual(len(self.scene.clock.getDelayedCalls()), timers + 1)  # one for all waiting states
        self.watch.stop()
        self.scene.settle()
        self.assert_ended()
        self.assertLess(self.states[-1], 49)

    def test_while_reading_is_paused(self) -> None:
        self.open()
        self.flood(b"\n" * 9000)
        self.watch.stop()
        self.scene.settle()
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])
        self.assert_ended()

    def test_because_of_a_state(self) -> None:
        self.open()
        self.then = self.watch.stop
        self.chunk(line(5) + line(6))
        self.assertEqual(self.states, [5])
        self.assert_ended()

    def test_the_loss_comes_later(self) -> None:
        """The remote closes the connection at the same moment."""
        self.open()
        self.scene.server.transport.loseConnection()
        self.watch.stop()
        self.scene.settle()
        self.assertEqual(self.lines("status stream lost"), [])
        self.assert_ended()
