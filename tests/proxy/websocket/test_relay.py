"""Tests for :mod:`ccmproxy.proxy.websocket.relay`: an open WebSocket, from the handshakes to the closes."""

from __future__ import annotations

import json
import zlib

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.pool.pool import PoolRules
from ccmproxy.http.client.connection_pool import ClientLimits
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.websocket.relay import SILENT_TURN
from ccmproxy.websocket.close_codes import NO_CODE
from ccmproxy.websocket.connection import Connection
from tests.proxy.websocket.scene import (
    COMPLETED,
    CREATE,
    CREATED,
    DELTA,
    START,
    WARM_UP,
    Scene,
    event,
    rate_limits,
    upgrade_request,
    used_up,
)

REFUSED = event("error", status=400, error={"code": "previous_response_not_found"}, headers={})
NO_MORE = event(
    "error", status=400, error={"code": "websocket_connection_limit_reached", "message": "60 minutes"}
)


class MessageTests(SynchronousTestCase):
    """Messages, in both directions."""

    def test_a_turn(self) -> None:
        """Messages are relayed unchanged and in order."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        self.assertEqual(upstream.messages, [CREATE])
        for data in (CREATED, DELTA, COMPLETED):
            upstream.say(data)
        scene.settle()
        self.assertEqual(client.messages, [CREATED, DELTA, COMPLETED])
        self.assertEqual(scene.results(), ["served"])
        entry = next(entry for entry in scene.log if entry.get("result") == "served")
        self.assertEqual((entry["model"], entry["tokens"].output), ("gpt-5.4", 3))

    def test_anything(self) -> None:
        """Text, binary and empty messages, invalid JSON, and JSON of the wrong types are relayed."""
        scene = Scene(self)
        client, upstream = scene.connected()
        said = [
            (b"", True),
            (b"", False),
            (bytes(range(256)), False),
            (b"no JSON", True),
            (b"[1, 2]", True),
            (event("error"), True),
            (event("error", status="429", headers=5), True),
            (event("response.completed", response=7), True),
            (b'{"type": 5}', True),
            (b"{" * 100_000, True),
        ]
        for data, is_text in said:
            client.say(data, is_text)
            upstream.say(data, is_text)
        scene.settle()
        self.assertEqual(upstream.messages, [data for data, _ in said])
        self.assertEqual(client.messages, [data for data, _ in said])
        self.assertEqual(upstream.events, client.events)

    def test_compressed_on_either_side(self) -> None:
        """Compression is negotiated separately on each side; the messages are the same."""
        text = ("größer " * 500).encode()
        for ours, theirs in ((True, True), (True, False), (False, True)):
            scene = Scene(self)
            scene.on_asked = lambda socket, theirs=theirs: socket.accept(compress=theirs)  # type: ignore[misc]
            client, upstream = scene.connected(compress=ours)
            pump = scene.proxy_listener.connections[-1]
            before = pump.server.written
            for _ in range(3):
                client.say(text)
                upstream.say(text)
            scene.settle()
            self.assertEqual(client.messages, [text] * 3)
            self.assertEqual(upstream.messages, [text] * 3)
            self.assertEqual(pump.server.written - before < len(text), ours)

    def test_large_messages(self) -> None:
        """Fragmented messages arrive as one; 64 MiB pass, one byte more does not."""
        scene = Scene(self)
        client, upstream = scene.connected()
        assert upstream.connection is not None
        upstream.transport.write(b"\x01\x03abc\x00\x00\x80\x02de")
        scene.settle()
        self.assertEqual(client.messages, [b"abcde"])
        large = bytes(64 * 1024 * 1024)
        upstream.say(large, False)
        scene.settle()
        self.assertEqual(client.messages[1:], [large])
        upstream.say(large + b"x", False)
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1009, 1009))

    def test_byte_by_byte(self) -> None:
        """Messages are relayed correctly however their bytes are split."""
        scene = Scene(self)
        scene.upstream_listener.options = {"chunk_size": 1}
        client, upstream = scene.connected(compress=True, chunk_size=1)
        client.say(CREATE)
        scene.settle()
        for data in (CREATED, DELTA, rate_limits(10.0), COMPLETED):
            upstream.say(data)
        scene.settle()
        self.assertEqual(upstream.messages, [CREATE])
        self.assertEqual(client.without_limits(), [CREATED, DELTA, COMPLETED])

    def test_early_messages(self) -> None:
        """Messages right after the upstream's 101, or right after the client's request, are not lost."""
        scene = Scene(self)
        frames = Connection(None).send_message(CREATED, True)
        scene.on_asked = lambda socket: socket.accept(early=frames)
        client = scene.open(behind=Connection(lambda: b"abcd").send_message(CREATE, True))
        self.assertEqual(client.messages, [CREATED])
        self.assertEqual(scene.upstream.messages, [CREATE])

    def test_warm_up(self) -> None:
        """A warm-up is relayed, but not logged, and does not trigger sending the state."""
        scene = Scene(self)
        scene.observe(0, 10.0)
        client, upstream = scene.connected()
        client.say(WARM_UP)
        scene.settle()
        upstream.say(CREATED)
        upstream.say(COMPLETED)
        scene.settle()
        self.assertEqual(upstream.messages, [WARM_UP])
        self.assertEqual(client.messages, [CREATED, COMPLETED])
        self.assertEqual(scene.results(), [])


class EndTests(SynchronousTestCase):
    """Ends of a connection, as seen by the other side."""

    def test_codes_pass(self) -> None:
        """Close codes and reasons are relayed in both directions."""
        for code in (1000, 1001, 1008, 1011, 1012, 3000, 4001):
            scene = Scene(self)
            client, upstream = scene.connected()
            client.close(code, b"mine")
            scene.settle()
            self.assertEqual((upstream.code, client.code), (code, code))
            assert upstream.closed is not None
            self.assertEqual(upstream.closed.reason, b"mine")
            client, upstream = scene.connected()
            upstream.close(code, b"quota")
            scene.settle()
            self.assertEqual((upstream.code, client.code), (code, code))
            assert client.closed is not None
            self.assertEqual(client.closed.reason, b"quota")
            client.close(code)
            scene.settle()
            self.assertIsNotNone(client.lost)

    def test_without_a_code(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        upstream.close(0)
        scene.settle()
        self.assertEqual(client.code, NO_CODE)

    def test_messages_before_a_close(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        for data in (CREATED, DELTA):
            upstream.say(data)
        upstream.close(1000)
        upstream.transport.loseConnection()
        scene.settle()
        self.assertEqual((client.messages, client.code), ([CREATED, DELTA], 1000))

    def test_the_client_drops(self) -> None:
        """The upstream's connection is dropped at once. The official client ends every connection this way."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.transport.loseConnection()
        scene.settle()
        self.assertIsNotNone(upstream.lost)
        self.assertEqual(scene.results(), ["closed"])
        self.assertEqual(scene.accounts[0].outcomes, {LeaseOutcome.SERVED: 1})

    def test_the_client_drops_in_a_turn(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        client.transport.abortConnection()
        scene.settle()
        self.assertIsNotNone(upstream.lost)
        self.assertEqual(scene.results(), ["incomplete", "incomplete"])
        self.assertEqual(scene.accounts[0].outcomes, {LeaseOutcome.CANCELLED: 1})

    def test_a_client_that_vanishes_right_after_its_upgrade(self) -> None:
        """The client disconnects while the 101 is in flight, or before it is written."""
        scene = Scene(self)
        client, pump = scene.dial()
        pump.server.held = True
        client.transport.write(upgrade_request())
        scene.network.flush()
        pump.client.abortConnection()
        scene.settle()
        self.assertIsNotNone(scene.upstream.lost)

    def test_the_upstream_drops(self) -> None:
        """The client sees a broken connection, not a clean end, and connects again."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(CREATED)
        upstream.transport.loseConnection()
        scene.settle()
        self.assertEqual(client.closed, None)
        self.assertIsNotNone(client.lost)
        self.assertEqual(scene.results(), ["truncated", "truncated"])
        self.assertEqual(scene.accounts[0].outcomes, {LeaseOutcome.BROKEN: 1})

    def test_an_upstream_that_accepts_and_closes(self) -> None:
        scene = Scene(self)

        def asked(socket: object) -> None:
            scene.upstream.accept()
            scene.upstream.close(1013, b"later")
            scene.upstream.transport.loseConnection()

        scene.on_asked = asked
        client = scene.open()
        self.assertEqual((client.status, client.code), (101, 1013))

    def test_broken_frames_of_the_client(self) -> None:
        """The client is told its error, and the upstream gets 1001 (going away)."""
        for data, code in (
            (b"\x81\x01x", 1002),  # not masked
            (b"\xc1\x80abcd", 1002),  # compressed without an agreement
            (b"\x09\x80abcd", 1002),  # a fragmented ping
            (b"\x82\xff" + b"\x7f" * 8 + b"abcd", 1009),  # longer than anything
            (b"\x81\x82\0\0\0\0\xff\xff", 1007),
        ):
            scene = Scene(self)
            client, upstream = scene.connected()
            client.transport.write(data)
            scene.settle()
            self.assertEqual((client.code, upstream.code), (code, 1001), data)
            self.assertEqual(scene.accounts[0].outcomes, {LeaseOutcome.CANCELLED: 1})

    def test_broken_frames_of_the_upstream(self) -> None:
        """The client gets 1011 (internal error), after which it connects again."""
        for data, code, seen in (
            (b"\x81\x81abcdx", 1002, 1011),
            (b"\x83\x00", 1002, 1011),
            (b"\x81\x01\xff", 1007, 1011),
            (b"\x82\x7f" + b"\x7f" * 8, 1009, 1009),
        ):
            scene = Scene(self)
            client, upstream = scene.connected()
            upstream.transport.write(data)
            scene.settle()
            self.assertEqual((client.code, upstream.code), (seen, code), data)
            scene.pass_time(6)
            self.assertEqual(scene.results(), ["malformed"])

    def test_compression_bomb(self) -> None:
        """65 KiB that would inflate to more than 64 MiB are refused, and not inflated completely."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.accept(compress=True)
        client, upstream = scene.connected()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = packer.compress(bytes(80 * 1024 * 1024)) + packer.flush(zlib.Z_SYNC_FLUSH)
        upstream.transport.write(b"\xc2\x7f" + len(bomb).to_bytes(8, "big") + bomb)
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1009, 1009))

    def test_silent_upstream(self) -> None:
        """Within a turn, the idle time-out applies (F15); between two turns, silence is normal."""
        scene = Scene(self, limits=ClientLimits(idle_timeout=30))
        client, upstream = scene.connected()
        scene.pass_time(100)
        self.assertIsNone(client.closed)
        client.say(CREATE)
        scene.pass_time(25)
        self.assertIsNone(client.closed)
        scene.pass_time(10)
        self.assertEqual((client.code, upstream.code), (1011, 1001))
        scene.pass_time(6)
        self.assertEqual(scene.results(), ["timed_out", "timed_out"])

    def test_keep_alive(self) -> None:
        """F16, F18: pings are sent only while nothing else is."""
        scene = Scene(self, options=ProxyOptions(keep_alive=15))
        client, upstream = scene.connected()
        scene.pass_time(35)
        self.assertEqual(len(client.events), 2)
        self.assertEqual(client.messages, [])
        self.assertEqual(upstream.events, [])

    def test_shutdown(self) -> None:
        """The close with 1001 is sent at once between turns, and at the end of the current turn otherwise."""
        scene = Scene(self)
        idle, _ = scene.connected()
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.forwarder.close_websockets(20)
        scene.settle()
        self.assertEqual((idle.code, client.code), (1001, None))
        upstream.say(COMPLETED)
        scene.settle()
        self.assertEqual((client.messages, client.code, upstream.code), ([COMPLETED], 1001, 1001))

    def test_shutdown_in_a_turn_that_does_not_end(self) -> None:
        """The connection ends within the grace time anyway, even if a peer does not answer the close."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.forwarder.close_websockets(20)
        scene.pass_time(18)
        self.assertIsNone(client.closed)
        scene.pass_time(1)
        self.assertEqual((client.code, upstream.code), (1001, 1001))
        scene.forwarder.abort_websockets()
        scene.settle()
        self.assertIsNotNone(client.lost)
        self.assertEqual(scene.forwarder.registry.websockets, set())


class CredentialTests(SynchronousTestCase):
    """What is reported to the credential, and what happens when it cannot serve any more."""

    def test_f36_the_upstreams_own_event_is_not_seen(self) -> None:
        """The client is told the aggregate of all accounts; the event updates the state of one account."""
        scene = Scene(self, 2)
        scene.observe(1, 0.0)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(rate_limits(49.5))
        scene.settle()
        limits = scene.accounts[0].state.limits
        self.assertEqual((limits.short.utilization, limits.weekly.utilization), (49.5, 24.75))
        told = client.limits()[-1]["rate_limits"]["primary"]["used_percent"]
        # The mean of what remains below the caps of both accounts.
        self.assertEqual(told, 100 - (99 - 49.5 + 99) / 2)
        self.assertEqual(client.without_limits(), [])

    def test_f37_a_long_connection_goes_on_telling(self) -> None:
        """Only events report limits on such a connection; the events of every turn are used."""
        scene = Scene(self)
        client, upstream = scene.connected()
        for used in (10.0, 20.0, 30.0):
            client.say(CREATE)
            scene.settle()
            upstream.say(rate_limits(used))
            upstream.say(COMPLETED)
            scene.settle()
            self.assertEqual(scene.accounts[0].state.limits.short.utilization, used)
        told = [each["rate_limits"]["primary"]["used_percent"] for each in client.limits()]
        self.assertEqual(told, [11.0, 21.0, 31.0])

    def test_f38_what_is_said_belongs_to_the_account_that_was_used(self) -> None:
        """This holds even if another account has taken its place meanwhile."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.provider.reconfigure(scene.accounts[::-1], PoolRules("fallback"))
        upstream.say(rate_limits(77.0))
        scene.settle()
        used = [account.state.limits.short.utilization for account in scene.accounts]
        self.assertEqual(used, [77.0, None])

    def test_f39_a_used_up_account_is_left(self) -> None:
        """The connection ends after the turn, so that the client connects again and gets another account."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(CREATED)
        upstream.say(rate_limits(99.5))
        upstream.say(DELTA)
        scene.settle()
        self.assertIsNone(client.closed)
        upstream.say(COMPLETED)
        scene.settle()
        self.assertEqual(client.without_limits(), [CREATED, DELTA, COMPLETED])
        self.assertEqual((client.code, upstream.code), (1012, 1001))
        _, other = scene.connected()
        self.assertEqual(other.field("authorization"), b"Bearer sk-secret-b")

    def test_f39_eligibility_is_looked_at_for_every_turn(self) -> None:
        """An account that the user may not use any more is not used for another turn."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        scene.provider.reconfigure(scene.accounts[1:], PoolRules("fallback"))
        client.say(CREATE)
        scene.settle()
        self.assertEqual((client.code, upstream.messages), (1012, []))

    def test_an_account_that_is_taken_away(self) -> None:
        """After a reload removes an account, its connections, and no others, end after their turn."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.forwarder.leave({"b"}, [scene.caller])
        scene.forwarder.leave({"a"}, [scene.caller])
        scene.settle()
        self.assertIsNone(client.closed)
        upstream.say(COMPLETED)
        scene.settle()
        self.assertEqual((client.messages, client.code), ([COMPLETED], 1012))
        idle, _ = scene.connected()
        scene.forwarder.leave({"b"}, [scene.caller])
        scene.settle()
        self.assertIsNone(idle.closed)
        scene.forwarder.leave({"a"}, [scene.caller])
        scene.settle()
        self.assertEqual(idle.code, 1012)

    def test_an_account_that_is_taken_away_during_the_handshake(self) -> None:
        """The connection is closed as soon as it is open."""
        for tags, callers, code in (({"a"}, 1, 1012), (set(), 0, 1012), ({"b"}, 1, None)):
            scene = Scene(self, 2)
            scene.on_asked = lambda socket: None
            client = scene.open()
            scene.forwarder.leave(tags, [scene.caller] * callers)
            scene.settle()
            self.assertEqual(client.received, b"")
            scene.upstream.accept()
            scene.settle()
            self.assertEqual((client.status, client.code), (101, code))

    def test_interrupted_between_turns(self) -> None:
        """The connection ends at once."""
        scene = Scene(self)
        client, upstream = scene.connected()
        scene.observe(0, 100.0)
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1012, 1001))
        client.close(1012)
        upstream.close(1001)
        scene.settle()
        self.assertEqual(scene.results(), ["interrupted"])

    def test_interrupted_in_a_turn_that_falls_silent(self) -> None:
        """The connection ends after a while, because the end of the turn may never arrive."""
        scene = Scene(self)
        client, _ = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.observe(0, 100.0)
        scene.pass_time(SILENT_TURN - 5)
        self.assertIsNone(client.closed)
        scene.pass_time(10)
        self.assertEqual(client.code, 1012)

    def test_used_up_before_any_output(self) -> None:
        """If another account is usable, the client does not see the refusal, but has to connect again."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(CREATED)
        upstream.say(used_up())
        scene.settle()
        self.assertEqual((client.without_limits(), client.code), ([CREATED], 1012))
        self.assertEqual(scene.accounts[0].state.rate_limited_until, START + 3600)
        self.assertEqual(scene.results(), ["moved"])

    def test_used_up_after_output(self) -> None:
        """The output cannot be undone, so the client is told, then the connection ends."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        for data in (CREATED, DELTA, used_up()):
            upstream.say(data)
        scene.settle()
        self.assertEqual((client.without_limits(), client.code), ([CREATED, DELTA, used_up()], 1012))
        self.assertEqual(scene.accounts[0].state.rate_limited_until, START + 3600)

    def test_used_up_and_nobody_else(self) -> None:
        """If no other account is usable, the refusal is relayed unchanged."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(used_up())
        scene.settle()
        self.assertEqual(client.without_limits(), [used_up()])
        self.assertEqual(scene.accounts[0].state.rate_limited_until, START + 3600)
        again = scene.open()
        self.assertEqual(again.status, 429)
        self.assertEqual(json.loads(again.received)["error"]["type"], "usage_limit_reached")

    def test_connection_limit(self) -> None:
        """The client is told, and connects again: the limit is the connection's own, and says nothing of the account
        (spec 12.2)."""
        scene = Scene(self, 2)
        client, upstream = scene.connected()
        neighbour, _ = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(NO_MORE)
        scene.settle()
        self.assertEqual((client.without_limits(), client.code), ([NO_MORE], 1012))
        self.assertIsNone(neighbour.closed)
        self.assertTrue(scene.accounts[0].is_usable())

    def test_other_errors_change_nothing(self) -> None:
        """The next turn continues on the same connection."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        upstream.say(REFUSED)
        client.say(CREATE)
        scene.settle()
        upstream.say(COMPLETED)
        scene.settle()
        self.assertEqual((client.messages, client.closed), ([REFUSED, COMPLETED], None))
        self.assertEqual(upstream.messages, [CREATE, CREATE])
        self.assertEqual(scene.results(), ["failed", "served"])

    def test_a_defect_of_ours(self) -> None:
        """An internal error ends only its own connection."""
        scene = Scene(self)
        client, upstream = scene.connected()
        scene.now = lambda: 1 / 0
        upstream.say(DELTA)
        scene.settle()
        scene.now = scene.clock.seconds
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((client.code, upstream.code), (1011, 1001))
