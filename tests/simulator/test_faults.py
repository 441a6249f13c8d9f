"""Reading faults, and deciding which request meets which."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.faults import ANSWERS, DELIVERIES, FAULTS, SCENARIOS, Fault, FaultPlan, Scenario


class ParseTests(SynchronousTestCase):
    """The written form."""

    def test_every_name(self) -> None:
        for name in FAULTS:
            self.assertEqual(Fault.parse(name), Fault(name))
        self.assertFalse(ANSWERS.keys() & DELIVERIES.keys())

    def test_settings(self) -> None:
        self.assertEqual(
            Fault.parse(" stall ; at = before_stop;seconds=2.5; times=2"),
            Fault("stall", at="before_stop", seconds=2.5, times=2),
        )
        self.assertEqual(Fault.parse("cut;how=fin;at=after_head"), Fault("cut", how="fin", at="after_head"))
        self.assertEqual(Fault.parse("429;retry_after=9"), Fault("rate_limited", retry_after=9, code=429))
        self.assertEqual(Fault.parse("error_mid;type=api_error"), Fault("error_mid", type="api_error"))
        self.assertEqual(Fault.parse("exhausted;window=seven_day"), Fault("exhausted", window="seven_day"))

    def test_statuses(self) -> None:
        for status in (401, 403, 413, 429, 500, 502, 503, 529):
            self.assertIn(Fault.parse(str(status)).name, ANSWERS)
        self.assertEqual(Fault.parse("418"), Fault("status", code=418))

    def test_refused(self) -> None:
        for text in (
            "",
            "nosuch",
            "99",
            "700",
            "cut;at=elsewhere",
            "cut;how=gently",
            "slow;seconds=x",
            "slow;seconds=-1",
            "slow;seconds=nan",
            "pieces;size=0",
            "cut;colour=red",
            "429;retry_after=soon",
            "cut;",
        ):
            self.assertRaises(ValueError, Fault.parse, text)

    @given(st.text(max_size=40))
    def test_only_value_error(self, text: str) -> None:
        try:
            fault = Fault.parse(text)
        except ValueError:
            return
        self.assertIn(fault.name, FAULTS)


class PlanTests(SynchronousTestCase):
    """Who meets what."""

    def setUp(self) -> None:
        self.plan = FaultPlan(random.Random(0))

    def choose(self, **arguments: str) -> str | None:
        fault = self.plan.choose("turn", arguments.pop("account", "a"), **arguments)
        return fault.name if fault is not None else None

    def test_nothing(self) -> None:
        self.assertIsNone(self.choose())

    def test_queue_in_order(self) -> None:
        self.plan.next("529")
        self.plan.next(Fault("server_error"), times=2)
        self.assertEqual(self.plan.pending, 3)
        self.assertEqual(
            [self.choose() for _ in range(4)], ["overloaded", "server_error", "server_error", None]
        )
        self.assertEqual(self.plan.pending, 0)

    def test_endpoint_and_account(self) -> None:
        self.plan.next("529", account="b")
        self.plan.next("500", endpoint="token")
        self.assertIsNone(self.choose(account="a"))
        self.assertEqual(self.choose(account="b"), "overloaded")
        self.assertIsNone(self.choose(account="b"))
        fault = self.plan.choose("token", None)
        self.assertEqual(fault and fault.name, "server_error")

    def test_always_until_cleared(self) -> None:
        self.plan.always("529", account="a")
        self.plan.next("500")
        self.assertEqual([self.choose() for _ in range(3)], ["server_error", "overloaded", "overloaded"])
        self.assertIsNone(self.choose(account="b"))
        self.plan.next("500")
        self.plan.clear()
        self.assertIsNone(self.choose())

    def test_wish_comes_first(self) -> None:
        self.plan.next("500")
        self.assertEqual(self.choose(wish="cut"), "cut")
        self.assertEqual(self.choose(), "server_error")
        self.assertRaises(ValueError, self.plan.choose, "turn", "a", "nosuch")

    def test_wish_wears_out_per_conversation(self) -> None:
        wish = "529;times=2"
        self.assertEqual(
            [self.choose(wish=wish, conversation="x") for _ in range(3)], ["overloaded", "overloaded", None]
        )
        self.assertEqual(self.choose(wish=wish, conversation="y"), "overloaded")

    def test_wishes_are_forgotten_in_the_end(self) -> None:
        for number in range(1200):
            self.choose(wish="529;times=1", conversation=str(number))
        self.assertLessEqual(len(self.plan._met), 1000)

    def test_scenarios_are_for_turns(self) -> None:
        plan = FaultPlan(random.Random(0), Scenario(((1.0, Fault("close")),)))
        for endpoint in ("websocket", "warm_up", "token", "usage"):
            self.assertIsNone(plan.choose(endpoint, None))
        self.assertEqual(plan.choose("turn", None), Fault("close"))

    def test_scenario(self) -> None:
        faults = Scenario(((0.25, Fault("overloaded")), (0.25, Fault("cut"))))
        first = FaultPlan(random.Random(7), faults)
        second = FaultPlan(random.Random(7), faults)
        drawn = [fault and fault.name for fault in (first.choose("turn", None) for _ in range(400))]
        again = [fault and fault.name for fault in (second.choose("turn", None) for _ in range(400))]
        self.assertEqual(drawn, again)
        for name, count in (("overloaded", 100), ("cut", 100), (None, 200)):
            self.assertLess(abs(drawn.count(name) - count), 40)
        self.assertIsNone(first.choose("token", None))

    def test_scenarios_are_probabilities(self) -> None:
        for scenario in SCENARIOS.values():
            self.assertLess(sum(probability for probability, _ in scenario.faults), 1.0)
