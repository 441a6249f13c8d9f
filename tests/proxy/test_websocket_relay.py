"""Tests for :mod:`ccmproxy.proxy.websocket_relay`: what happens between two handshakes and two closes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.websocket_scene import COMPLETED, CREATE, CREATED, DELTA, Scene


class RelayTests(SynchronousTestCase):
    """Messages, in both directions."""

    def test_a_turn(self) -> None:
        """Unchanged, in order."""
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
