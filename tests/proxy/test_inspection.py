"""Bodies that take long to look into: their requests wait, and nobody else's (F24, F63)."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.request_documents import QUICK
from ccmproxy.proxy.inspection import WorkAtOnce
from tests.conversation import World, message_request
from tests.proxy.manual_work import ManualWork

LARGE = json.dumps(
    {
        "model": "claude-opus-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "[[say:Large.]]" + "x" * QUICK}],
    }
).encode()


class WaitingTests(SynchronousTestCase):
    """A request whose body is looked into later."""

    def setUp(self) -> None:
        self.work = ManualWork()
        self.world = World(self, work_queue=lambda: self.work)

    def test_it_is_served_when_its_turn_has_come(self) -> None:
        client = self.world.ask(body=LARGE)
        self.assertEqual(self.work.waiting, ["alice"])
        self.assertEqual(client.received, b"")
        # Meanwhile others are served at once.
        self.assertEqual(self.world.answer("[[say:small]]").status, 200)
        self.work.do_next()
        self.world.network.flush()
        (response,) = client.responses()
        self.assertEqual(response.status, 200)
        self.assertEqual(self.world.results(), ["served", "served"])
        received = self.world.simulator.requests.of("turn")[-1]
        self.assertEqual(received.body, LARGE)
        self.assertIn("(model claude-opus-4-5", self.world.logged())

    def test_a_client_that_leaves_meanwhile(self) -> None:
        client = self.world.ask(body=LARGE)
        assert client.transport is not None
        client.transport.loseConnection()
        self.world.network.flush()
        self.assertEqual(self.work.waiting, [])
        self.assertEqual(self.world.results(), ["client_gone"])
        self.assertEqual(len(self.world.simulator.requests.of("turn")), 0)

    def test_a_full_queue(self) -> None:
        self.work.room = 0
        response = self.world.answer(body=LARGE)
        self.assertEqual((response.status, response.header("Retry-After")), (503, "1"))
        self.assertEqual(response.header("X-CCM-Error"), "too_many_bodies")
        self.assertEqual(response.json()["type"], "error")
        self.assertEqual(len(self.world.simulator.requests.of("turn")), 0)
        self.assertEqual(self.world.results(), ["too_many_bodies"])

    def test_it_fails(self) -> None:
        client = self.world.ask(body=LARGE)
        done = self.work._pieces[0][2]
        self.work._pieces.clear()
        done.errback(ZeroDivisionError())
        self.world.network.flush()
        self.assertEqual(client.responses()[0].status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_the_queue_ends_with_the_service(self) -> None:
        self.assertFalse(self.work.stopped)
        self.world.close()
        self.assertTrue(self.work.stopped)

    def test_bodies_that_are_not_looked_into_go_on_unchanged(self) -> None:
        body = b'{"messages":[' + b"1," * 2_000_000 + b"1]}"
        client = self.world.send(message_request(body=body))
        self.work.do_next()
        self.world.network.flush()
        self.assertEqual(len(client.responses()), 1)
        self.assertEqual(self.world.simulator.requests.of("turn")[-1].body, body)


class AtOnceTests(SynchronousTestCase):
    """Without a thread."""

    def test_it_is_done_at_once(self) -> None:
        self.assertEqual(self.successResultOf(WorkAtOnce().run("alice", lambda: 5)), 5)

    def test_requests_are_served(self) -> None:
        world = World(self)
        self.assertEqual(world.answer(body=LARGE).status, 200)
        self.assertEqual(world.results(), ["served"])
