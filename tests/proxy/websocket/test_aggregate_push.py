"""Tests for :mod:`ccmproxy.proxy.websocket.aggregate_push`: the aggregate state, sent within a WebSocket."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.websocket.scene import COMPLETED, CREATE, START, WARM_UP, ClientSocket, Scene


class PushTests(SynchronousTestCase):
    """When the aggregate is sent, and when it is not."""

    def told(self, client: ClientSocket) -> list[float]:
        """The utilization of the short window (percent) in each event received."""
        return [each["rate_limits"]["primary"]["used_percent"] for each in client.limits()]

    def test_with_the_first_real_request(self) -> None:
        """The state is sent with the first real request, not before, not for a warm-up, and not again with the next."""
        scene = Scene(self)
        scene.observe(0, 10.0)
        client, upstream = scene.connected()
        client.say(WARM_UP)
        scene.settle()
        self.assertEqual(self.told(client), [])
        for _ in range(2):
            client.say(CREATE)
            scene.settle()
            upstream.say(COMPLETED)
            scene.settle()
        self.assertEqual(self.told(client), [11.0])
        self.assertEqual(
            client.limits()[0],
            {
                "type": "codex.rate_limits",
                "metered_limit_name": "codex",
                "limit_name": None,
                "rate_limits": {
                    "primary": {"used_percent": 11.0, "window_minutes": 300, "reset_at": int(START) + 3600},
                    "secondary": {"used_percent": 1.0, "window_minutes": 10080},
                },
                "plan_weight": 1.0,
            },
        )

    def test_changes(self) -> None:
        """Changes of any account are sent; simultaneous changes once, and an unchanged state not at all."""
        scene = Scene(self, 2)
        scene.observe(0, 10.0)
        scene.observe(1, 10.0)
        client, _ = scene.connected()
        client.say(CREATE)
        scene.settle()
        scene.observe(0, 20.0)
        scene.observe(0, 30.0)
        scene.observe(1, 30.0)
        scene.settle()
        scene.observe(1, 30.0)
        for account in scene.accounts:
            account._notify()
        scene.settle()
        self.assertEqual(self.told(client), [11.0, 31.0])

    def test_nothing_known(self) -> None:
        """Nothing is sent until something is known."""
        scene = Scene(self)
        client, _ = scene.connected()
        client.say(CREATE)
        scene.settle()
        self.assertEqual(client.messages, [])
        scene.observe(0, 10.0)
        scene.settle()
        self.assertEqual(self.told(client), [11.0])

    def test_a_client_that_does_not_read(self) -> None:
        """It gets the latest state once it reads again."""
        scene = Scene(self)
        scene.observe(0, 10.0)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        client.transport.pauseProducing()
        upstream.say(bytes(300 * 1024), False)
        scene.settle()
        for used in (20.0, 30.0, 40.0):
            scene.observe(0, used)
            scene.settle()
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual(self.told(client), [11.0, 41.0])

    def test_never_after_the_close(self) -> None:
        """Nothing is sent after a close by either side, even if the change came just before."""
        for ours in (True, False):
            scene = Scene(self)
            scene.observe(0, 10.0)
            client, upstream = scene.connected()
            client.say(CREATE)
            scene.settle()
            scene.observe(0, 20.0)
            (client if ours else upstream).close(1000)
            scene.network.flush()
            scene.observe(0, 30.0)
            scene.settle()
            # The scene's client fails if anything follows the close.
            self.assertEqual(client.code, 1000)
            self.assertEqual(self.told(client)[:1], [11.0])
            self.assertNotIn(31.0, self.told(client))
            self.assertEqual(len(scene.accounts[0]._listeners), 0)

    def test_each_connection_has_its_own(self) -> None:
        scene = Scene(self)
        scene.observe(0, 10.0)
        one, _ = scene.connected()
        two, _ = scene.connected()
        one.say(CREATE)
        scene.settle()
        scene.observe(0, 20.0)
        scene.settle()
        self.assertEqual((self.told(one), self.told(two)), ([11.0, 21.0], []))
