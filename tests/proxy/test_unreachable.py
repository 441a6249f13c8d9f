"""Upstreams that cannot be reached, do not answer, or answer with something that is not HTTP (spec 4.2, 4.4)."""

from __future__ import annotations

from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.retry import LeaseOutcome
from tests.conversation import Client, Response, World
from tests.pooled import PoolWorld
from tests.proxy.raw_upstream import RawUpstream, http_response


class UnreachableCase(SynchronousTestCase):
    """Checks that several tests share."""

    def assert_told(self, response: Response, status: int, reason: str) -> None:
        """Check for an error in the dialect's format with its reason; the client decides whether to retry."""
        kind = "timeout_error" if status == 504 else "api_error"
        self.assertEqual((response.status, response.error["type"]), (status, kind))
        self.assertEqual(response.header("x-ccm-error"), reason)
        self.assertEqual(response.header("content-type"), "application/json")
        self.assertEqual(response.json()["request_id"], response.header("x-ccm-request-id"))
        self.assertIsNone(response.header("x-should-retry"))

    def assert_goes_on(self, world: World) -> None:
        """Check that the account is still usable."""
        for account in world.accounts:
            self.assertTrue(account.is_usable(), account.tag)
        self.assertEqual(world.answer().status, 200)


class ConnectTests(UnreachableCase):
    """There is no connection, so the request was never sent."""

    def unreachable(self, world: World) -> Response:
        """The answer to a request; each failure to connect is reported in a separate reactor turn."""
        client = world.ask()
        world.until(lambda: bool(client.responses()), 1)
        return client.responses()[0]

    def test_refused(self) -> None:
        """The request is retried once on a fresh connection, then the client is told."""
        world = World(self)
        before = world.upstream.attempts
        world.upstream.refusing = True
        self.assert_told(self.unreachable(world), 502, "upstream_unreachable")
        self.assertEqual(world.upstream.attempts - before, 2)
        self.assertEqual(world.account.outcomes[LeaseOutcome.UNREACHABLE], 1)
        world.upstream.refusing = False
        self.assert_goes_on(world)

    def test_refused_once(self) -> None:
        world = World(self)
        world.upstream.refusing = True
        client = world.ask()
        self.assertEqual(client.received, b"")
        world.upstream.refusing = False
        world.network.advance(0)
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(world.results(), ["served"])

    def test_the_client_leaves_in_the_moment_of_failure(self) -> None:
        """The client disconnects between the failure to connect and its report."""
        world = World(self)
        world.upstream.refusing = True
        client = world.ask()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.results(), ["client_gone"])
        self.assertEqual(self.flushLoggedErrors(), [])
        world.network.advance(0)
        self.assertEqual(world.account.leases, set())

    def test_no_such_host(self) -> None:
        world = World(self)
        world.upstream.error = DNSLookupError("no such host")
        self.assert_told(self.unreachable(world), 502, "upstream_unreachable")
        world.upstream.error = None
        self.assert_goes_on(world)

    def test_a_connection_that_is_not_made(self) -> None:
        world = World(self)
        world.upstream.hanging = True
        client = world.ask()
        world.until(lambda: bool(client.responses()), 30)
        self.assert_told(client.responses()[0], 502, "upstream_unreachable")
        world.upstream.hanging = False
        self.assert_goes_on(world)

    def test_the_client_leaves_while_a_connection_is_made(self) -> None:
        world = World(self)
        world.upstream.hanging = True
        client = world.ask()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.results(), ["client_gone"])

    def test_a_kept_connection_that_the_upstream_has_closed(self) -> None:
        """The client does not notice: the upstream has most likely not received the request, so it is repeated."""
        world = World(self)
        world.answer()
        pump = world.upstream.connections[-1]
        pump.server.held = True
        pump.server.loseConnection()
        client = world.ask()
        pump.server.held = False
        world.network.flush()
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(world.results(), ["served", "served"])


class _ClosesReused(Factory):
    """An upstream that answers the first request of a connection, and closes without a byte upon the second.

    ``received``: how many requests it got.
    """

    def __init__(self, world: World) -> None:
        self.received = 0
        world.upstream.factory = self

    def buildProtocol(self, addr: object) -> Protocol:
        """One more connection."""
        return _ClosingOnce(self)


class _ClosingOnce(Protocol):
    def __init__(self, upstream: _ClosesReused) -> None:
        self._upstream = upstream
        self._answered = False
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """Take requests as the tests here send them: a head and a body in JSON, whose end ends the request."""
        self._received += data
        if not self._received.endswith(b"}"):
            return
        self._received = b""
        self._upstream.received += 1
        assert self.transport is not None
        if self._answered:
            self.transport.loseConnection()
        else:
            self._answered = True
            self.transport.write(http_response(200, body=b'{"type":"message","usage":{"input_tokens":1}}'))


class RepeatTests(UnreachableCase):
    """Spec 12.3, F67: a request whose reused connection was lost at once is repeated once, on a fresh connection."""

    def test_once_whatever_is_tried_in_between(self) -> None:
        """Two accounts, whose upstream has closed all idle connections, and refuses the next one or two: the first
        account serves after all, or the second one, which must not use its idle connection."""
        for refused in (1, 2):
            world = PoolWorld(self, strategy="round-robin")
            upstream = _ClosesReused(world)
            self.assertEqual([world.answer().status for _ in range(2)], [200, 200])
            self.assertEqual(upstream.received, 2)
            before = world.upstream.attempts
            world.upstream.refusing = True
            client = world.ask()
            while world.upstream.attempts < before + refused:
                world.network.advance(0)
            world.upstream.refusing = False
            world.until(lambda client=client: bool(client.responses()), 1)  # type: ignore[misc]
            self.assertEqual(client.responses()[0].status, 200)
            self.assertEqual(upstream.received, 4, refused)
            world.close()

    def test_not_again_when_the_fresh_connection_is_lost_as_well(self) -> None:
        world = PoolWorld(self)
        upstream = _ClosesReused(world)
        for _ in range(2):
            self.assertEqual(world.answer().status, 200)
        self.assertEqual(upstream.received, 2)
        upstream.received = 0
        raw = RawUpstream(world, [b""], closing=True)
        client = world.ask()
        self.assert_told(client.responses()[0], 502, "upstream_lost")
        self.assertEqual((upstream.received, len(raw.received)), (1, 1))

    def test_only_within_a_second(self) -> None:
        """F14, F67: what was at work for longer may have been acted on, and it is not told whether it was."""
        for seconds, expected in ((0.9, 200), (1.1, 502), (9.0, 502)):
            world = World(self)
            whole = http_response(200, body=b'{"type":"message","usage":{"input_tokens":1}}')
            upstream = RawUpstream(world, [whole, b"", whole])
            self.assertEqual(world.answer().status, 200)
            client = world.ask()
            world.network.advance(seconds)
            world.upstream.connections[-1].server.loseConnection()
            world.network.flush()
            self.assertEqual(client.responses()[0].status, expected, seconds)
            self.assertEqual(len(upstream.received), 3 if expected == 200 else 2)
            world.close()


class SilentTests(UnreachableCase):
    """The request was sent: it is never sent again, whatever becomes of it, though another account is there (F14)."""

    def lost(self, fault: str) -> tuple[PoolWorld, Client]:
        world = PoolWorld(self)
        client = world.ask(f"[[tokens:40]] [[simulate:{fault}]]")
        world.network.advance(1)
        self.assertEqual(len(world.turns()), 1, fault)
        return world, client

    def test_closed_without_an_answer(self) -> None:
        """F14."""
        for fault in ("cut;at=before_head", "cut;at=before_head;how=fin"):
            world, client = self.lost(fault)
            self.assert_told(client.responses()[0], 502, "upstream_lost")
            self.assert_goes_on(world)

    def test_half_a_head(self) -> None:
        """F14: what came is in order as far as it goes."""
        world, client = self.lost("half_head")
        self.assert_told(client.responses()[0], 502, "upstream_lost")
        self.assert_goes_on(world)

    def test_garbage(self) -> None:
        for fault in ("garbage", "endless_head"):
            world, client = self.lost(fault)
            self.assert_told(client.responses()[0], 502, "upstream_malformed")
            self.assert_goes_on(world)

    def test_contradictions(self) -> None:
        for answer in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
            b"HTTP/1.1 99 Low\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"220 mail.example ESMTP\r\n",
            b"\x00" * 1000,
        ):
            world = PoolWorld(self)
            upstream = RawUpstream(world, [answer])
            client = world.ask()
            self.assert_told(client.responses()[0], 502, "upstream_malformed")
            self.assertEqual(len(upstream.received), 1, answer)

    def test_no_answer_in_time(self) -> None:
        """F14, F42: the first byte has a separate time-out."""
        world = PoolWorld(self)
        client = world.ask("[[simulate:hang]]")
        world.network.advance(599)
        self.assertEqual(client.received, b"")
        world.network.advance(2)
        self.assert_told(client.responses()[0], 504, "upstream_timeout")
        self.assertEqual([r.state for r in world.simulator.requests.of("turn")], ["gone"])
        self.assert_goes_on(world)

    def test_the_client_leaves_while_it_waits(self) -> None:
        world = World(self)
        client = world.ask("[[simulate:hang]]")
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual([r.state for r in world.simulator.requests.of("turn")], ["gone"])
        self.assertEqual(world.results(), ["client_gone"])

    def test_an_answer_that_comes_before_the_request_was_read(self) -> None:
        """An intermediary answers 413 and closes before it has read the request."""
        world = World(self)
        RawUpstream(world, [http_response(413, ("Connection", "close"), body=b'{"e":1}')], closing=True)
        response = world.answer("x" * 500_000)
        self.assertEqual((response.status, response.body), (413, b'{"e":1}'))

    def test_interim_answers_are_not_relayed(self) -> None:
        world = World(self)
        body = b'{"type":"message","usage":{"input_tokens":1}}'
        RawUpstream(world, [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http_response(200, body=body)])
        client = world.ask()
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200"))
        self.assertEqual(client.responses()[0].body, body)

    def test_a_protocol_that_nobody_asked_for(self) -> None:
        world = PoolWorld(self)
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        upstream = RawUpstream(world, [answer])
        client = world.ask()
        self.assert_told(client.responses()[0], 502, "upstream_malformed")
        self.assertEqual(len(upstream.received), 1)
