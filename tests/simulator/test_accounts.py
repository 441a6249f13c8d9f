"""Logins: tokens rotate, expire, are revoked; a refresh token that is used twice ends the login."""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.accounts import RefreshTokenReused
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount


class AccountTests(SynchronousTestCase):
    """One account's tokens and windows."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.account = self.make()

    def make(self, overlap: bool = False) -> ClaudeAccount:
        return ClaudeAccount(
            "a", rng=random.Random(1), time=self.clock.seconds, access_tokens_overlap=overlap
        )

    def test_token_expires(self) -> None:
        token = self.account.access_token
        self.assertEqual(self.account.token_state(token), "valid")
        self.assertEqual(self.account.expires_at, 1_000_000.0 + 28800.0)
        self.clock.advance(28800.0)
        self.assertEqual(self.account.token_state(token), "expired")
        self.assertIsNone(self.account.token_state("another"))

    def test_expire_access_token(self) -> None:
        self.account.expire_access_token()
        self.assertEqual(self.account.token_state(self.account.access_token), "expired")

    def test_refresh_replaces_both_tokens(self) -> None:
        access, refresh = self.account.access_token, self.account.refresh_token
        self.account.redeem(refresh)
        self.assertNotEqual(self.account.access_token, access)
        self.assertNotEqual(self.account.refresh_token, refresh)
        self.assertIsNone(self.account.token_state(access))
        self.assertEqual(self.account.token_state(self.account.access_token), "valid")
        self.assertEqual(self.account.counters.refreshes, 1)

    def test_access_tokens_may_overlap(self) -> None:
        account = self.make(overlap=True)
        access = account.access_token
        account.redeem(account.refresh_token)
        self.assertEqual(account.token_state(access), "valid")

    def test_second_use_of_a_refresh_token_logs_out(self) -> None:
        first = self.account.refresh_token
        self.account.redeem(first)
        self.assertRaises(RefreshTokenReused, self.account.redeem, first)
        self.assertFalse(self.account.logged_in)
        self.assertEqual(self.account.token_state(self.account.access_token), "revoked")
        self.assertRaises(KeyError, self.account.redeem, self.account.refresh_token)
        self.assertEqual(self.account.counters.refreshes, 1)
        self.assertEqual(self.account.counters.refused_refreshes, 2)

    def test_unknown_refresh_token_changes_nothing(self) -> None:
        self.assertRaises(KeyError, self.account.redeem, "another")
        self.assertTrue(self.account.logged_in)
        self.assertEqual(self.account.token_state(self.account.access_token), "valid")

    def test_new_login(self) -> None:
        old = self.account.refresh_token
        self.account.log_out()
        self.account.log_in()
        self.assertEqual(self.account.token_state(self.account.access_token), "valid")
        self.assertFalse(self.account.knows_refresh_token(old))
        self.account.redeem(self.account.refresh_token)

    def test_revoked_token_can_be_replaced(self) -> None:
        token = self.account.access_token
        self.account.revoke()
        self.assertEqual(self.account.token_state(token), "revoked")
        self.account.redeem(self.account.refresh_token)
        self.assertEqual(self.account.token_state(self.account.access_token), "valid")

    def test_seed_repeats_tokens(self) -> None:
        self.assertEqual(self.make().access_token, self.make().access_token)

    def test_windows(self) -> None:
        account = self.account
        self.assertIsNone(account.full_until(["five_hour", "seven_day"]))
        account.exhaust("five_hour")
        self.assertEqual(account.full_until(["five_hour", "seven_day"]), 1_000_000.0 + 18000.0)
        account.exhaust("seven_day", resets_in=20.0)
        self.assertEqual(account.full_until(["five_hour", "seven_day"]), 1_000_000.0 + 18000.0)
        self.assertEqual(account.utilization("seven_day"), 100.0)
        account.reset("five_hour")
        self.assertEqual(account.full_until(["five_hour", "seven_day"]), 1_000_020.0)
        account.reset()
        self.assertIsNone(account.full_until(["five_hour", "seven_day"]))
        self.assertRaises(KeyError, account.exhaust, "fortnight")

    def test_consume_fills_the_named_windows(self) -> None:
        self.account.consume(Tokens(input=1_600_000), 1.0, ["five_hour"])
        self.assertAlmostEqual(self.account.utilization("five_hour"), 1.0)
        self.assertEqual(self.account.utilization("seven_day"), 0.0)

    def test_concurrency(self) -> None:
        self.account.begin_turn()
        self.account.begin_turn()
        self.account.end_turn()
        self.account.begin_turn()
        counters = self.account.counters
        self.assertEqual((counters.turns, counters.concurrent, counters.max_concurrent), (3, 2, 2))
