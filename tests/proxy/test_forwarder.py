"""What the requests of one service share: the rules, the tick, and the registry of those in progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.pool.single import SingleProvider
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.forwarder import Forwarder
from tests.conversation import TOKEN, World, message_request
from tests.pooled import BOB, PoolWorld
from tests.proxy.manual_upstream import MESSAGE, START, STREAM_HEAD, TEXT, ManualUpstream
from tests.proxy.websocket.scene import Scene


class ForwarderTests(SynchronousTestCase):
    """A forwarder as a service uses it."""

    def test_requests_under_way_are_known(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        forwarder = world.entry.forwarder
        for number in range(3):
            self.assertEqual(len(forwarder.registry.exchanges), number)
            world.ask(stream=True)
        for number, connection in enumerate(upstream.connections):
            connection.transport.write(STREAM_HEAD)
            connection.chunk(START)
            world.network.flush()
            connection.chunk(MESSAGE)
            connection.end()
            world.network.flush()
            self.assertEqual(len(forwarder.registry.exchanges), 2 - number)

    def test_nothing_is_known_before_anything_was_learnt(self) -> None:
        world = World(self, start=False)
        world.simulator.faults.always("hang", endpoint="usage")
        world.start()
        forwarder = world.entry.forwarder
        caller = self.caller(world)
        self.assertIsNone(forwarder.context.aggregates.aggregate_for(caller))
        world.answer()
        aggregate = forwarder.context.aggregates.aggregate_for(caller)
        assert aggregate is not None
        self.assertIsNotNone(aggregate)

    def caller(self, world: World) -> Caller:
        """The one user of ``world``."""
        return Caller("alice", SingleProvider(world.account, world.clock.seconds))

    def test_options_can_change_while_streams_run(self) -> None:
        """Spec 1, Reload: keep-alives begin with the next tick."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        for _ in range(30):
            world.network.advance(1)
        self.assertNotIn(b"event: ping", client.received)
        world.entry.forwarder.options = ProxyOptions(keep_alive=5)
        for _ in range(10):
            world.network.advance(1)
        self.assertIn(b"event: ping", client.received)
        upstream.last.chunk(TEXT)
        world.network.flush()

    def test_the_wheel_stops(self) -> None:
        world = World(self)
        forwarder = Forwarder(world.entry.forwarder.context.dialect, world.clock, world.clock.seconds)
        before = len(world.clock.getDelayedCalls())
        forwarder.stop()
        forwarder.start()
        self.assertEqual(len(world.clock.getDelayedCalls()), before + 1)
        forwarder.stop()
        forwarder.stop()
        self.assertEqual(len(world.clock.getDelayedCalls()), before)


class LimitTests(SynchronousTestCase):
    """The limit on concurrent requests of one user, in which requests count until they are over (F41)."""

    def world(self, limit: int = 1) -> World:
        """A service with that limit."""
        return World(self, more=f"    max_connections_per_user: {limit}")

    def test_one_more_is_refused_at_once(self) -> None:
        world = self.world(3)
        world.simulator.faults.next("hang", times=3)
        clients = [world.ask() for _ in range(3)]
        refused = world.answer()
        self.assertEqual((refused.status, refused.error["type"]), (429, "rate_limit_error"))
        self.assertEqual(refused.header("retry-after"), "1")
        self.assertEqual(refused.header("x-ccm-error"), "too_many_requests")
        self.assertRegex(refused.header("x-ccm-request-id") or "", "^req_")
        self.assertEqual(refused.json()["request_id"], refused.header("x-ccm-request-id"))
        self.assertEqual([client.responses() for client in clients], [[]] * 3)
        self.assertEqual(world.entry.forwarder.registry.under_way, {"alice": 3})

    def test_a_refusal_does_not_count(self) -> None:
        world = self.world()
        world.simulator.faults.next("hang")
        client = world.ask()
        for _ in range(3):
            self.assertEqual(world.answer().status, 429)
        assert client.transport is not None
        client.transport.abortConnection()
        world.network.flush()
        self.assertEqual(world.answer().status, 200)

    def test_the_connection_of_a_refused_one_goes_on(self) -> None:
        """The connection stays open although the body of the refused request was not read."""
        world = self.world()
        world.simulator.faults.next("hang")
        waiting = world.ask()
        client = world.ask()
        assert waiting.transport is not None
        waiting.transport.abortConnection()
        world.network.flush()
        world.ask(client=client)
        self.assertEqual([response.status for response in client.responses()], [429, 200])

    def test_counted_down_after_every_end(self) -> None:
        world = self.world()
        limit = world.entry.forwarder.options.max_body

        def leave() -> None:
            client = world.ask("[[simulate:hang]]")
            assert client.transport is not None
            client.transport.abortConnection()

        def leave_in_the_body() -> None:
            client = world.send(message_request()[:-5])
            assert client.transport is not None
            client.transport.abortConnection()

        def leave_in_the_answer() -> None:
            client = world.ask("[[simulate:stall;at=mid]]", stream=True)
            self.assertIn(b"message_start", client.received)
            assert client.transport is not None
            client.transport.abortConnection()

        def crash() -> None:
            forwarder = world.entry.forwarder
            sound = forwarder.context
            broken = replace(sound.dialect, metering=None)  # type: ignore[arg-type]
            forwarder.context = replace(sound, dialect=broken)
            world.ask()
            forwarder.context = sound
            self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

        head = f"POST /v1/messages HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer {TOKEN}\r\n"
        ends: list[Callable[[], object]] = [
            leave,
            leave_in_the_body,
            leave_in_the_answer,
            crash,
            lambda: world.answer(),
            lambda: world.answer(stream=True),
            lambda: world.answer("[[simulate:too_long]]"),
            lambda: world.answer("[[simulate:server_error]]"),
            lambda: world.ask("[[simulate:cut;at=before_head]]"),
            lambda: world.ask("[[simulate:cut;at=mid]]", stream=True),
            lambda: world.ask("[[simulate:truncated]]", stream=True),
            lambda: world.ask("[[simulate:garbage]]"),
            lambda: world.answer(headers=(("anthropic-beta", "oauth-2025-04-20"),)),
            lambda: world.send(f"{head}Content-Length: {limit + 1}\r\n\r\n".encode()),
            lambda: world.send(f"{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n".encode()),
        ]
        for number, end in enumerate(ends):
            end()
            for _ in range(3):
                world.network.advance(1)
            self.assertEqual(world.entry.forwarder.registry.under_way, {}, number)
        world.login.exhaust("five_hour", 3600)
        for _ in range(3):
            self.assertEqual(world.answer().header("x-ccm-error"), "rate_limited")
        self.assertEqual(world.entry.forwarder.registry.under_way, {})

    def test_under_way_until_its_last_byte(self) -> None:
        world = self.world()
        upstream = ManualUpstream(world)
        first = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        world.network.flush()
        self.assertEqual(world.answer().status, 429)
        upstream.last.chunk(MESSAGE)
        upstream.last.end()
        world.network.flush()
        self.assertTrue(first.responses()[0].complete)
        second = world.ask(stream=True)
        self.assertEqual(second.responses(), [])

    def test_other_users_are_not_affected(self) -> None:
        world = PoolWorld(self, more="    max_connections_per_user: 1")
        world.simulator.faults.next("hang", times=2)
        world.ask()
        world.ask(token=BOB)
        self.assertEqual(world.entry.forwarder.registry.under_way, {"alice": 1, "bob": 1})
        self.assertEqual([world.answer(token=token).status for token in (TOKEN, BOB)], [429, 429])

    def test_of_one_user(self) -> None:
        """What a user's own entry says comes first, be it more or less; the others have what the service says."""
        for mine, theirs in ((1, 2), (2, 1)):
            world = PoolWorld(self, more=f"    max_connections_per_user: {theirs}")
            own = world.configuration.replace("name: alice", f"name: alice, max_connections_per_user: {mine}")
            world.reload(own)
            world.simulator.faults.next("hang", times=mine + theirs)
            for token, most in ((TOKEN, mine), (BOB, theirs)):
                for _ in range(most):
                    self.assertEqual(world.ask(token=token).responses(), [])
                refused = world.answer(token=token)
                self.assertEqual((refused.status, refused.header("x-ccm-error")), (429, "too_many_requests"))
                self.assertIn(f"{most} requests", refused.error["message"])
            # A reload applies to the next request; those under way are counted on.
            world.reload(own.replace(f"name: alice, max_connections_per_user: {mine}", "name: alice"))
            if theirs > mine:
                self.assertEqual(world.answer().status, 200)
            world.close()

    def test_our_own_endpoints_are_not_counted(self) -> None:
        world = self.world()
        world.simulator.faults.next("hang")
        world.ask()
        for path in ("status", "sessions"):
            self.assertEqual(world.get(f"/ccm/v1/{path}").status, 200)

    def test_a_websocket_is_one_as_long_as_it_is_open(self) -> None:
        scene = Scene(self, options=ProxyOptions(max_per_user=1))
        client, _ = scene.connected()
        self.assertEqual(scene.forwarder.registry.under_way, {"alice": 1})
        refused = scene.open()
        self.assertEqual((refused.status, refused.field("retry-after")), (429, b"1"))
        self.assertEqual(len(scene.upstreams), 1)
        client.transport.abortConnection()
        scene.settle()
        self.assertEqual(scene.forwarder.registry.under_way, {})
        self.assertEqual(scene.open().status, 101)

    def test_a_websocket_that_came_to_nothing(self) -> None:
        scene = Scene(self, options=ProxyOptions(max_per_user=1))
        self.assertEqual(scene.open(("Sec-WebSocket-Version", "8")).status, 426)
        self.assertEqual(scene.forwarder.registry.under_way, {})
        scene.on_asked = lambda socket: socket.answer(400)
        self.assertEqual(scene.open().status, 400)
        self.assertEqual(scene.forwarder.registry.under_way, {})
