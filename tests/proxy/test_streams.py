"""Streams through the proxy: when they arrive, who is slow, who is silent, and who breaks off (spec 4.5)."""

from __future__ import annotations

import gc
import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.http.client.call import Call
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.attempt import Attempt
from ccmproxy.proxy.exchange import Exchange
from ccmproxy.simulator.steps import Pace
from ccmproxy.testing.pump import KIB
from tests.conversation import Client, World, message_request
from tests.proxy.manual_upstream import (
    MESSAGE,
    START,
    STOP,
    STREAM_HEAD,
    TEXT,
    USAGE,
    Connection,
    ManualUpstream,
)

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
#: Time-outs that differ, so that a test can tell which one it met (seconds).
TIMEOUTS = "      first_byte_timeout: 20s\n      idle_timeout: 60s\n"


def tokens(world: World) -> Tokens:
    """What the log says of the last finished request's tokens."""
    found = [event["tokens"] for event in world.events if "result" in event][-1]
    assert isinstance(found, Tokens)
    return found


def _alive() -> set[int]:
    """Who still remembers a request."""
    gc.collect()
    return {
        id(each) for each in gc.get_objects() if isinstance(each, Attempt | Exchange | ServerRequest | Call)
    }


class StreamTestCase(SynchronousTestCase):
    """A stream that a test plays by hand."""

    def begin(self, more: str = "", **options: Any) -> tuple[World, Client, Connection]:
        """A world, a client that asked for a stream, and the upstream's side of it; nothing was answered yet."""
        world = World(self, more=more)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True, **options)
        return world, client, upstream.last

    def body(self, client: Client) -> bytes:
        """What has arrived of the one answer."""
        responses = client.responses()
        self.assertEqual(len(responses), 1)
        return responses[0].body


class PassingTests(StreamTestCase):
    """What the upstream sends goes out at once, and as it is."""

    def test_each_event_is_passed_on_at_once(self) -> None:
        """F17: written to the client in the reactor turn that brought it; no timer, no buffer in between."""
        world, client, connection = self.begin()
        to_client = world.network.listeners["127.0.0.1", 8080].connections[-1].server
        to_upstream = world.upstream.connections[-1]
        connection.transport.write(STREAM_HEAD)
        world.network.flush()
        for piece in (START, TEXT[:20], TEXT[20:], USAGE, STOP):
            before = to_client.written
            connection.chunk(piece)
            to_upstream.advance()
            self.assertGreaterEqual(to_client.written - before, len(piece))
        connection.end()
        world.network.flush()
        self.assertEqual(self.body(client), MESSAGE)
        self.assertTrue(client.responses()[0].complete)

    def test_a_slow_model_is_watched_word_by_word(self) -> None:
        """F17: with a second between the events, the client has one more each second."""
        world = World(self)
        world.simulator.pace = Pace(first=1.0, each=1.0)
        client = world.ask("[[tokens:40]]", stream=True)
        counts = []
        for _ in range(6):
            counts.append(client.received.count(b"event: "))
            world.network.advance(1)
        self.assertEqual(counts, sorted(set(counts)))
        self.assertEqual(client.responses()[0].header("x-accel-buffering"), "no")
        world.until(lambda: client.responses()[0].complete, 120)

    def test_nothing_is_compressed(self) -> None:
        """F17: a compressor would hold events back; what the client offers is not passed on."""
        world = World(self)
        response = world.answer(stream=True, headers=(("Accept-Encoding", "gzip, br, zstd"),))
        self.assertIsNone(response.header("content-encoding"))
        self.assertNotIn(
            b"gzip", world.simulator.requests.of("turn")[0].header(b"accept-encoding") or b"identity"
        )

    def test_cut_anywhere(self) -> None:
        """F19: cut in two at every byte, the stream arrives the same and counts the same."""
        world = World(self)
        upstream = ManualUpstream(world)
        client, _ = world.connect()
        for cut in range(1, len(MESSAGE)):
            client.received.clear()
            world.ask(stream=True, client=client)
            connection = upstream.last
            connection.transport.write(STREAM_HEAD)
            connection.chunk(MESSAGE[:cut])
            world.network.flush()
            connection.chunk(MESSAGE[cut:])
            connection.end()
            world.network.flush()
            self.assertEqual(self.body(client), MESSAGE, cut)
            self.assertEqual((tokens(world).input, tokens(world).output), (11, 42), cut)
        self.assertEqual(set(world.results()), {"served"})
        self.assertEqual(len(upstream.connections), 1)

    def test_cut_on_the_wire(self) -> None:
        """F19: packets of any size, on both sides of the proxy, also inside of chunk sizes and heads."""
        rng = random.Random(4)
        for crlf in (False, True):
            message = MESSAGE.replace(b"\n", b"\r\n") if crlf else MESSAGE
            for size in (1, 2, 3, 5, 7, 16, 61, 1000):
                world = World(self)
                upstream = ManualUpstream(world)
                world.upstream.options = {"chunk_size": size}
                client, _ = world.connect(chunk_size=rng.choice((1, 3, 17)))
                world.ask(stream=True, client=client)
                upstream.last.transport.write(STREAM_HEAD)
                rest = message
                while rest:
                    length = rng.randint(1, 40)
                    upstream.last.chunk(rest[:length])
                    rest = rest[length:]
                upstream.last.end()
                world.network.flush()
                self.assertEqual(self.body(client), message)
                self.assertEqual((tokens(world).input, tokens(world).output), (11, 42))
                self.assertEqual(world.results(), ["served"])

    def test_pieces_of_the_simulator(self) -> None:
        """F19."""
        world = World(self)
        for fault in ("pieces", "pieces;size=7", "random_pieces", "pings"):
            client = world.ask(f"[[say:größer — 日本語]] [[simulate:{fault}]]", stream=True)
            world.until(lambda client=client: client.responses()[0].complete, 300)  # type: ignore[misc]
            self.assertIn("größer", client.responses()[0].body.decode())
        self.assertEqual(set(world.results()), {"served"})


class KeepAliveTests(StreamTestCase):
    """Signs of life for whoever cuts silent connections (spec 1, `ping_interval`)."""

    MORE = "      idle_timeout: 600s\n    ping_interval: 15s"

    def test_pings_while_the_upstream_is_silent(self) -> None:
        """F16, F18: an event of the dialect about every 15 s, and the stream is otherwise untouched."""
        world, client, connection = self.begin(self.MORE)
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        world.network.flush()
        world.until(lambda: self.body(client) != START, 17)
        self.assertEqual(self.body(client), START + PING)
        for _ in range(60):
            world.network.advance(1)
        self.assertEqual(self.body(client), START + 5 * PING)
        connection.chunk(TEXT + USAGE + STOP)
        connection.end()
        world.network.flush()
        self.assertEqual(self.body(client).replace(PING, b""), MESSAGE)
        self.assertTrue(client.responses()[0].complete)
        self.assertEqual((tokens(world).input, tokens(world).output), (11, 42))

    def test_no_pings_while_there_is_something_to_pass_on(self) -> None:
        """F16."""
        world, client, connection = self.begin(self.MORE)
        connection.transport.write(STREAM_HEAD)
        for _ in range(20):
            connection.chunk(TEXT)
            world.network.advance(5)
        self.assertEqual(self.body(client), 20 * TEXT)

    def test_no_pings_unless_asked_for(self) -> None:
        """F16: an option."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        for _ in range(100):
            world.network.advance(1)
        self.assertEqual(self.body(client), START)

    def test_never_in_the_middle_of_an_event(self) -> None:
        """F44, F18: cut at every byte of an event, a ping waits until the event is whole."""
        world = World(self, more=self.MORE)
        upstream = ManualUpstream(world)
        cuts = [*range(1, len(TEXT), 9), len(TEXT) - 1]
        clients = []
        for cut in cuts:
            client = world.ask(stream=True)
            connection = upstream.last
            connection.transport.write(STREAM_HEAD)
            connection.chunk(START + TEXT[:cut])
            clients.append((cut, client, connection))
        world.network.flush()
        for _ in range(40):
            world.network.advance(1)
        for cut, client, connection in clients:
            self.assertEqual(self.body(client), START + TEXT[:cut])
            connection.chunk(TEXT[cut:])
        world.network.flush()
        for _ in range(20):
            world.network.advance(1)
        for cut, client, connection in clients:
            self.assertEqual(self.body(client), START + TEXT + PING, cut)
            connection.chunk(STOP)
            connection.end()
        world.network.flush()

    def test_never_into_what_is_not_a_stream_of_events(self) -> None:
        """F18: neither into JSON nor into a compressed stream."""
        heads = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        )
        for head in heads:
            world, client, connection = self.begin(self.MORE)
            connection.transport.write(head)
            connection.chunk(b"{}\n\n")
            for _ in range(40):
                world.network.advance(1)
            self.assertEqual(self.body(client), b"{}\n\n")

    def test_no_pings_to_one_who_does_not_read(self) -> None:
        """F23: they would pile up."""
        world, client, connection = self.begin(self.MORE)
        assert client.transport is not None
        client.transport.pauseProducing()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(*[TEXT] * 3000)
        world.network.flush()
        before = world.network.listeners["127.0.0.1", 8080].connections[-1].server.written
        for _ in range(100):
            world.network.advance(1)
        self.assertEqual(world.network.listeners["127.0.0.1", 8080].connections[-1].server.written, before)


class SilenceTests(StreamTestCase):
    """An upstream that says nothing."""

    def test_our_pings_do_not_hide_a_silent_upstream(self) -> None:
        """F15: the idle time-out counts the upstream's bytes alone."""
        world, client, connection = self.begin(TIMEOUTS + "    ping_interval: 5s")
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        for _ in range(58):
            world.network.advance(1)
        self.assertFalse(client.broken)
        self.assertGreater(client.received.count(PING), 8)
        world.until(lambda: client.broken, 5)
        self.assertIsNotNone(connection.lost)
        self.assertFalse(client.responses()[0].complete)
        self.assertEqual(world.results(), ["truncated"])

    def test_a_byte_now_and_then_is_enough(self) -> None:
        """F15: pings of the upstream itself do count."""
        world, client, connection = self.begin(TIMEOUTS)
        connection.transport.write(STREAM_HEAD)
        for _ in range(10):
            connection.chunk(PING)
            for _ in range(50):
                world.network.advance(1)
        self.assertFalse(client.broken)
        connection.chunk(MESSAGE)
        connection.end()
        world.network.flush()
        self.assertEqual(world.results(), ["served"])

    def test_no_head(self) -> None:
        """F42: the first byte has a time-out of its own, and its end is an answer that says so."""
        world, client, connection = self.begin(TIMEOUTS)
        for _ in range(19):
            world.network.advance(1)
        self.assertEqual(client.received, b"")
        world.until(lambda: bool(client.received), 3)
        response = client.responses()[0]
        self.assertEqual((response.status, response.error["type"]), (504, "timeout_error"))
        self.assertEqual(response.header("x-ccm-error"), "upstream_timeout")
        self.assertIsNotNone(connection.lost)
        self.assertEqual(world.results(), ["upstream_timeout"])

    def test_a_head_and_nothing_else(self) -> None:
        """F42: from the head on, the idle time-out holds."""
        world, client, connection = self.begin(TIMEOUTS)
        connection.transport.write(STREAM_HEAD)
        for _ in range(58):
            world.network.advance(1)
        self.assertFalse(client.broken)
        world.until(lambda: client.broken, 5)

    def test_half_a_head(self) -> None:
        """F42: bytes that are no head do not put the time-out off for ever."""
        world, client, connection = self.begin(TIMEOUTS)
        for byte in STREAM_HEAD[:70]:
            connection.transport.write(bytes([byte]))
            world.network.advance(2)
            if client.received:
                break
        world.until(lambda: bool(client.received), 130)
        self.assertEqual(client.responses()[0].status, 504)


class BreakingTests(StreamTestCase):
    """An upstream that breaks off."""

    def test_a_stream_without_its_end(self) -> None:
        """F22: framed as complete, yet no message_stop: no clean end for the client either."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START, TEXT)
        world.network.flush()
        connection.end()
        world.network.flush()
        self.assertEqual(self.body(client), START + TEXT)
        self.assertFalse(client.responses()[0].complete)
        self.assertTrue(client.broken)
        self.assertEqual(world.results(), ["truncated"])
        self.assertEqual(tokens(world).input, 11)
        self.assertEqual(world.account.outcomes[LeaseOutcome.BROKEN], 1)

    def test_cut_at_every_place(self) -> None:
        """F22: streams and whole messages, reset and closed, at every place: never a clean end."""
        for stream in (True, False):
            for how in ("rst", "fin"):
                for place in ("after_head", "mid", "before_stop"):
                    world = World(self)
                    client = world.ask(f"[[tokens:60]] [[simulate:cut;at={place};how={how}]]", stream=stream)
                    world.until(lambda client=client: client.broken, 3)  # type: ignore[misc]
                    self.assertEqual([each.complete for each in client.responses()], [False])
                    self.assertEqual(world.results(), ["truncated"])

    def test_without_a_length(self) -> None:
        """F22: a body that ends with the connection is whole only if the stream says so."""
        head = STREAM_HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"")
        for data, whole in ((MESSAGE, True), (START + TEXT, False)):
            world, client, connection = self.begin()
            connection.transport.write(head + data)
            connection.transport.loseConnection()
            world.network.flush()
            self.assertEqual(self.body(client), data)
            self.assertEqual(client.responses()[0].complete, whole)
            self.assertEqual(world.results(), ["served" if whole else "truncated"])

    def test_without_a_length_and_reset(self) -> None:
        """F22: nor is a reset ever an end."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"") + START + TEXT)
        world.network.flush()
        connection.transport.abortConnection()
        world.network.flush()
        self.assertTrue(client.broken)
        self.assertFalse(world.results() == ["served"])


class UnreadTests(StreamTestCase):
    """Clients that read slowly, or not at all."""

    def test_a_slow_reader_slows_the_upstream(self) -> None:
        """F23: what is buffered for it is bounded, whatever the upstream would send; and it loses nothing."""
        world = World(self)
        upstream = ManualUpstream(world)
        client, pump = world.connect()
        world.ask(stream=True, client=client)
        connection = upstream.last
        assert client.transport is not None
        client.transport.pauseProducing()
        connection.transport.write(STREAM_HEAD)
        events = 100 * [TEXT]
        sent = START
        connection.chunk(START)
        for _ in range(400):
            connection.chunk(*events)
            sent += b"".join(events)
            world.network.flush()
        self.assertGreater(len(sent), 4096 * KIB)
        self.assertLess(pump.server.peak, 256 * KIB)
        # The rest is still on the upstream's side.
        self.assertGreater(connection.transport.buffered, 4096 * KIB)
        self.assertFalse(world.upstream.connections[-1].client.reading)
        client.transport.resumeProducing()
        connection.chunk(USAGE + STOP)
        connection.end()
        world.network.flush()
        self.assertEqual(len(self.body(client)), len(sent + USAGE + STOP))
        self.assertEqual(world.results(), ["served"])

    def test_one_that_never_reads_is_dropped(self) -> None:
        """F23: after that time, and the upstream with it; a pause that we made is not the upstream's silence."""
        world = World(self, more=f"{TIMEOUTS}    client_stall_timeout: 60s")
        upstream = ManualUpstream(world)
        client, _ = world.connect()
        world.ask(stream=True, client=client)
        connection = upstream.last
        assert client.transport is not None
        client.transport.pauseProducing()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START, *[TEXT] * 5000)
        for _ in range(58):
            world.network.advance(1)
        self.assertIsNone(connection.lost)
        self.assertEqual(world.results(), [])
        world.until(lambda: connection.lost is not None, 5)
        self.assertEqual(world.results(), ["incomplete"])
        self.assertEqual(tokens(world).input, 11)
        self.assertEqual(world.entry.factory.connections, set())
        self.assertIn("dropped: it has taken nothing for 60 s", world.logged())

    def test_a_slow_one_is_not(self) -> None:
        """Bytes that are taken count, not that the transport stays full all the time."""
        world = World(self, more=f"{TIMEOUTS}    client_stall_timeout: 60s")
        upstream = ManualUpstream(world)
        client, pump = world.connect()
        world.ask(stream=True, client=client)
        connection = upstream.last
        assert client.transport is not None
        client.transport.pauseProducing()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START, *[TEXT] * 5000, STOP)
        connection.end()
        pump.chunk_size = 100
        for _ in range(20):
            for _ in range(50):
                world.network.advance(1)
            client.transport.resumeProducing()
            pump.advance()
            client.transport.pauseProducing()
            self.assertTrue(pump.server.producer_paused)
        self.assertEqual(world.results(), [])
        pump.chunk_size = 64 * KIB
        client.transport.resumeProducing()
        world.network.flush()
        self.assertEqual(world.results(), ["served"])

    def test_one_that_reads_a_little_is_not(self) -> None:
        """F23: some progress within that time is enough."""
        world = World(self, more=f"{TIMEOUTS}    client_stall_timeout: 60s")
        upstream = ManualUpstream(world)
        client, _ = world.connect()
        world.ask(stream=True, client=client)
        connection = upstream.last
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START, *[TEXT] * 20000)
        connection.chunk(STOP)
        connection.end()
        assert client.transport is not None
        for _ in range(10):
            client.transport.pauseProducing()
            for _ in range(50):
                world.network.advance(1)
            client.transport.resumeProducing()
            for _ in range(5):
                for pump in world.network.connections:
                    pump.advance()
        world.network.flush()
        self.assertEqual(world.results(), ["served"])

    def test_a_refusal_that_was_held_back(self) -> None:
        """F23: a long body that had to be looked at first is relayed at the client's pace too."""
        world = World(self)
        upstream = ManualUpstream(world)
        client, pump = world.connect()
        request = message_request()
        assert client.transport is not None
        client.transport.pauseProducing()
        world.send(request, client)
        for status in (403, 400):
            connection = upstream.last
            size = 4096 * KIB
            connection.transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % (status, size)
            )
            connection.transport.write(b"x" * size)
            world.network.flush()
            self.assertLess(pump.server.peak, 512 * KIB)
            client.transport.resumeProducing()
            world.network.flush()
            self.assertEqual(len(client.responses()[0].body), size)
            client.received.clear()
            client.transport.pauseProducing()
            world.send(request, client)


class LeavingTests(StreamTestCase):
    """A client that goes away: its upstream request ends at once (spec 4.4)."""

    def leave(self, world: World, client: Client) -> None:
        """Be gone, without any time passing."""
        assert client.transport is not None
        client.transport.abortConnection()
        world.network.flush()

    def test_in_mid_stream(self) -> None:
        """F20: logged with what was known."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START, TEXT)
        world.network.flush()
        self.leave(world, client)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(world.results(), ["incomplete"])
        self.assertEqual((tokens(world).input, tokens(world).output), (11, 1))
        self.assertEqual(world.account.outcomes[LeaseOutcome.CANCELLED], 1)

    def test_after_the_end_of_the_message(self) -> None:
        """F20: who leaves right after message_stop was served in full."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(MESSAGE)
        world.network.flush()
        self.leave(world, client)
        self.assertEqual(world.results(), ["served"])
        self.assertEqual((tokens(world).input, tokens(world).output), (11, 42))
        self.assertEqual(world.account.outcomes[LeaseOutcome.SERVED], 1)

    def test_while_its_body_arrives(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.send(message_request("x" * 1000)[:-500])
        self.leave(world, client)
        self.assertEqual(upstream.connections, [])
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_the_head_is_waited_for(self) -> None:
        world, client, connection = self.begin()
        self.assertTrue(connection.received)
        self.leave(world, client)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_the_upstream_is_dialled(self) -> None:
        world = World(self)
        world.upstream.hanging = True
        client = world.ask()
        self.leave(world, client)
        self.assertEqual(world.account.upstream.connections.connecting, 0)
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_its_body_goes_out(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        world.upstream.options = {"wire_size": KIB}
        client = world.send(message_request("x" * 2048 * KIB)[:-1])
        build = upstream.buildProtocol

        def deaf(addr: object) -> Connection:
            connection = build(addr)
            connection.connectionMade = connection_made  # type: ignore[method-assign]
            return connection

        def connection_made() -> None:
            upstream.last.transport.pauseProducing()

        upstream.buildProtocol = deaf  # type: ignore[method-assign]
        world.send(b"}", client)
        self.assertEqual(world.account.upstream.connections.busy, 1)
        self.leave(world, client)
        self.assertEqual(world.account.upstream.connections.busy, 0)
        upstream.last.transport.resumeProducing()
        world.network.flush()
        self.assertIsNotNone(upstream.last.lost)
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_a_refusal_is_read(self) -> None:
        """The body of a refusal is read before anything is decided."""
        world, client, connection = self.begin()
        connection.transport.write(b"HTTP/1.1 403 X\r\nContent-Length: 100\r\n\r\n{")
        world.network.flush()
        self.assertEqual(client.received, b"")
        self.leave(world, client)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_a_token_is_refreshed(self) -> None:
        """The refresh is not given up: its answer is the only copy of the login (F3)."""
        world = World(self)
        world.clock.advance(8 * 3600)  # the token has expired
        world.simulator.faults.next("slow;seconds=3", endpoint="token")
        client = world.ask()
        self.assertEqual(len(world.simulator.requests.of("token")), 1)
        self.leave(world, client)
        self.assertEqual(world.simulator.requests.of("token")[0].state, "answering")
        world.until(lambda: world.simulator.requests.of("token")[0].state == "finished", 5)
        world.network.flush()
        self.assertEqual(world.simulator.requests.of("turn"), [])
        self.assertEqual(world.results(), ["client_gone"])
        with open(world.path, "rb") as file:
            self.assertIn(world.login.refresh_token.encode(), file.read())
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(len(world.simulator.requests.of("token")), 1)


class ConnectionTests(StreamTestCase):
    """Which connections to the upstream are made, kept and closed."""

    def test_parallel_streams_have_connections_of_their_own(self) -> None:
        """F43."""
        world = World(self)
        upstream = ManualUpstream(world)
        clients = [world.ask(stream=True) for _ in range(8)]
        self.assertEqual(len(upstream.connections), 8)
        for connection in reversed(upstream.connections):
            connection.transport.write(STREAM_HEAD)
            connection.chunk(MESSAGE)
            connection.end()
        world.network.flush()
        self.assertTrue(all(client.responses()[0].complete for client in clients))

    def test_uploads_do_not_wait_for_each_other(self) -> None:
        """F27: one megabyte is stuck, another one passes."""
        world = World(self)
        upstream = ManualUpstream(world)
        build = upstream.buildProtocol

        def deaf(addr: object) -> Connection:
            connection = build(addr)
            connection.connectionMade = lambda: connection.transport.pauseProducing()  # type: ignore[method-assign]
            return connection

        upstream.buildProtocol = deaf  # type: ignore[method-assign]
        stuck = [world.ask("x" * 1024 * KIB, stream=True) for _ in range(3)]
        upstream.buildProtocol = build  # type: ignore[method-assign]
        client = world.ask("y" * 1024 * KIB, stream=True)
        connection = upstream.last
        self.assertGreater(len(connection.received), 1024 * KIB)
        connection.transport.write(STREAM_HEAD)
        connection.chunk(MESSAGE)
        connection.end()
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)
        self.assertEqual([bytes(each.received) for each in stuck], [b"", b"", b""])
        self.assertEqual(len(upstream.connections), 4)

    def test_a_busy_connection_outlives_the_idle_time(self) -> None:
        """F28: neither closed nor given to anybody else while its stream goes on."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        limits = world.account.upstream.connections.limits
        self.assertLess(limits.keepalive_timeout, 100)
        for _ in range(3):
            for _ in range(100):
                world.network.advance(1)
            connection.chunk(TEXT)
            other = world.ask(stream=True)
            world.network.flush()
            self.assertEqual(bytes(other.received), b"")
            assert other.transport is not None
            other.transport.abortConnection()
            world.network.flush()
        self.assertEqual(connection.received.count(b"POST "), 1)
        self.assertIsNone(connection.lost)
        connection.chunk(STOP)
        connection.end()
        world.network.flush()
        self.assertEqual(self.body(client), START + 3 * TEXT + STOP)
        # Idle now, and closed when its time is over.
        for _ in range(round(limits.keepalive_timeout) + 2):
            world.network.advance(1)
        self.assertIsNotNone(connection.lost)

    def test_many_streams_leave_nothing_behind(self) -> None:
        """F23: however they end."""
        world = World(self)
        endings = (
            "none",
            "cut;at=mid",
            "cut;at=before_head",
            "truncated",
            "error_mid",
            "overloaded",
            "bad_chunk",
            "stall;at=mid",
            "hang",
            "garbage",
        )
        before = _alive()
        for number in range(200):
            client = world.ask(f"[[tokens:30]] [[simulate:{endings[number % 10]}]]", stream=True)
            if number % 3 == 0:
                world.network.advance(0.1)
            if not client.broken:
                assert client.transport is not None
                client.transport.abortConnection()
                world.network.flush()
        world.network.advance(2)
        entry = world.entry
        self.assertEqual(len(world.results()), 200)
        self.assertEqual(world.account.leases, set())
        self.assertEqual(entry.forwarder.registry.exchanges, set())
        self.assertEqual(entry.forwarder.registry.streams, set())
        self.assertEqual(entry.factory.connections, set())
        connections = world.account.upstream.connections
        self.assertEqual((connections.busy, connections.connecting), (0, 0))
        self.assertLessEqual(connections.idle, 1)
        # What was logged names who logged it.
        world.events.clear()
        self.assertEqual(_alive() - before, set())
