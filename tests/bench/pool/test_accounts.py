"""Accounts of the simulation: their windows, what they report, and what a credential learns from it."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.accounts import known_plan, make_accounts, make_credentials
from bench.pool.demand import DAY, HOUR
from bench.pool.simulation import BEGIN
from tests.bench.pool.scene import SHORT, WEEKLY, Time, accounts


class PlanTests(SynchronousTestCase):
    """What plans are worth."""

    def test_weights_are_the_products(self) -> None:
        weights = {
            name: known_plan(name).weight for name in ("pro", "team", "team_premium", "max_5x", "max_20x")
        }
        self.assertEqual(
            weights, {"pro": 1.0, "team": 1.0, "team_premium": 5.0, "max_5x": 5.0, "max_20x": 10.0}
        )

    def test_the_week_of_the_large_plan_can_be_chosen(self) -> None:
        self.assertEqual(known_plan("max_20x").week, 10 * WEEKLY)
        self.assertEqual(known_plan("max_20x", 20.0).week, 20 * WEEKLY)
        self.assertEqual(known_plan("max_5x", 20.0).week, 5 * WEEKLY)

    def test_weeks_end_on_different_days_within_the_first_week(self) -> None:
        made = make_accounts([known_plan("pro")] * 7, BEGIN, random.Random(3))
        resets = [account.weekly.resets_at or 0.0 for account in made]
        self.assertEqual({(reset - BEGIN) // DAY for reset in resets}, set(range(7)))
        self.assertEqual(len({account.tag for account in made}), 7)


class WindowTests(SynchronousTestCase):
    """What an account answers."""

    def test_percents_are_rounded_up(self) -> None:
        (account,) = accounts("pro")
        account.ask(BEGIN)
        account.take(SHORT * 0.301, BEGIN)
        told = account.told(BEGIN)
        assert told.short is not None and told.weekly is not None
        self.assertEqual((told.short.utilization, told.weekly.utilization), (31.0, 4.0))
        self.assertEqual(told.weekly.resets_at, BEGIN + 6 * DAY)
        self.assertIs(account.told(BEGIN + 1), told)

    def test_the_short_window_begins_with_a_request(self) -> None:
        (account,) = accounts("pro")
        told = account.told(BEGIN + HOUR)
        assert told.short is not None
        self.assertEqual(told.short.resets_at, 0.0)
        account.ask(BEGIN + 2 * HOUR)
        self.assertEqual(account.short.resets_at, BEGIN + 7 * HOUR)
        account.take(SHORT / 2, BEGIN + 2 * HOUR)
        self.assertEqual(account.short.utilization(BEGIN + 7 * HOUR), 0.0)
        account.ask(BEGIN + 9 * HOUR)
        self.assertEqual(account.short.resets_at, BEGIN + 14 * HOUR)

    def test_a_full_window_refuses_until_its_reset(self) -> None:
        (account,) = accounts("pro")
        self.assertEqual(account.ask(BEGIN).refused_until, 0.0)
        account.take(SHORT, BEGIN)
        self.assertEqual(account.ask(BEGIN + 1).refused_until, BEGIN + 5 * HOUR)
        self.assertEqual(account.ask(BEGIN + 5 * HOUR).refused_until, 0.0)
        account.take(WEEKLY, BEGIN + 5 * HOUR)
        self.assertEqual(account.ask(BEGIN + 6 * HOUR).refused_until, BEGIN + 6 * DAY)


class CredentialTests(SynchronousTestCase):
    """What the proxy knows."""

    def test_it_knows_what_it_was_told(self) -> None:
        members = accounts("pro")
        time = Time()
        (credential,) = make_credentials(members, time)
        self.assertTrue(credential.snapshot(time()).availability.usable)
        members[0].ask(time())
        members[0].take(SHORT * 0.985, time())
        self.assertEqual(credential.snapshot(time()).limits.short.utilization, 0.0)
        credential.observe(members[0].told(time()))
        view = credential.snapshot(time())
        self.assertEqual(view.limits.short.utilization, 99.0)
        # 98.5 % is reported as 99 %, at which the proxy pauses an account.
        self.assertEqual(view.availability.reason, "short_window")
        time.now += 5 * HOUR
        self.assertTrue(credential.snapshot(time()).availability.usable)

    def test_polls_lower_what_is_known(self) -> None:
        members = accounts("pro")
        time = Time()
        (credential,) = make_credentials(members, time)
        members[0].take(WEEKLY / 2, time())
        credential.observe(members[0].told(time()))
        members[0].weekly.used = 0.0
        time.now += HOUR
        credential.observe(members[0].told(time()))
        self.assertEqual(credential.snapshot(time()).limits.weekly.utilization, 50.0)
        credential.poll()
        self.assertEqual(credential.snapshot(time()).limits.weekly.utilization, 0.0)
        self.assertEqual(credential.heard, time())
