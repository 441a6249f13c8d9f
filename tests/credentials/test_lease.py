"""Tests of :mod:`ccmproxy.credentials.lease`: a lease is closed once and interrupted once."""

from __future__ import annotations

from dataclasses import replace

from zope.interface.verify import verifyObject

from ccmproxy.credentials.destination import upstream_of
from ccmproxy.credentials.key import KeyAccount
from ccmproxy.credentials.lease import Lease
from ccmproxy.dialects.oauth import ApiKey
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Rests, SocketsRest
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork
from tests.credentials.fixtures import NOW, URLS, CredentialTestCase, PlainCredential

FULL = LimitsUpdate(short=Window(100.0, NOW + 600, 18000.0))
FREE = LimitsUpdate(short=Window(0.0, NOW + 18000, 18000.0))


class LeaseTests(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pool = ConnectionPool(MemoryNetwork(self.clock).endpoint("api.example", 443), self.clock)
        upstream = upstream_of(URLS.api_url, self.pool)
        self.account = KeyAccount("key", ApiKey("k"), upstream, self.clock, now=self.clock.seconds)
        self.account.start()
        self.addCleanup(self.account.stop)
        lease = self.account.lease()
        assert isinstance(lease, Lease)
        self.lease = lease
        self.interrupts: list[Availability] = []

    def fill(self) -> None:
        self.account.observe(FULL)
        self.assertFalse(self.account.is_usable())

    def empty(self) -> None:
        self.account.observe(FREE)
        self.assertTrue(self.account.is_usable())

    def test_provides_its_interface(self) -> None:
        self.assertTrue(verifyObject(ILease, self.lease))
        self.assertEqual((self.lease.tag, self.lease.host), ("key", b"api.example"))
        self.assertIs(self.lease.connections(), self.pool)

    def test_closed_once(self) -> None:
        self.assertEqual(self.account.leases, {self.lease})
        self.assertEqual(repr(self.lease), "<Lease key open>")
        self.lease.close(LeaseOutcome.BROKEN)
        self.lease.close(LeaseOutcome.SERVED)
        self.assertEqual(self.lease.outcome, LeaseOutcome.BROKEN)
        self.assertEqual(repr(self.lease), "<Lease key BROKEN>")
        self.assertEqual(dict(self.account.outcomes), {LeaseOutcome.BROKEN: 1})
        self.assertEqual(self.account.leases, set())

    def test_interrupted_once(self) -> None:
        self.lease.on_interrupt(self.interrupts.append)
        self.fill()
        self.assertEqual([each.reason for each in self.interrupts], ["short_window"])
        self.empty()
        self.fill()
        self.assertEqual(len(self.interrupts), 1)

    def test_again_after_arming_again(self) -> None:
        self.lease.on_interrupt(self.interrupts.append)
        self.fill()
        self.empty()
        self.lease.on_interrupt(self.interrupts.append)
        self.assertEqual(len(self.interrupts), 1)
        self.fill()
        self.assertEqual(len(self.interrupts), 2)

    def test_disarmed(self) -> None:
        """The response has begun, so the request is not interrupted."""
        self.lease.on_interrupt(self.interrupts.append)
        self.lease.on_interrupt(None)
        self.fill()
        self.assertEqual(self.interrupts, [])

    def test_closed_is_not_interrupted(self) -> None:
        self.lease.on_interrupt(self.interrupts.append)
        self.lease.close(LeaseOutcome.SERVED)
        self.fill()
        self.assertEqual(self.interrupts, [])

    def test_interrupt_before_arming_is_not_lost(self) -> None:
        self.fill()
        self.lease.on_interrupt(self.interrupts.append)
        self.assertEqual(len(self.interrupts), 1)
        self.lease.on_interrupt(self.interrupts.append)
        self.assertEqual(len(self.interrupts), 1)

    def test_interrupt_before_arming_that_has_passed(self) -> None:
        self.fill()
        self.empty()
        self.lease.on_interrupt(self.interrupts.append)
        self.assertEqual(self.interrupts, [])

    def test_knowledge_of_one_identity_never_touches_the_next(self) -> None:
        """Spec 12.5: what a request learns that was sent for the last identity is not about this one."""
        account = PlainCredential("a", self.clock)
        asked = Combination("/v1/messages", "claude-opus-4-5")
        account.observe(replace(FREE, organization="one"))
        early = account.lease()
        before = account.state
        account.observe(replace(FREE, organization="two"))
        self.assertEqual((account.state.slate, account.identity), (1, "two"))
        late = account.lease()
        present = account.state
        for update in (FULL, replace(FULL, organization="one")):
            early.observe(update)
        early.rate_limited(NOW + 60, True)
        early.learn(AccountRefused("disabled"))
        self.assertEqual(account.state, present)
        self.assertTrue(account.is_usable())
        late.learn(Rests(asked, "alice", 30.0))
        held = account.state
        early.sending(asked)
        early.gave_up(asked)
        early.served(asked, NOW + 1, True)
        self.assertEqual(account.state, held)
        early.observe(replace(FULL, organization="two"))
        self.assertFalse(account.is_usable(), "it names the present identity")
        self.assertNotEqual(before, present)

    def test_callback_that_closes_others(self) -> None:
        """All interrupts are delivered although leases are opened and closed meanwhile."""
        others = [self.account.lease() for _ in range(3)]
        for lease in [self.lease, *others]:

            def interrupted(availability: Availability) -> None:
                self.interrupts.append(availability)
                for other in others:
                    other.close(LeaseOutcome.CANCELLED)
                self.account.lease().close(LeaseOutcome.SERVED)

            lease.on_interrupt(interrupted)
        self.fill()
        self.assertIn(len(self.interrupts), (1, 2))
        self.lease.close(LeaseOutcome.INTERRUPTED)
        self.assertEqual(self.account.leases, set())

    def test_callback_that_fails(self) -> None:
        self.lease.on_interrupt(lambda _: 1 / 0)  # type: ignore[arg-type]
        other = self.account.lease()
        other.on_interrupt(self.interrupts.append)
        self.fill()
        self.assertEqual(len(self.interrupts), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_f38_late_answers_belong_to_the_account_that_was_used(self) -> None:
        self.lease.close(LeaseOutcome.CANCELLED)
        self.lease.observe(FULL)
        self.assertFalse(self.account.is_usable())

    def test_what_it_passes_on(self) -> None:
        credential = PlainCredential("other", self.clock)
        lease = credential.lease()
        lease.poll_if_stale()
        self.assertEqual(credential.polled, 1)
        lease.reject()
        self.assertEqual(credential.snapshot(NOW).availability.reason, "rejected")
        lease.close(LeaseOutcome.REFUSED)
        credential.stop()

    def test_a_limit_of_connections(self) -> None:
        """Spec 12.2: only new WebSockets rest for a while. Nothing is interrupted, and requests go on."""
        self.lease.on_interrupt(self.interrupts.append)
        now = self.clock.seconds()
        self.lease.learn(SocketsRest(now + 60))
        self.assertEqual(self.interrupts, [])
        self.assertTrue(self.account.is_usable())
        self.assertFalse(self.account.snapshot(now).takes_sockets)
        self.clock.advance(60)
        self.assertTrue(self.account.snapshot(now + 60).takes_sockets)

    def test_only_logins_are_evidence(self) -> None:
        """Spec 12.1: what keys and remote instances answer is no second opinion."""
        for external, key in ((False, False), (False, True), (True, False)):
            credential = PlainCredential("other", self.clock, external=external, key=key)
            lease = credential.lease()
            assert isinstance(lease, Lease)
            self.assertIs(lease.is_account, not external and not key)
            lease.close(LeaseOutcome.SERVED)
            credential.stop()

    def test_the_identity_is_the_logins(self) -> None:
        credential = PlainCredential("other", self.clock)
        lease = credential.lease()
        assert isinstance(lease, Lease)
        self.assertEqual(lease.identity, "")
        credential.observe(replace(FREE, organization="one"))
        self.assertEqual(lease.identity, "one")
        lease.close(LeaseOutcome.SERVED)
        credential.stop()

    def test_f38_late_refusals_belong_to_the_account_that_was_used(self) -> None:
        credential = PlainCredential("other", self.clock)
        lease = credential.lease()
        lease.close(LeaseOutcome.CANCELLED)
        lease.learn(AccountRefused("disabled"))
        self.assertEqual(credential.snapshot(NOW).availability.reason, "refused")
        credential.stop()
