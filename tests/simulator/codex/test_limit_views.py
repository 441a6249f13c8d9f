"""One account's windows, as headers, as an event, as a document: all agree."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.limit_views import (
    key_headers,
    limit_headers,
    limits_event,
    usage_document,
    window_states,
)
from ccmproxy.simulator.codex.simulated_account import SPARK, CodexAccount, OpenAIKey, SimulatedCredits
from tests.simulator.codex.service import NOW


class LimitsTests(SynchronousTestCase):
    """An account at 13.5 and 35 percent."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.account = self.make()
        self.account.set_utilization("five_hour", 13.5, 3600)
        self.account.set_utilization("seven_day", 35.0, 86400)

    def make(self, **options: Any) -> CodexAccount:
        """An account."""
        return CodexAccount("a", "team", rng=random.Random(0), time=self.clock.seconds, **options)

    def test_headers(self) -> None:
        headers = dict(limit_headers(self.account, "gpt-5.4", NOW))
        self.assertEqual(headers[b"x-codex-plan-type"], b"team")
        self.assertEqual(headers[b"x-codex-active-limit"], b"codex")
        self.assertEqual(headers[b"x-codex-primary-used-percent"], b"13.5")
        self.assertEqual(headers[b"x-codex-primary-window-minutes"], b"300")
        self.assertEqual(headers[b"x-codex-primary-reset-at"], b"%d" % (NOW + 3600))
        self.assertEqual(headers[b"x-codex-primary-reset-after-seconds"], b"3600")
        self.assertEqual(headers[b"x-codex-secondary-used-percent"], b"35")
        self.assertEqual(headers[b"x-codex-secondary-window-minutes"], b"10080")
        self.assertEqual(headers[b"x-codex-credits-has-credits"], b"False")

    def test_named_limit(self) -> None:
        account = self.make(named_limits=(SPARK,), credits=SimulatedCredits(has_credits=True, balance=5))
        account.set_utilization("codex_bengalfox.five_hour", 80, 60)
        headers = dict(limit_headers(account, "gpt-5.3-codex-spark", NOW))
        self.assertEqual(headers[b"x-codex-active-limit"], b"codex_bengalfox")
        self.assertEqual(headers[b"x-codex-bengalfox-primary-used-percent"], b"80")
        self.assertEqual(headers[b"x-codex-bengalfox-limit-name"], b"GPT-5.3-Codex-Spark")
        self.assertEqual(headers[b"x-codex-primary-used-percent"], b"0")
        self.assertEqual(headers[b"x-codex-credits-balance"], b"5.00")
        event = limits_event(account, "gpt-5.3-codex-spark", NOW)
        self.assertEqual(event["metered_limit_name"], "codex_bengalfox")
        self.assertEqual(event["limit_name"], "GPT-5.3-Codex-Spark")
        self.assertEqual(event["rate_limits"]["primary"]["used_percent"], 80)
        (limit,) = usage_document(account, NOW)["additional_rate_limits"]
        self.assertEqual(
            (limit["limit_name"], limit["metered_feature"]), ("GPT-5.3-Codex-Spark", "codex_bengalfox")
        )
        self.assertEqual(limit["rate_limit"]["primary_window"]["used_percent"], 80)

    def test_event(self) -> None:
        event = limits_event(self.account, "gpt-5.4", NOW)
        self.assertEqual((event["type"], event["plan_type"]), ("codex.rate_limits", "team"))
        self.assertEqual((event["metered_limit_name"], event["limit_name"]), ("codex", None))
        limits = event["rate_limits"]
        self.assertEqual(
            limits["primary"], {"used_percent": 13.5, "window_minutes": 300, "reset_at": NOW + 3600}
        )
        self.assertEqual(limits["secondary"]["used_percent"], 35.0)
        self.assertFalse(limits["limit_reached"])
        self.assertEqual(event["credits"], {"has_credits": False, "unlimited": False, "balance": "0.00"})

    def test_usage_document(self) -> None:
        document = usage_document(self.account, NOW)
        self.assertEqual(document["plan_type"], "team")
        self.assertEqual(
            document["rate_limit"]["primary_window"],
            {
                "used_percent": 13,
                "limit_window_seconds": 18000,
                "reset_after_seconds": 3600,
                "reset_at": NOW + 3600,
            },
        )
        self.assertIs(document["rate_limit"]["allowed"], True)
        self.assertIsNone(document["additional_rate_limits"])
        self.assertIsNone(document["rate_limit_reached_type"])
        self.account.exhaust("seven_day")
        document = usage_document(self.account, NOW)
        self.assertIs(document["rate_limit"]["limit_reached"], True)
        self.assertEqual(document["rate_limit_reached_type"], {"type": "rate_limit_reached"})

    def test_shown_as_full(self) -> None:
        states = window_states(self.account, "codex", NOW, "five_hour")
        self.assertEqual(states["primary"]["used_percent"], 100.0)
        self.assertEqual(states["secondary"]["used_percent"], 35.0)

    def test_key(self) -> None:
        key = OpenAIKey("k", rng=random.Random(0), time=self.clock.seconds, requests_per_minute=10)
        key.take_request()
        self.clock.advance(30)
        headers = dict(key_headers(key, self.clock.seconds()))
        self.assertEqual(headers[b"x-ratelimit-limit-requests"], b"10")
        self.assertEqual(headers[b"x-ratelimit-remaining-requests"], b"9")
        self.assertEqual(headers[b"x-ratelimit-reset-requests"], b"30s")
        self.assertEqual(headers[b"x-ratelimit-remaining-tokens"], b"9000")
