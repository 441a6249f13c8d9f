"""Tests of :mod:`ccmproxy.credentials.key`: a key of the commercial API."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from ccmproxy.credentials.destination import upstream_of
from ccmproxy.credentials.key import FIRST_REFUSAL, LONGEST_REFUSAL, KeyAccount
from ccmproxy.dialects.oauth import ApiKey
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability, Caps
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork
from tests.credentials.fixtures import NOW, CredentialTestCase, with_idle_connection


class KeyAccountTests(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pool = ConnectionPool(MemoryNetwork(self.clock).endpoint("api.example", 443), self.clock)
        self.account = self.make()
        self.addCleanup(self.finish)

    def make(self, plan_weight: float | None = None) -> KeyAccount:
        upstream = upstream_of("https://api.example/v1", self.pool)
        return KeyAccount(
            "acct",
            ApiKey("SECRET"),
            upstream,
            self.clock,
            caps=Caps(90, 95),
            plan_weight=plan_weight,
            now=self.clock.seconds,
        )

    def finish(self) -> None:
        """Assert that there is no timer and no lease."""
        self.successResultOf(self.account.stop())
        self.assertEqual(self.account.leases, set(), "a lease was not closed")
        self.no_timers()

    def availability(self) -> Availability:
        return self.account.snapshot(self.clock.seconds()).availability

    def test_api_key(self) -> None:
        account = self.account
        self.assertTrue(verifyObject(ICredential, account))
        account.start()
        self.assertTrue(account.is_api_key)
        snapshot = account.snapshot(NOW)
        self.assertTrue(snapshot.availability.usable)
        self.assertEqual((snapshot.plan_weight, snapshot.has_data), (1.0, False))
        lease = account.lease()
        self.assertEqual(self.result(lease.authorize()), ApiKey("SECRET"))
        error = self.error(lease.recover(ApiKey("SECRET")), CredentialUnavailable)
        self.assertNotIn("SECRET", str(error) + repr(account))
        lease.poll_if_stale()
        self.no_timers()
        lease.rate_limited(NOW + 60, explicit=True)
        self.assertEqual(self.availability().reason, "rate_limited")
        self.clock.advance(60)
        self.assertTrue(self.availability().usable)
        lease.close(LeaseOutcome.SERVED)

    def test_where_requests_go(self) -> None:
        """The upstream is known before authorize(), since there is only one."""
        lease = self.account.lease()
        self.assertEqual((lease.host, lease.base_path), (b"api.example", b"/v1"))
        self.assertIs(lease.connections(), self.pool)
        lease.close(LeaseOutcome.SERVED)

    def test_before_the_start(self) -> None:
        self.assertEqual(self.availability().state, "unavailable")
        self.account.reconfigure(Caps(), 3.0)
        self.assertEqual(self.availability().state, "unavailable")
        self.account.start()
        self.assertEqual(self.account.snapshot(NOW).plan_weight, 3.0)

    def test_weight_of_the_configuration(self) -> None:
        self.account = self.make(plan_weight=4.0)
        self.account.start()
        self.assertEqual(self.account.snapshot(NOW).plan_weight, 4.0)
        self.account.reconfigure(Caps(90, 95), 7.0)
        self.assertEqual(self.account.snapshot(NOW).plan_weight, 7.0)
        self.account.reconfigure(Caps(90, 95), None)
        self.assertEqual(self.account.snapshot(NOW).plan_weight, 1.0)

    def test_caps_of_the_configuration(self) -> None:
        self.account.start()
        self.account.observe(LimitsUpdate(short=Window(50.0, NOW + 600, 18000.0)))
        self.assertTrue(self.availability().usable)
        self.account.reconfigure(Caps(40, 95), None)
        self.assertEqual(self.availability().reason, "short_window")

    def test_started_twice_stopped_twice(self) -> None:
        """A second start reports no change."""
        self.account.start()
        changes: list[None] = []
        self.account.subscribe(lambda: changes.append(None))
        self.account.start()
        self.assertEqual(changes, [])
        self.successResultOf(self.account.stop())

    def test_its_connections_are_closed(self) -> None:
        network = MemoryNetwork(self.clock)
        self.pool, connection = with_idle_connection(network, "api.example", self.clock)
        self.account = self.make()
        self.assertFalse(connection.closed)
        self.account.close_connections()
        network.flush()
        self.assertTrue(connection.closed)

    def test_refused(self) -> None:
        """It is left alone for a while, which grows; then requests find out whether it is good again (spec 12.3)."""
        account, key = self.account, ApiKey("SECRET")
        account.start()
        for seconds in (
            FIRST_REFUSAL,
            2 * FIRST_REFUSAL,
            4 * FIRST_REFUSAL,
            8 * FIRST_REFUSAL,
            LONGEST_REFUSAL,
        ):
            account.login_refused(key, "invalid x-api-key")
            account.login_refused(key, "the second of two requests")
            self.assertIn('refuses this API key ("invalid x-api-key")', self.availability().message)
            self.assertEqual(self.availability().state, "unavailable")
            self.clock.advance(seconds - 1)
            self.assertFalse(account.is_usable())
            account.reconfigure(Caps(), None)
            self.assertFalse(account.is_usable(), "a reload does not help it")
            self.clock.advance(1)
            self.assertTrue(account.is_usable())
        account.proved(key)
        account.login_refused(key, "")
        self.clock.advance(FIRST_REFUSAL)
        self.assertTrue(account.is_usable())

    def test_refused_and_served_all_the_same(self) -> None:
        account, key = self.account, ApiKey("SECRET")
        account.login_refused(key, "not started yet")
        account.start()
        account.login_refused(key, "no")
        account.proved(key)
        self.assertTrue(account.is_usable())
        self.no_timers()
