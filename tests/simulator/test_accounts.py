"""Logins: tokens rotate, expire, are revoked; a refresh token that is used twice ends the login."""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.accounts import (
    RefreshTokenExpired,
    RefreshTokenReused,
    SimulatedAccount,
    SimulatedKey,
    find_key,
    find_login,
)
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

    def test_an_expired_refresh_token(self) -> None:
        token = self.account.refresh_token
        self.account.expire_refresh_token()
        self.assertRaises(RefreshTokenExpired, self.account.redeem, token)
        self.assertRaises(KeyError, self.account.redeem, "another's")
        self.assertEqual(self.account.counters.refused_refreshes, 2)
        self.account.log_in()
        self.account.redeem(self.account.refresh_token)

    def test_what_is_shown_of_a_window(self) -> None:
        self.account.set_utilization("five_hour", 25.0, resets_in=60.0)
        now = 1_000_000.0
        self.assertEqual(self.account.shown_window("five_hour", now), (0.25, now + 60.0))
        self.assertEqual(self.account.shown_window("five_hour", now, "seven_day"), (0.25, now + 60.0))
        self.assertEqual(self.account.shown_window("five_hour", now, "five_hour"), (1.0, now + 60.0))
        self.assertEqual(self.account.shown_window("seven_day", now), (0.0, now + 7 * 86400), "it begins")

    def test_a_provider_must_say_what_its_tokens_look_like(self) -> None:
        self.assertEqual(
            SimulatedAccount.__abstractmethods__,
            {"_new_access_token", "_new_refresh_token", "credentials_document"},
        )


class KeyTests(SynchronousTestCase):
    """Keys of a commercial API."""

    def test_quotas(self) -> None:
        key = SimulatedKey("k", "secret", rng=random.Random(0), time=lambda: 1000.0, requests_per_minute=2)
        self.assertEqual(key.quotas(), [("requests", 2, 2), ("tokens", 2000, 2000)])
        key.take_request()
        self.assertEqual(key.quotas(), [("requests", 2, 1), ("tokens", 2000, 1000)])


class FindTests(SynchronousTestCase):
    """Whose token or key it is."""

    def test_logins(self) -> None:
        accounts = [ClaudeAccount(name, rng=random.Random(name), time=lambda: 1000.0) for name in "ab"]
        token = accounts[1].access_token
        self.assertEqual(find_login(accounts, token), (accounts[1], "valid"))
        accounts[1].revoke()
        self.assertEqual(find_login(accounts, token), (accounts[1], "revoked"))
        self.assertEqual(find_login(accounts, "nobody's"), (None, None))

    def test_keys(self) -> None:
        keys = [SimulatedKey(name, f"key of {name}", rng=random.Random(0), time=float) for name in "ab"]
        self.assertIs(find_key(keys, "key of b"), keys[1])
        self.assertIsNone(find_key(keys, "b"))
