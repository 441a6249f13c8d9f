"""Requests through the proxy to the simulated upstream: what the client gets, what the account is asked for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.conversation import World


class TurnTests(SynchronousTestCase):
    """The ordinary case."""

    def test_a_turn(self) -> None:
        world = World(self)
        response = world.answer("[[say:It works.]]")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json()["content"][0]["text"], "It works.")
        self.assertEqual(world.results(), ["served"])

    def test_a_streamed_turn(self) -> None:
        world = World(self)
        response = world.answer("[[tokens:50]]", stream=True)
        self.assertEqual(response.status, 200)
        self.assertTrue(response.body.startswith(b"event: message_start"))
        self.assertIn(b"event: message_stop", response.body)
        self.assertEqual(world.results(), ["served"])
