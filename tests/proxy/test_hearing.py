"""Tests of :mod:`ccmproxy.proxy.hearing`: which answers are heard, held and counted. More conversations are in
:mod:`tests.proxy.test_tries`."""

from __future__ import annotations

import json

from ccmproxy.state.inputs import TokenAvailable, TokenUnavailable
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import CodexPoolWorld
from tests.proxy.test_codex import only, request
from tests.proxy.test_tries import BUSY, FORBIDDEN, SERVED, TriesCase


class HearingTests(TriesCase):
    """What several credentials say to one request."""

    def test_models_that_nobody_serves(self) -> None:
        """Clients can make up as many as they like: nothing is kept of them, and for a minute the like is sent once
        (spec 12.5)."""
        world = CodexPoolWorld(self)
        for number in range(40):
            words = f"The 'm{number}' model is not supported when using Codex with a ChatGPT account."
            said = http_response(400, body=json.dumps({"detail": words}).encode())
            world.upstream_says.scripts = {"a1": said, "a2": said}
            for times in (2, 1):
                response = only(world.send(request("hello", model=f"m{number}")))
                self.assertEqual((response.status, response.json()), (400, {"detail": words}))
                self.assertEqual(len(world.upstream_says.asked()), times, number)
        for account in world.accounts:
            self.assertTrue(account.state.holds.is_empty)

    def test_where_only_a_key_can_answer_no_opinion_is_counted(self) -> None:
        key = "      - {tag: key, api_key: KEY}\n"
        self.begin(2, members=("a1", "key", "a2"), more_credentials=key, strategy="fallback")
        self.scripts["a1"], self.scripts["key"] = BUSY, SERVED
        self.world.accounts[1]._apply(TokenUnavailable("logged out"))
        for number in range(10):
            self.assert_served_by(["a1", "key"], model=f"claude-opus-4-{number}")
        account = self.world.accounts[1]
        account._apply(TokenAvailable(1.0))
        self.scripts["a1"] = FORBIDDEN
        self.assert_served_by(["a1", "a2"], model="claude-opus-5")

    def test_what_is_held_is_dropped_once_another_serves(self) -> None:
        """The connection of the first refusal is free again, and its lease is closed."""
        self.begin()
        self.scripts["a1"] = BUSY
        self.assert_served_by(["a1", "a2"], "s")
        self.assertEqual([account.in_flight for account in self.world.accounts], [0, 0])

    def test_what_is_held_is_dropped_when_the_client_goes(self) -> None:
        self.begin()
        self.scripts["a1"], self.scripts["a2"] = BUSY, b""
        client = self.world.ask(session="s")
        self.assertEqual(self.upstream.asked(), ["a1", "a2"])
        self.assertEqual([account.in_flight for account in self.world.accounts], [1, 1])
        assert client.transport is not None
        client.transport.loseConnection()
        self.world.network.flush()
        self.assertEqual([account.in_flight for account in self.world.accounts], [0, 0])
