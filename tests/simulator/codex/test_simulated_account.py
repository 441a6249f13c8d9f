"""The auth file, its tokens, windows by limit, credits, keys."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.simulated_account import (
    AUTH_CLAIM,
    PLANS,
    SPARK,
    CodexAccount,
    OpenAIKey,
    SimulatedCredits,
    model_weight,
)
from tests.simulator.codex.service import NOW


def claims(token: str) -> dict[str, Any]:
    """What a JWT says."""
    part = token.split(".")[1]
    decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(decoded, dict)
    return decoded


class CodexAccountTests(SynchronousTestCase):
    """ChatGPT accounts."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rng = random.Random(0)

    def make(self, plan: str = "pro", **options: Any) -> CodexAccount:
        """An account."""
        return CodexAccount("a", plan, rng=self.rng, time=self.clock.seconds, **options)

    def test_auth_document(self) -> None:
        account = self.make("team", token_lifetime=1000.0)
        document = json.loads(account.auth_document())
        self.assertEqual((document["auth_mode"], document["OPENAI_API_KEY"]), ("chatgpt", None))
        self.assertEqual(document["last_refresh"], "2026-11-18T11:06:40.000000Z")
        tokens = document["tokens"]
        self.assertEqual(tokens["access_token"], account.access_token)
        self.assertEqual(tokens["refresh_token"], account.refresh_token)
        self.assertEqual(tokens["account_id"], account.account_id)
        access, identity = claims(tokens["access_token"]), claims(tokens["id_token"])
        self.assertEqual(access["exp"], NOW + 1000)
        self.assertEqual(identity["email"], "a@example.com")
        for found in (access, identity):
            self.assertEqual(found[AUTH_CLAIM]["chatgpt_account_id"], account.account_id)
            self.assertEqual(found[AUTH_CLAIM]["chatgpt_plan_type"], "team")
        self.assertEqual(account.credentials_document(), account.auth_document())

    def test_refresh_replaces_everything(self) -> None:
        account = self.make()
        before = json.loads(account.auth_document())
        self.clock.advance(60)
        account.redeem(account.refresh_token)
        after = json.loads(account.auth_document())
        self.assertEqual(before["tokens"]["account_id"], after["tokens"]["account_id"])
        for name in ("access_token", "refresh_token", "id_token"):
            self.assertNotEqual(before["tokens"][name], after["tokens"][name])
        self.assertNotEqual(before["last_refresh"], after["last_refresh"])

    def test_members_of_a_workspace(self) -> None:
        first = self.make("team")
        second = self.make("team", same_workspace_as=first)
        self.assertEqual(first.account_id, second.account_id)
        self.assertEqual(claims(second.access_token)[AUTH_CLAIM]["chatgpt_account_id"], first.account_id)
        first.exhaust()
        self.assertEqual(second.utilization("five_hour"), 0.0)

    def test_windows_by_model(self) -> None:
        account = self.make(named_limits=(SPARK,))
        self.assertEqual(account.limit_for("gpt-5.3-codex-spark"), "codex_bengalfox")
        self.assertEqual(account.limit_for("gpt-5.4"), "codex")
        self.assertEqual(account.windows_of("codex"), ("five_hour", "seven_day"))
        for name in account.windows_of("codex_bengalfox"):
            self.assertIn(name, account.windows)
        self.assertEqual(self.make().limit_for("gpt-5.3-codex-spark"), "codex")

    def test_plans(self) -> None:
        self.assertEqual(PLANS["pro"], 10 * PLANS["plus"])
        self.assertRaises(KeyError, self.make, "diamond")
        self.assertGreater(model_weight("gpt-5.4"), model_weight("gpt-5.4-mini"))

    def test_credits(self) -> None:
        self.assertFalse(SimulatedCredits().usable)
        self.assertFalse(SimulatedCredits(has_credits=True).usable)
        self.assertTrue(SimulatedCredits(unlimited=True).usable)
        account = self.make(credits=SimulatedCredits(has_credits=True, balance=1.5))
        self.assertTrue(account.credits.usable)
        account.pay(40_000.0)
        self.assertEqual(account.credits.balance, 0.5)
        account.pay(1e9)
        self.assertFalse(account.credits.usable)

    def test_key(self) -> None:
        key = OpenAIKey("k", rng=self.rng, time=self.clock.seconds, requests_per_minute=1)
        self.assertEqual(json.loads(key.auth_document()), {"auth_mode": "apikey", "OPENAI_API_KEY": key.key})
        self.assertTrue(key.take_request())
        self.assertFalse(key.take_request())
        self.clock.advance(60)
        self.assertTrue(key.take_request())
