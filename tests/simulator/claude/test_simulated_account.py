"""Plans, the credential file, model windows, keys."""

from __future__ import annotations

import json
import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.claude.simulated_account import PLANS, ApiKeyAccount, ClaudeAccount, model_weight


class ClaudeAccountTests(SynchronousTestCase):
    """Subscription accounts."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.rng = random.Random(0)

    def make(self, plan: str = "max_20x", speed: float = 1.0, models: tuple[str, ...] = ()) -> ClaudeAccount:
        return ClaudeAccount(
            "a", plan, rng=self.rng, time=self.clock.seconds, speed=speed, model_windows=models
        )

    def test_credentials_document(self) -> None:
        account = self.make()
        login = json.loads(account.credentials_document())["claudeAiOauth"]
        self.assertEqual(login["accessToken"], account.access_token)
        self.assertEqual(login["refreshToken"], account.refresh_token)
        self.assertEqual(login["expiresAt"], (1_000_000 + 28800) * 1000)
        self.assertIn("user:inference", login["scopes"])
        self.assertEqual(
            (login["subscriptionType"], login["rateLimitTier"]), ("max", "default_claude_max_20x")
        )
        login = json.loads(account.credentials_document(plan_known=False))["claudeAiOauth"]
        self.assertEqual((login["subscriptionType"], login["rateLimitTier"]), (None, None))

    def test_plans_differ_in_size(self) -> None:
        small, large = self.make("pro"), self.make("max_20x")
        self.assertEqual(large.windows["five_hour"].allowance, 20 * small.windows["five_hour"].allowance)
        for plan in PLANS:
            self.make(plan)
        self.assertRaises(KeyError, self.make, "free")

    def test_speed_shortens_windows(self) -> None:
        account = self.make(speed=60.0)
        account.exhaust("five_hour")
        self.clock.advance(300.0)
        self.assertEqual(account.utilization("five_hour"), 0.0)

    def test_model_windows(self) -> None:
        account = self.make(models=("seven_day_opus",))
        self.assertEqual(account.windows_for("claude-opus-5"), ["five_hour", "seven_day", "seven_day_opus"])
        self.assertEqual(account.windows_for("claude-sonnet-5"), ["five_hour", "seven_day"])
        self.assertRaises(ValueError, self.make, models=("fortnight",))

    def test_one_organization_one_allowance(self) -> None:
        first = self.make()
        second = ClaudeAccount("b", rng=self.rng, time=self.clock.seconds, same_organization_as=first)
        first.exhaust()
        self.assertEqual(second.utilization("five_hour"), 100.0)
        self.assertEqual(second.organization_uuid, first.organization_uuid)
        self.assertNotEqual(second.access_token, first.access_token)

    def test_model_weight(self) -> None:
        self.assertLess(model_weight("claude-haiku-4-5"), model_weight("claude-sonnet-5"))
        self.assertLess(model_weight("claude-sonnet-5"), model_weight("claude-opus-5"))
        self.assertEqual(model_weight("claude-new"), model_weight("claude-sonnet-5"))


class ApiKeyAccountTests(SynchronousTestCase):
    """Keys."""

    def test_requests_per_minute(self) -> None:
        clock = Clock()
        account = ApiKeyAccount("k", rng=random.Random(0), time=clock.seconds, requests_per_minute=2)
        self.assertEqual([account.take_request() for _ in range(3)], [True, True, False])
        self.assertEqual(account.allowance(), (0, 60.0))
        clock.advance(60.0)
        self.assertTrue(account.take_request())
        account.exhaust()
        self.assertFalse(account.take_request())

    def test_concurrency(self) -> None:
        account = ApiKeyAccount("k", rng=random.Random(0), time=Clock().seconds)
        account.begin_turn()
        account.begin_turn()
        account.end_turn()
        counters = account.counters
        self.assertEqual((counters.turns, counters.concurrent, counters.max_concurrent), (2, 1, 2))
