"""Turns: what they cost, what state they carry, what prevents them."""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.error_answers import ErrorAnswers
from ccmproxy.simulator.codex.responses import read_prompt
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.codex.turns import Turns
from ccmproxy.simulator.faults import FaultPlan
from ccmproxy.simulator.replies import RequestRefused
from tests.simulator.codex.service import NOW, turn, user


class TurnsTests(SynchronousTestCase):
    """An account and a key."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        rng = random.Random(0)
        self.turns = Turns(FaultPlan(rng), rng, self.clock.seconds, ErrorAnswers(rng))
        self.account = CodexAccount("a", rng=rng, time=self.clock.seconds)
        self.key = OpenAIKey("k", rng=rng, time=self.clock.seconds)

    def test_cost(self) -> None:
        document = turn("[[tokens:1000]]")
        first = self.turns.respond(self.account, document, read_prompt(document), "s", 100_000)
        self.assertEqual((first.tokens.input, first.tokens.output), (25_000, 1000))
        used = self.account.windows["five_hour"].used
        self.assertEqual(used, self.account.windows["seven_day"].used)
        second = self.turns.respond(self.account, document, read_prompt(document), "s", 100_000)
        self.assertGreater(second.tokens.cache_read, 24_000)
        self.assertLess(self.account.windows["five_hour"].used - used, used / 2)

    def test_warm_up_is_free(self) -> None:
        response = self.turns.warm_up(self.account, turn(), 40_000)
        self.assertEqual((response.items, response.tokens.input), ([], 10_000))
        self.assertEqual(self.account.utilization("five_hour"), 0.0)
        self.account.exhaust()
        self.turns.warm_up(self.account, turn(), 100)
        self.assertRaises(RequestRefused, self.turns.admit, self.account, turn())

    def test_compaction(self) -> None:
        document = turn(input=[user("x"), {"type": "compaction_trigger"}])
        response = self.turns.respond(self.account, document, read_prompt(document), "", 100)
        self.assertEqual([item["type"] for item in response.items], ["compaction"])

    def test_turn_state(self) -> None:
        self.assertIsNone(self.turns.turn_state(self.key, "x"))
        state = self.turns.turn_state(self.account, None)
        self.assertEqual(self.turns.turn_state(self.account, state), state)
        self.assertNotEqual(self.turns.turn_state(self.account, "ts-ü"), "ts-ü")
        self.assertEqual(self.account.foreign_turn_states, 1)

    def test_completion_of_a_key(self) -> None:
        document = {"model": "gpt-5.4"}
        completion = self.turns.complete(self.key, document, read_prompt({"input": "[[say:x]]"}), "", 40)
        self.assertEqual((completion.text, completion.tokens.input), ("x", 10))
        self.assertEqual(self.turns.limits_event(self.key, "gpt-5.4"), [])
