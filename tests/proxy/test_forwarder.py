"""What the requests of one service share: rules, the wheel, and that none of them is forgotten."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.provider import SingleProvider
from ccmproxy.proxy.forwarder import Caller, Forwarder, ForwarderOptions
from tests.conversation import World
from tests.proxy.manual_upstream import MESSAGE, START, STREAM_HEAD, TEXT, ManualUpstream


class ForwarderTests(SynchronousTestCase):
    """As a service uses it."""

    def test_requests_under_way_are_known(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        forwarder = world.entry.forwarder
        for number in range(3):
            self.assertEqual(len(forwarder.active), number)
            world.ask(stream=True)
        for number, connection in enumerate(upstream.connections):
            connection.transport.write(STREAM_HEAD)
            connection.chunk(START)
            world.network.flush()
            connection.chunk(MESSAGE)
            connection.end()
            world.network.flush()
            self.assertEqual(len(forwarder.active), 2 - number)

    def test_nothing_is_known_before_anything_was_learnt(self) -> None:
        world = World(self, start=False)
        world.simulator.faults.always("hang", endpoint="usage")
        world.start()
        forwarder = world.entry.forwarder
        caller = self.caller(world)
        self.assertIsNone(forwarder.aggregate_for(caller))
        world.answer()
        aggregate = forwarder.aggregate_for(caller)
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
        world.entry.forwarder.options = ForwarderOptions(keep_alive=5)
        for _ in range(10):
            world.network.advance(1)
        self.assertIn(b"event: ping", client.received)
        upstream.last.chunk(TEXT)
        world.network.flush()

    def test_the_wheel_stops(self) -> None:
        world = World(self)
        forwarder = Forwarder(world.entry.forwarder.dialect, world.clock, world.clock.seconds)
        before = len(world.clock.getDelayedCalls())
        forwarder.stop()
        forwarder.start()
        self.assertEqual(len(world.clock.getDelayedCalls()), before + 1)
        forwarder.stop()
        forwarder.stop()
        self.assertEqual(len(world.clock.getDelayedCalls()), before)
