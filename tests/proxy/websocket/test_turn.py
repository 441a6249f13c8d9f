"""Tests for :mod:`ccmproxy.proxy.websocket.turn`: turns for models that their user may not ask for (spec 9.6)."""

from __future__ import annotations

import json
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.websocket_frames import LARGEST_DECODED
from tests.proxy.websocket.scene import COMPLETED, CREATE, CREATED, Scene, event

OTHER = event("response.create", model="gpt-6", input=[])


def limited(case: SynchronousTestCase) -> Scene:
    """A scene in which alice may ask for one family of models."""
    scene = Scene(case)
    scene.caller = replace(scene.caller, models=("gpt-5.*",))
    return scene


class RefusedTurnTests(SynchronousTestCase):
    """A turn is refused within the connection, which goes on."""

    def test_not_allowed(self) -> None:
        scene = limited(self)
        client, upstream = scene.connected()
        client.say(OTHER)
        scene.settle()
        (answer,) = map(json.loads, client.messages)
        self.assertEqual((answer["type"], answer["status"]), ("error", 403))
        self.assertEqual(
            answer["error"],
            {
                "type": "permission_error",
                "code": "model_not_allowed",
                "message": "this model is not allowed: this token may use only: gpt-5.*",
                "param": None,
            },
        )
        self.assertEqual(answer["headers"]["x-ccm-error"], "model_not_allowed")
        self.assertEqual(answer["headers"]["x-should-retry"], "false")
        self.assertNotIn("content-type", answer["headers"])
        self.assertEqual(upstream.messages, [])
        self.assertEqual(scene.results(), ["model_not_allowed"])

    def test_the_connection_goes_on(self) -> None:
        """Before and after a refused turn, allowed ones are served there."""
        scene = limited(self)
        client, upstream = scene.connected()
        for _ in range(2):
            client.say(CREATE)
            client.say(event("response.processed", response_id="r1"))
            scene.settle()
            for data in (CREATED, COMPLETED):
                upstream.say(data)
            scene.settle()
            client.say(OTHER)
            scene.settle()
        self.assertEqual(upstream.messages, [CREATE, event("response.processed", response_id="r1")] * 2)
        self.assertEqual(scene.results(), ["served", "model_not_allowed"] * 2)
        self.assertIsNone(client.closed)

    def test_nobody_gets_around_it(self) -> None:
        scene = limited(self)
        client, upstream = scene.connected()
        client.say(CREATE)
        scene.settle()
        for data, is_text in (
            (event("response.create", input=[], previous_response_id="r1"), True),  # what does it go on with?
            (event("response.create", model="gpt-6", generate=False), True),
            (event("response.create", model="gpt-5.4 ", input=[]), True),
            (event("response.create", model=["gpt-5.4"], input=[]), True),
            (event("response.create", model="gpt-5.4", response={"model": "gpt-6"}), True),
            (event("response.create", model="gpt-5.4", tools=[{"type": "t", "model": "gpt-6"}]), True),
            (b'{"type":"response.create","model":"gpt-6","model":"gpt-5.4"}', True),
            (b'{"type":"response.create","MODEL":"gpt-6","model":"gpt-5.4"}', True),
            (b'{"type":"response.create","mod\\u0065l":"gpt-6","model":"gpt-5.4"}', True),
            (b'{"type":"response.create","model":"gpt-6","type":"response.processed"}', True),
            (event("session.update", model="gpt-6"), True),
            (event("response.create", model="gpt-5.4", input="x" * LARGEST_DECODED), True),
            (event("response.create", model="gpt-5.4", input=[["model"] * 100_000]), True),
            (event("x", model="gpt-6", input="x" * LARGEST_DECODED), True),
            (CREATE[:-1], True),
            (b"[" + CREATE + b"]", True),
            (CREATE, False),
        ):
            before = len(client.messages)
            client.say(data, is_text)
            scene.settle()
            self.assertEqual(upstream.messages, [CREATE], data[:100])
            self.assertEqual(len(client.messages), before + 1, data[:100])
            self.assertEqual(json.loads(client.messages[-1])["status"], 403)
        upstream.say(COMPLETED)
        scene.settle()
        self.assertIsNone(client.closed)

    def test_everybody_else(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        said = [OTHER, b"no JSON", b'{"type":"response.create"}']
        for data in said:
            client.say(data)
        scene.settle()
        self.assertEqual(upstream.messages, said)

    def test_a_client_that_does_not_read(self) -> None:
        """Answers do not pile up for it."""
        scene = limited(self)
        client, upstream = scene.connected()
        pump = scene.proxy_listener.connections[-1]
        pump.server.held = True
        for _ in range(2000):
            client.say(OTHER)
        scene.settle()
        self.assertLess(pump.server.written, 300_000)
        pump.server.held = False
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1013, 1001))
        self.assertEqual(upstream.messages, [])
