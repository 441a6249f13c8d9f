"""Upstreams that violate the protocol: the client gets an error or a broken connection, never a guess."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.faults import FAULTS
from tests.conversation import Client, Response, World
from tests.proxy.manual_upstream import MESSAGE, START, STREAM_HEAD, TEXT, ManualUpstream

SHORT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#: Bytes that are not a response, and the reason in the log; answered with 502.
NO_ANSWERS = {
    "text": b"hello\r\n\r\n",
    "binary": bytes(range(256)),
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "http3": b"HTTP/3 200 OK\r\n\r\n",
    "icy": b"ICY 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "low status": b"HTTP/1.1 099 OK\r\n\r\n",
    "no colon": SHORT_HEAD + b"nonsense\r\n\r\n",
    "space before colon": SHORT_HEAD + b"Content-Length : 2\r\n\r\n{}",
    "folded": SHORT_HEAD + b"X-A: 1\r\n 2\r\n\r\n",
    "nul": SHORT_HEAD + b"X-A: \x00\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "two lengths": SHORT_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative length": SHORT_HEAD + b"Content-Length: -2\r\n\r\n{}",
    "length and chunks": SHORT_HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": SHORT_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "endless head": SHORT_HEAD + b"X-Long: " + b"a" * (300 * 1024),
    "endless interim": b"HTTP/1.1 103 Early\r\nX: " + b"a" * 1000 + b"\r\n\r\n",
}


class BadUpstreamTests(SynchronousTestCase):
    """``World.close`` and trial check for all tests that no lease is left open and no error unhandled."""

    def check_error(self, response: Response, reason: str, status: int = 502) -> None:
        """Check that the response is an error of the proxy in the dialect's format."""
        self.assertTrue(response.complete)
        self.assertEqual(response.status, status)
        self.assertEqual(response.json()["type"], "error")
        self.assertEqual(response.header("content-type"), "application/json")
        self.assertEqual(response.header("x-ccm-error"), reason)
        self.assertEqual(response.json()["request_id"], response.header("x-ccm-request-id"))
        self.assertEqual(response.error["type"], "api_error" if status == 502 else "timeout_error")

    def test_what_is_no_answer(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        for number, (name, data) in enumerate(NO_ANSWERS.items()):
            client = world.ask()
            self.assertEqual(len(upstream.connections), number + 1)
            upstream.last.transport.write(data * (400 if name == "endless interim" else 1))
            world.network.flush()
            with self.subTest(name):
                self.check_error(client.responses()[0], "upstream_malformed")
                self.assertIsNotNone(upstream.last.lost)
                self.assertFalse(client.broken)
        self.assertEqual(set(world.results()), {"upstream_malformed"})

    def test_an_end_in_place_of_an_answer(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        for data in (b"", b"HTTP/1.", SHORT_HEAD, SHORT_HEAD + b"Content-Le"):
            for reset in (False, True):
                client = world.ask()
                upstream.last.transport.write(data)
                world.network.flush()
                (
                    upstream.last.transport.abortConnection
                    if reset
                    else upstream.last.transport.loseConnection
                )()
                world.network.flush()
                self.check_error(client.responses()[0], "upstream_lost")
        self.assertEqual(set(world.results()), {"upstream_lost"})
        # No request was sent twice, as the upstream may have acted on it.
        self.assertEqual(len(upstream.connections), 8)

    def test_an_answer_before_the_question(self) -> None:
        """Bytes on an idle connection are not a response to any request."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask()
        upstream.last.transport.write(SHORT_HEAD + b"Content-Length: 2\r\n\r\n{}")
        world.network.flush()
        upstream.last.transport.write(SHORT_HEAD + b"Content-Length: 6\r\n\r\nstolen")
        world.network.flush()
        world.ask(client=client)
        self.assertEqual(len(upstream.connections), 2)
        upstream.last.transport.write(SHORT_HEAD + b"Content-Length: 4\r\n\r\n{  }")
        world.network.flush()
        self.assertEqual([response.body for response in client.responses()], [b"{}", b"{  }"])

    def test_more_than_the_length_says(self) -> None:
        """The excess is discarded together with the connection."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask()
        upstream.last.transport.write(
            SHORT_HEAD + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
        )
        world.network.flush()
        self.assertEqual(client.responses()[0].body, b"{}")
        world.ask(client=client)
        self.assertEqual(len(upstream.connections), 2)

    def test_less_than_the_length_says(self) -> None:
        """F22: a truncated JSON response is detected too."""
        for close in ("loseConnection", "abortConnection"):
            world = World(self)
            upstream = ManualUpstream(world)
            client = world.ask()
            upstream.last.transport.write(SHORT_HEAD + b"Content-Length: 200\r\n\r\n{}")
            world.network.flush()
            getattr(upstream.last.transport, close)()
            world.network.flush()
            self.check_broken(world, client, b"{}")

    def check_broken(self, world: World, client: Client, body: bytes) -> None:
        """Check that the response was truncated after ``body``, visibly for the client."""
        response = client.responses()[0]
        self.assertEqual(response.status, 200)
        self.assertEqual(response.body, body)
        self.assertFalse(response.complete)
        self.assertTrue(client.broken)
        self.assertEqual(world.results(), ["truncated"])

    def test_bad_chunks(self) -> None:
        """The bytes before them are passed on, then the client's connection breaks."""
        chunk = b"%x\r\n%b\r\n" % (len(START), START)
        for bad, good in (
            (b"zz\r\n", b""),
            (b"-1\r\n", b""),
            (b"5\r\nabcdefgh\r\n", b"abcde"),
            (b"ffffffffffffffffff\r\n", b""),
            (b"\r\n", b""),
            (b"1;" + b"x" * (300 * 1024), b""),
        ):
            world = World(self)
            upstream = ManualUpstream(world)
            client = world.ask(stream=True)
            upstream.last.transport.write(STREAM_HEAD + chunk)
            world.network.flush()
            upstream.last.transport.write(bad)
            world.network.flush()
            self.check_broken(world, client, START + good)
            self.assertIsNotNone(upstream.last.lost)

    def test_endless_trailers(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        world.network.flush()
        upstream.last.transport.write(b"0\r\nX-Trailer: " + b"a" * (300 * 1024))
        world.network.flush()
        self.check_broken(world, client, START)

    def test_an_event_without_an_end(self) -> None:
        """The bytes are passed on without buffering, and no end is added."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        line = b"data: " + b"x" * 65536 + b"\n"
        for _ in range(64):
            upstream.last.chunk(line)
            world.network.flush()
        self.assertEqual(client.responses()[0].body, 64 * line)
        upstream.last.end()
        world.network.flush()
        self.check_broken(world, client, 64 * line)

    def test_events_that_mean_nothing(self) -> None:
        """The content of a stream is not checked; only its end is searched for."""
        garbage = (
            b"event: message_start\ndata: {broken\n\n"
            b"event: message_delta\ndata: [1,2]\n\n"
            b'event: message_delta\ndata: {"usage":{"output_tokens":-5}}\n\n'
            b"event: message_delta\ndata: " + b"[" * 5000 + b"\n\n"
            b"event: \xff\xfe\ndata: \x00\n\n"
            b": comment\n\n\n\n\r\n\r\n"
        )
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(garbage + MESSAGE)
        upstream.last.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, garbage + MESSAGE)
        self.assertEqual(world.results(), ["served"])

    def test_json_that_means_nothing(self) -> None:
        """The response is relayed, and not counted as a served turn."""
        for body in (b"", b"null", b"[]", b"{", b'"x"', b"[" * 5000, b"\xff\xfe", b'{"usage":5}'):
            world = World(self)
            upstream = ManualUpstream(world)
            client = world.ask()
            upstream.last.transport.write(SHORT_HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            world.network.flush()
            self.assertEqual(client.responses()[0].body, body)
            self.assertEqual(world.results(), ["unrecognised"], body[:10])

    def test_headers_that_mean_nothing(self) -> None:
        """Spec 4.6: invalid headers are ignored, and never fatal."""
        world = World(self)
        upstream = ManualUpstream(world)
        for value in (b"NaN", b"-1", b"1e999", b"99999999999999999999", b"\xff", b"", b"inf", b"0x10"):
            for status in (200, 429):
                client = world.ask(session="s")
                names = (b"5h-reset", b"5h-utilization", b"reset", b"status", b"7d-utilization", b"7d-reset")
                upstream.last.transport.write(
                    b"HTTP/1.1 %d X\r\n" % status
                    + b"".join(b"anthropic-ratelimit-unified-%b: %b\r\n" % (name, value) for name in names)
                    + b"Retry-After: %b\r\nx-should-retry: %b\r\n" % (value, value)
                    + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
                )
                world.network.flush()
                self.assertTrue(client.responses()[0].complete)
                self.assertEqual(client.responses()[0].status, status, value)
                for _ in range(310):
                    world.network.advance(1)

    def test_every_fault_of_the_simulator(self) -> None:
        """For every fault, the client gets an error, something is logged, and the next turn is served."""
        skipped = {
            "revoked",
            "unauthorized",
            "exhausted",
            "invalid_grant",
            "rate_limited",
        }  # these faults concern an account
        for fault in sorted(set(FAULTS) - skipped):
            for stream in (False, True):
                world = World(self, more="      first_byte_timeout: 20s\n      idle_timeout: 20s\n")
                with self.subTest(fault=fault, stream=stream):
                    client = world.ask(f"[[tokens:30]] [[simulate:{fault}]]", stream=stream)
                    for _ in range(400):
                        if world.results():
                            break
                        world.network.advance(0.1)
                    self.assertEqual(len(world.results()), 1)
                    if world.results() != ["served"]:
                        self.assertTrue(client.broken or client.responses()[0].complete)
                    if not client.broken:
                        world.ask("[[say:again]]", client=client)
                        self.assertEqual(client.responses()[-1].json()["content"][0]["text"], "again")
                    self.assertEqual(world.answer().status, 200)
                    world.close()

    def test_an_error_event_before_any_other(self) -> None:
        """F13: relayed with its 200, and logged as failed."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(error)
        upstream.last.end()
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)
        self.assertEqual(client.responses()[0].body, error)
        self.assertEqual(world.results(), ["failed"])

    def test_compressed_unasked(self) -> None:
        """A compressed response is passed on unchanged; only its framing shows whether it is complete."""
        world = World(self)
        upstream = ManualUpstream(world)
        for end in (True, False):
            client = world.ask(stream=True)
            connection = upstream.last
            connection.transport.write(
                STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
            )
            connection.chunk(b"\x1f\x8b garbage")
            world.network.flush()
            if end:
                connection.end()
            else:
                connection.transport.loseConnection()
            world.network.flush()
            self.assertEqual(client.responses()[0].complete, end)
            self.assertEqual(client.broken, not end)

    def test_the_wrong_answer_in_the_wrong_shape(self) -> None:
        """JSON in place of a stream is a complete response; a truncated stream is not."""
        world = World(self)
        upstream = ManualUpstream(world)
        body = json.dumps({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 2}}).encode()
        client = world.ask(stream=True)
        upstream.last.transport.write(SHORT_HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        world.network.flush()
        self.assertEqual(client.responses()[0].body, body)
        client = world.ask(stream=False)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START + TEXT)
        world.network.flush()
        upstream.last.end()
        world.network.flush()
        self.assertTrue(client.broken)
        self.assertEqual(world.results(), ["served", "truncated"])
