"""Windows as headers and documents; the dialect reads back what was written."""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.claude.limit_views import (
    key_headers,
    profile_document,
    unified_headers,
    usage_document,
)
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount

PREFIX = "anthropic-ratelimit-unified-"
NOW = 1_795_000_000.0


class UnifiedHeadersTests(SynchronousTestCase):
    """``anthropic-ratelimit-unified-*``."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.account = ClaudeAccount(
            "a", rng=random.Random(0), time=self.clock.seconds, model_windows=("seven_day_opus",)
        )

    def headers(self, model: str = "claude-sonnet-5", full: str | None = None) -> dict[str, str]:
        found = unified_headers(self.account, model, self.clock.seconds(), full)
        return {name.decode().removeprefix(PREFIX): value.decode() for name, value in found}

    def test_allowed(self) -> None:
        self.account.set_utilization("five_hour", 12.34)
        headers = self.headers()
        self.assertEqual((headers["status"], headers["5h-status"]), ("allowed", "allowed"))
        self.assertEqual(headers["5h-utilization"], "0.1234")
        self.assertEqual(headers["7d-utilization"], "0")
        self.assertEqual(headers["reset"], headers["5h-reset"])
        self.assertEqual(headers["5h-reset"], str(int(NOW) + 18000))
        self.assertNotIn("5h-surpassed-threshold", headers)
        self.assertNotIn("7d_opus-status", headers)

    def test_warning(self) -> None:
        self.account.set_utilization("seven_day", 80.0)
        headers = self.headers()
        self.assertEqual((headers["status"], headers["7d-status"]), ("allowed_warning", "allowed_warning"))
        self.assertEqual(headers["representative-claim"], "seven_day")
        self.assertEqual(headers["7d-surpassed-threshold"], "0.75")

    def test_rejected_comes_before_warning(self) -> None:
        self.account.set_utilization("five_hour", 95.0)
        self.account.exhaust("seven_day", resets_in=3600.0)
        headers = self.headers()
        self.assertEqual((headers["status"], headers["5h-status"]), ("rejected", "allowed_warning"))
        self.assertEqual(headers["representative-claim"], "seven_day")
        self.assertEqual(headers["reset"], str(int(NOW) + 3600))

    def test_the_later_reset_counts(self) -> None:
        self.account.exhaust("five_hour", resets_in=500.0)
        self.account.exhaust("seven_day", resets_in=100.0)
        self.assertEqual(self.headers()["reset"], str(int(NOW) + 500))
        self.account.exhaust("seven_day", resets_in=900.0)
        self.assertEqual(self.headers()["reset"], str(int(NOW) + 900))

    def test_model_window(self) -> None:
        self.account.exhaust("seven_day_opus")
        headers = self.headers("claude-opus-5")
        self.assertEqual(headers["7d_opus-status"], "rejected")
        self.assertEqual(headers["representative-claim"], "seven_day_opus")
        self.assertEqual(self.headers()["status"], "allowed")

    def test_shown_as_full(self) -> None:
        headers = self.headers(full="seven_day")
        self.assertEqual((headers["7d-status"], headers["7d-utilization"]), ("rejected", "1"))
        self.assertEqual(self.account.utilization("seven_day"), 0.0)


class DocumentTests(SynchronousTestCase):
    """Usage, profile, key headers."""

    def test_usage(self) -> None:
        clock = Clock()
        clock.advance(NOW)
        account = ClaudeAccount(
            "a", rng=random.Random(0), time=clock.seconds, model_windows=("seven_day_opus",)
        )
        account.set_utilization("five_hour", 33.333, resets_in=60.0)
        document = usage_document(account, clock.seconds())
        self.assertEqual(
            document["five_hour"], {"utilization": 33.3, "resets_at": "2026-11-18T11:07:40+00:00"}
        )
        self.assertEqual(document["seven_day"], {"utilization": 0.0, "resets_at": None})
        self.assertEqual(document["seven_day_opus"], {"utilization": 0.0, "resets_at": None})
        self.assertIsNone(document["seven_day_sonnet"])

    def test_profile(self) -> None:
        account = ClaudeAccount("anna", "team", rng=random.Random(0), time=Clock().seconds)
        document = profile_document(account)
        self.assertEqual(document["organization"]["organization_type"], "claude_team")
        self.assertEqual(document["account"]["uuid"], account.uuid)
        self.assertFalse(document["account"]["has_claude_max"])

    def test_key(self) -> None:
        clock = Clock()
        clock.advance(NOW)
        account = ApiKeyAccount("k", rng=random.Random(0), time=clock.seconds, requests_per_minute=50)
        account.take_request()
        headers = dict(key_headers(account))
        self.assertEqual(headers[b"anthropic-ratelimit-requests-remaining"], b"49")
        self.assertEqual(headers[b"anthropic-ratelimit-tokens-limit"], b"50000")
        self.assertEqual(headers[b"anthropic-ratelimit-requests-reset"], b"2026-11-18T11:07:40+00:00")
