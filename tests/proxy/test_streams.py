"""Streams through the proxy: latency, slow clients, silent upstreams, and truncated streams (spec 4.5)."""

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
    """The tokens that were logged for the last finished request."""
    found = [event["tokens"] for event in world.events if "result" in event][-1]
    assert isinstance(found, Tokens)
    return found


def _alive() -> set[int]:
    """The ids of all live objects that belong to requests."""
    gc.collect()
    return {
        id(each) for each in gc.get_objects() if isinstance(each, Attempt | Exchange | ServerRequest | Call)
    }


class StreamTestCase(SynchronousTestCase):
    """A stream that a test produces by hand."""

    def begin(self, more: str = "", **options: Any) -> tuple[World, Client, Connection]:
        """A world, a client that asked for a stream, and the upstream's connection, without any response yet."""
        world = World(self, more=more)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True, **options)
        return world, client, upstream.last

    def body(self, client: Client) -> bytes:
        """The part of the response's body that has arrived."""
        responses = client.responses()
        self.assertEqual(len(responses), 1)
        return responses[0].body


class PassingTests(StreamTestCase):
    """The upstream's bytes are passed on at once and unchanged."""

    def test_each_event_is_passed_on_at_once(self) -> None:
        """F17: an event is written to the client in the reactor turn in which it arrived, without timer or buffer."""
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
        """F17: with a second between the events, the client receives one event each second."""
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
        """F17: compression would delay events, so the client's Accept-Encoding is not passed on."""
        world = World(self)
        response = world.answer(stream=True, headers=(("Accept-Encoding", "gzip, br, zstd"),))
        self.assertIsNone(response.header("content-encoding"))
        self.assertNotIn(
            b"gzip", world.simulator.requests.of("turn")[0].header(b"accept-encoding") or b"identity"
        )

    def test_cut_anywhere(self) -> None:
        """F19: wherever the stream is split in two, the client gets the same bytes, and the usage is the same."""
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
        """F19: packets of any size on both sides of the proxy, which also split chunk sizes and heads."""
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
    """Keep-alive events, for proxies and clients that drop silent connections (spec 1, `ping_interval`)."""

    MORE = "      idle_timeout: 600s\n    ping_interval: 15s"

    def test_pings_while_the_upstream_is_silent(self) -> None:
        """F16, F18: the dialect's event is sent about every 15 s, and the stream is otherwise unchanged."""
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
        """F16: pings are optional."""
        world, client, connection = self.begin()
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        for _ in range(100):
            world.network.advance(1)
        self.assertEqual(self.body(client), START)

    def test_never_in_the_middle_of_an_event(self) -> None:
        """F44, F18: wherever an event is split, a ping waits until the event is complete."""
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
        """F18: no ping is written into JSON or into a compressed stream."""
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
        """F23: pings would pile up in the buffer of a client that does not read."""
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
    """A silent upstream."""

    def test_our_pings_do_not_hide_a_silent_upstream(self) -> None:
        """F15: only the upstream's bytes restart the idle time-out."""
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
        """F15: pings of the upstream itself restart the idle time-out."""
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
        """F42: the first byte has a separate time-out, and the client is told when it expires."""
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
        """F42: after the head, the idle time-out applies."""
        world, client, connection = self.begin(TIMEOUTS)
        connection.transport.write(STREAM_HEAD)
        for _ in range(58):
            world.network.advance(1)
        self.assertFalse(client.broken)
        world.until(lambda: client.broken, 5)

    def test_half_a_head(self) -> None:
        """F42: bytes of an incomplete head do not postpone the time-out for ever."""
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
        """F22: if the framing is complete but message_stop is missing, the client gets no clean end either."""
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
        """F22: wherever a stream or a message is truncated, by close or reset, the client gets no clean end."""
        for stream in (True, False):
            for how in ("rst", "fin"):
                for place in ("after_head", "mid", "before_stop"):
                    world = World(self)
                    client = world.ask(f"[[tokens:60]] [[simulate:cut;at={place};how={how}]]", stream=stream)
                    world.until(lambda client=client: client.broken, 3)  # type: ignore[misc]
                    self.assertEqual([each.complete for each in client.responses()], [False])
                    self.assertEqual(world.results(), ["truncated"])

    def test_without_a_length(self) -> None:
        """F22: a body that ends with the connection is complete only if the stream has its final event."""
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
        """F22: a reset is never a clean end."""
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
        """F23: back-pressure bounds the buffers for a slow client, and the client loses nothing."""
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
        # The rest is still buffered at the upstream.
        self.assertGreater(connection.transport.buffered, 4096 * KIB)
        self.assertFalse(world.upstream.connections[-1].client.reading)
        client.transport.resumeProducing()
        connection.chunk(USAGE + STOP)
        connection.end()
        world.network.flush()
        self.assertEqual(len(self.body(client)), len(sent + USAGE + STOP))
        self.assertEqual(world.results(), ["served"])

    def test_one_that_never_reads_is_dropped(self) -> None:
        """F23: the client is dropped after its stall time-out, and so is the upstream. The time during which the
        upstream was paused does not count as its silence."""
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
        """A slow client is not dropped: bytes that it reads count, even if the transport stays full."""
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
        """F23: any progress within the stall time-out is enough."""
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
        """F23: a long body that had to be examined first is also relayed at the client's pace."""
        world = World(self)
        upstream = ManualUpstream(world)
        client, pump = world.connect()
        request = message_request()
        assert client.transport is not None
        client.transport.pauseProducing()
        world.send(request, client)
        # Not 403: that has the usage endpoint asked, on a connection of its own.
        for status in (400, 400):
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
    """A client that disconnects: its upstream request is cancelled at once (spec 4.4)."""

    def leave(self, world: World, client: Client) -> None:
        """Disconnect the client, without letting time pass."""
        assert client.transport is not None
        client.transport.abortConnection()
        world.network.flush()

    def test_in_mid_stream(self) -> None:
        """F20: the request is logged with the usage that was known so far."""
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
        """F20: a client that disconnects right after message_stop was served completely."""
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
        """The client disconnects while the body of a refusal is being read."""
        world, client, connection = self.begin()
        connection.transport.write(b"HTTP/1.1 403 X\r\nContent-Length: 100\r\n\r\n{")
        world.network.flush()
        self.assertEqual(client.received, b"")
        self.leave(world, client)
        self.assertIsNotNone(connection.lost)
        self.assertEqual(world.results(), ["client_gone"])

    def test_while_a_token_is_refreshed(self) -> None:
        """The refresh is not cancelled, because its response is the only copy of the login (F3)."""
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
        """F27: an upload of one megabyte stalls, and another one passes."""
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
        """F28: the connection is neither closed nor reused while its stream goes on."""
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
        # The connection is idle now, and closed after the keep-alive time-out.
        for _ in range(round(limits.keepalive_timeout) + 2):
            world.network.advance(1)
        self.assertIsNotNone(connection.lost)

    def test_many_streams_leave_nothing_behind(self) -> None:
        """F23: nothing is left behind, however the streams end."""
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
        # Log events refer to the objects that logged them.
        world.events.clear()
        self.assertEqual(_alive() - before, set())
