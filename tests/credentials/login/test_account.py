"""Tests of :mod:`ccmproxy.credentials.login.account`: a login, its state and its requests together."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from ccmproxy.credentials.control import Answer, ControlClient, ControlError
from ccmproxy.credentials.destination import UpstreamAccess
from ccmproxy.credentials.login.account import LoginAccount, LoginPlace
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import lock_path
from ccmproxy.credentials.login.watch import POLL_INTERVAL, SETTLE, FileWatcher
from ccmproxy.dialects.oauth import ApiKey, Authorization, ControlRequest, OAuthToken, UpstreamURLs
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential, ILease, RefreshNotForced
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability, Caps
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork
from tests.credentials.fixtures import (
    NOW,
    PROFILE,
    TOKEN,
    URLS,
    USAGE,
    CredentialTestCase,
    NoOutbound,
    PlainFormat,
    Upstream,
    login,
    tokens,
    usage,
    with_idle_connection,
)

FRESH = login(expires=NOW + 1e9, plan="max")
NOTICE = [POLL_INTERVAL, SETTLE, SETTLE]


class AccountTestCase(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream = Upstream(self.clock, usage=usage(), token=tokens("a2", "r2", NOW + 1e9))
        self.watcher = FileWatcher(self.clock)
        self.connections = ConnectionPool(MemoryNetwork(self.clock).endpoint("api.example", 443), self.clock)
        self.access = UpstreamAccess(URLS, NoOutbound(), self.connections)
        self.account_format: PlainFormat = PlainFormat()
        self.notified = 0
        self.interrupts: list[str] = []

    def make(self) -> LoginAccount:
        account = LoginAccount(
            "acct",
            LoginPlace(FileStore(self.path), self.path, lock_path(self.config)),
            self.account_format,
            self.access,
            self.clock,
            lambda: 0.0,
            caps=Caps(90, 95),
            watcher=self.watcher,
            fetch=self.upstream.fetch,
            now=self.clock.seconds,
        )
        self.addCleanup(self.finish, account)
        account.subscribe(self.notify)
        return account

    def start(self, document: bytes | None = FRESH) -> LoginAccount:
        if document is not None:
            self.put(document)
        account = self.make()
        account.start()
        return account

    def notify(self) -> None:
        self.notified += 1

    def finish(self, account: LoginAccount) -> None:
        """Assert that there is no timer, no lock and no lease."""
        self.successResultOf(account.stop())
        self.assertEqual(account.leases, set(), "a lease was not closed")
        self.no_timers()
        self.assertEqual(os.listdir(self.directory), ["config"])

    def availability(self, account: LoginAccount, model: str | None = None) -> Availability:
        return account.snapshot(self.clock.seconds(), model).availability

    def interrupted(self, availability: Availability) -> None:
        self.interrupts.append(availability.reason)

    def used(self, percent: float, resets_at: float = NOW + 7200) -> LimitsUpdate:
        return LimitsUpdate(short=Window(percent, resets_at, 18000.0))


class LoginTests(AccountTestCase):
    def test_provides_its_interface(self) -> None:
        account = self.make()
        self.assertTrue(verifyObject(ICredential, account))
        self.assertEqual((account.tag, account.is_external, account.is_api_key), ("acct", False, False))

    def test_starts(self) -> None:
        account = self.start()
        snapshot = account.snapshot(self.clock.seconds())
        self.assertTrue(snapshot.availability.usable)
        self.assertEqual((snapshot.tag, snapshot.plan_weight, snapshot.has_data), ("acct", 10.0, True))
        self.assertEqual(snapshot.limits.short.utilization, 10.0)
        self.assertEqual(snapshot.caps, Caps(90, 95))
        self.assertTrue(self.notified)

    def test_file_that_others_may_read_is_warned_about(self) -> None:
        messages: list[str] = []

        def observe(event: LogEvent) -> None:
            messages.append(str(event.get("problem")))

        observer = cast(ILogObserver, observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.finish(self.start())
        self.assertFalse([message for message in messages if "0600" in message])
        os.chmod(self.path, 0o644)
        self.start(None)
        self.assertEqual(len([message for message in messages if "0600" in message]), 1)

    def test_the_clock_is_set(self) -> None:
        """The file is read at once: the watcher looks at its own times, and nobody has been refused yet (spec 11)."""
        account = self.start()
        self.put(login("a9", "r9", NOW + 1e9))
        self.upstream.answer("usage", Deferred(), Deferred())
        account.clock_set(-10800.0)
        authorization = account._keeper.authorization
        assert isinstance(authorization, OAuthToken)
        self.assertEqual(authorization.access_token, "a9")

    def test_before_the_start(self) -> None:
        self.put(FRESH)
        account = self.make()
        account.poll_if_stale()
        self.assertEqual(self.availability(account).state, "unavailable")
        self.assertEqual(self.upstream.requests, [])

    def test_starts_without_the_file_and_loads_it_when_it_comes(self) -> None:
        account = self.start(None)
        self.assertEqual(self.availability(account).state, "unavailable")
        self.assertIn("does not exist", self.availability(account).message)
        self.put(FRESH)
        self.clock.pump(NOTICE)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(len(self.upstream.asked(USAGE)), 1)

    def test_on_demand_without_waiting_for_the_watch(self) -> None:
        account = self.start(None)
        self.put(FRESH)
        self.clock.advance(2)
        account.poll_if_stale()
        self.assertTrue(self.availability(account).usable)

    def test_removed_or_broken_and_repaired(self) -> None:
        account = self.start()
        lease = account.lease()
        lease.on_interrupt(self.interrupted)
        os.unlink(self.path)
        self.clock.pump(NOTICE)
        self.assertEqual(self.availability(account).state, "unavailable")
        self.assertEqual(self.interrupts, ["unavailable"])
        self.put(b"{")
        self.clock.pump(NOTICE)
        self.assertIn("not valid JSON", self.availability(account).message)
        error = self.error(lease.authorize(), CredentialUnavailable)
        self.assertIn("not valid JSON", str(error))
        self.put(FRESH)
        self.clock.pump(NOTICE)
        self.assertTrue(self.availability(account).usable)
        lease.close(LeaseOutcome.INTERRUPTED)

    def test_another_login_is_asked_for_its_usage(self) -> None:
        """The login may belong to another account, so the windows of the old one must not block it."""
        self.upstream.answer("usage", usage(100.0), usage(3.0))
        account = self.start()
        self.assertEqual(self.availability(account).state, "rate_limited")
        self.put(login("other", "r9", NOW + 1e9, plan="pro"))
        self.clock.pump(NOTICE)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(account.snapshot(NOW).plan_weight, 1.0)

    def test_hard_failure_until_the_file_changes(self) -> None:
        self.upstream.answer("token", Answer(401))
        account = self.start(login())
        self.assertEqual(self.availability(account).state, "unavailable")
        self.assertIn("log in again", self.availability(account).message)
        self.put(FRESH)
        self.clock.pump(NOTICE)
        self.assertTrue(self.availability(account).usable)

    def test_soft_failure_is_a_failed_poll(self) -> None:
        self.upstream.answer("token", Answer(500))
        account = self.start(login())
        self.assertEqual(self.availability(account).reason, "poll_failed")
        self.upstream.answer("token", tokens("a2", "r2", NOW + 1e9))
        self.clock.advance(60)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(self.stored()["access"], "a2")

    def test_refresh_that_works_again_ends_the_back_off(self) -> None:
        self.upstream.answer("token", Answer(500))
        account = self.start(login())
        self.upstream.answer("token", tokens("a2", "r2", NOW + 1e9))
        self.clock.advance(10)
        lease = account.lease()
        self.result(lease.authorize())
        lease.close(LeaseOutcome.SERVED)
        self.assertTrue(self.availability(account).usable)

    def test_weight_of_the_configuration(self) -> None:
        account = self.start()
        account.reconfigure(Caps(90, 95), 7.0)
        self.assertEqual(account.snapshot(NOW).plan_weight, 7.0)
        account.reconfigure(Caps(5, 5), None)
        self.assertEqual(account.snapshot(NOW).plan_weight, 10.0)
        self.assertFalse(self.availability(account).usable)

    def test_control_requests_go_through_the_outbound(self) -> None:
        """F30: without ``fetch``, all control requests use the credential's own outbound."""
        account = LoginAccount(
            "acct",
            LoginPlace(FileStore(self.path)),
            PlainFormat(),
            self.access,
            self.clock,
            lambda: 0.0,
            now=self.clock.seconds,
        )
        owner = getattr(account._keeper._fetch, "__self__", None)
        assert isinstance(owner, ControlClient)
        self.put(login(plan="pro"))
        account.start()
        self.assertEqual(self.availability(account).reason, "poll_failed")
        self.successResultOf(account.stop())

    def test_secrets_are_not_shown(self) -> None:
        account = self.start(login("SECRET", "SECRET", NOW + 1e9))
        self.assertNotIn("SECRET", repr(account) + repr(account.state) + repr(account.lease()))
        for lease in list(account.leases):
            lease.close(LeaseOutcome.SERVED)


class StateTests(AccountTestCase):
    def test_full_window_interrupts_once(self) -> None:
        account = self.start()
        lease = account.lease()
        lease.on_interrupt(self.interrupted)
        self.notified = 0
        lease.observe(self.used(95.0))
        self.assertEqual(self.availability(account).reason, "short_window")
        lease.observe(self.used(97.0))
        self.assertEqual(self.interrupts, ["short_window"])
        self.assertTrue(self.notified)
        lease.close(LeaseOutcome.INTERRUPTED)

    def test_reset_passes_by_itself(self) -> None:
        self.upstream.answer("usage", usage(95.0, NOW + 600))
        account = self.start()
        self.notified = 0
        self.clock.advance(599)
        self.assertFalse(self.availability(account).usable)
        self.assertEqual(self.notified, 0)
        self.clock.advance(1)
        self.assertTrue(self.availability(account).usable)
        self.assertTrue(self.notified)

    def test_rate_limited(self) -> None:
        account = self.start()
        lease, other = account.lease(), account.lease()
        other.on_interrupt(self.interrupted)
        lease.rate_limited(NOW + 120, explicit=True)
        self.assertEqual(self.availability(account).reason, "rate_limited")
        self.assertEqual(self.interrupts, ["rate_limited"])
        self.clock.advance(120)
        self.assertTrue(self.availability(account).usable)
        lease.rate_limited(NOW + 240, explicit=True)
        self.assertEqual(self.interrupts, ["rate_limited"], "it was interrupted already")
        lease.close(LeaseOutcome.REFUSED)
        other.close(LeaseOutcome.INTERRUPTED)

    def test_window_of_a_model(self) -> None:
        account = self.start()
        account.observe(LimitsUpdate(models={"opus": Window(100.0, NOW + 600, 604800.0)}))
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(self.availability(account, "claude-opus-4").reason, "model_window")
        self.assertTrue(self.availability(account, "claude-sonnet-4").usable)

    def test_nothing_observed_is_nothing(self) -> None:
        account = self.start()
        self.notified = 0
        before = account.state
        account.observe(LimitsUpdate())
        self.assertIs(account.state, before)

    def test_failed_polls_do_not_interrupt(self) -> None:
        self.upstream.answer("usage", Answer(500))
        self.put(FRESH)
        account = self.make()
        lease = account.lease()
        lease.on_interrupt(self.interrupted)
        account.start()
        self.assertEqual(self.availability(account).reason, "poll_failed")
        self.assertEqual(self.interrupts, [])
        lease.close(LeaseOutcome.SERVED)

    def test_f26_usage_endpoint_that_refuses_leaves_the_account_usable(self) -> None:
        for status in (403, 429):
            self.upstream.answer("usage", Answer(status))
            account = self.start()
            self.assertTrue(self.availability(account).usable)
            self.successResultOf(account.stop())

    def test_what_delays_a_refresh_is_said(self) -> None:
        """In the status too, with the time of the next try, once the token has expired (spec 12.4)."""
        self.upstream.answer("token", Answer(503))
        account = self.start(login())
        self.assertEqual(
            self.availability(account).message,
            "token refresh failed: token endpoint answered 503; next try in 5s",
        )
        self.clock.advance(2)
        self.assertIn("; next try in 3s", self.availability(account).message)
        self.clock.advance(3)
        self.assertIn("; next try in 10s", self.availability(account).message)
        self.upstream.answer("token", tokens("a2", "r2", NOW + 1e9))
        self.clock.advance(10)
        self.assertTrue(self.availability(account).usable)

    def test_plan_of_a_usage_answer(self) -> None:
        """Spec 12.5: it weighs from then on, also after the file was read again."""

        class Telling(PlainFormat):
            def usage_plan(self, body: bytes, token: OAuthToken) -> OAuthToken:
                return replace(token, plan="max")

        self.account_format = Telling()
        account = self.start(login(expires=NOW + 1e9, plan="pro"))
        self.assertEqual(account.snapshot(NOW).plan_weight, 10.0)
        self.put(login(refresh="r5", expires=NOW + 1e9, plan="pro"))
        self.clock.pump(NOTICE)
        self.assertEqual(account.snapshot(NOW).plan_weight, 10.0)
        account.reconfigure(Caps(90, 95), None)
        self.assertEqual(account.snapshot(NOW).plan_weight, 10.0)


class RefusedLoginTests(AccountTestCase):
    """Tokens that the upstream refuses (spec 12.3)."""

    def setUp(self) -> None:
        super().setUp()
        self.upstream.answer("usage", Answer(429))

    def begin(self) -> tuple[LoginAccount, OAuthToken]:
        """An account of whose token nothing is known."""
        account = self.start()
        token = self.result(account.authorize())
        assert isinstance(token, OAuthToken)
        self.upstream.requests.clear()
        return account, token

    def polls(self) -> int:
        count = len(self.upstream.asked(USAGE))
        self.upstream.requests.clear()
        return count

    def test_proven_by_a_poll(self) -> None:
        self.upstream.answer("usage", usage())
        account, token = self.begin()
        self.assertTrue(self.result(account.prove(token)))
        self.assertEqual(self.polls(), 0)

    def test_proven_by_a_model_request(self) -> None:
        account, token = self.begin()
        account.proved(token)
        self.assertTrue(self.result(account.prove(token)))
        self.assertEqual(self.polls(), 0)

    def test_not_known_is_asked_once(self) -> None:
        account, token = self.begin()
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("usage", answer)
        asking = [Deferred.fromCoroutine(account.prove(token)) for _ in range(5)]
        other = Deferred.fromCoroutine(account.prove(OAuthToken("other")))
        self.assertEqual(self.polls(), 1)
        self.upstream.answer("usage", Answer(401))
        answer.callback(usage())
        self.assertEqual([self.successResultOf(each) for each in asking], [True] * 5)
        self.assertFalse(self.successResultOf(other), "the proof of another token is none")
        self.assertEqual(self.polls(), 1)

    def test_proof_takes_five_seconds_at_most(self) -> None:
        account, token = self.begin()
        self.upstream.answer("usage")
        asking = Deferred.fromCoroutine(account.prove(token))
        self.clock.advance(5)
        self.assertFalse(self.successResultOf(asking))

    def test_stopped_during_a_proof(self) -> None:
        account, token = self.begin()
        self.upstream.answer("usage")
        asking = Deferred.fromCoroutine(account.prove(token))
        self.successResultOf(account.stop())
        self.assertFalse(self.successResultOf(asking))

    def test_keys_are_not_asked_for(self) -> None:
        account = self.start(b'{"key": "k"}')
        self.assertFalse(self.result(account.prove(ApiKey("k"))))
        account.proved(ApiKey("k"))
        self.assertTrue(self.result(account.prove(ApiKey("k"))))

    def test_bad_login(self) -> None:
        """Unavailable, with a message that names whom to ask; requests in progress go on."""
        account, token = self.begin()
        lease = account.lease()
        lease.on_interrupt(self.interrupted)
        account.login_refused(token, "OAuth token is invalid")
        availability = self.availability(account)
        self.assertEqual((availability.state, self.interrupts), ("unavailable", []))
        for word in ('"OAuth token is invalid"', "ask the operator", "log in again", "run `plain login`"):
            self.assertIn(word, availability.message)
        error = self.error(account.authorize(), CredentialUnavailable)
        self.assertEqual(str(error), availability.message)
        account.reconfigure(Caps(90, 95), None)
        self.assertEqual(self.availability(account).state, "unavailable")
        lease.close(LeaseOutcome.SERVED)

    def test_probed_at_once_and_at_growing_intervals(self) -> None:
        self.upstream.answer("usage", Answer(500))
        account, token = self.begin()
        self.upstream.answer("usage", Answer(401))
        self.upstream.answer("token", Answer(503))
        account.login_refused(token, "no")
        self.assertEqual(self.polls(), 1)
        self.clock.advance(29)
        self.assertEqual(self.polls(), 0)
        self.clock.advance(1)
        self.assertEqual(self.polls(), 1)
        self.upstream.answer("usage", usage())
        self.assertFalse(self.availability(account).usable)
        self.clock.advance(59)
        self.assertFalse(self.availability(account).usable)
        self.clock.advance(1)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(self.result(account.authorize()), token)

    def test_a_usage_endpoint_that_says_nothing_ends_it_in_the_end(self) -> None:
        """No state exists that only a person can end (spec 12.4)."""
        for reply in (Answer(429), Answer(500), ControlError("lost")):
            account, token = self.begin()
            self.upstream.answer("usage", reply)
            account.login_refused(token, "no")
            self.assertFalse(self.availability(account).worth_trying)
            self.clock.pump([5.0] * 120)
            self.assertTrue(self.availability(account).worth_trying, str(reply))
            self.successResultOf(account.stop())

    def test_bad_again_after_a_doubtful_end(self) -> None:
        """The next probe comes as the intervals go on, neither at once nor with the usual rhythm of failed polls."""
        account, token = self.begin()
        self.upstream.answer("usage", Answer(500))
        account.login_refused(token, "no")
        self.clock.pump([5.0] * 79)  # Probes after 0, 30 and 90 s, and the first failed poll 5 min later.
        self.assertEqual(self.polls(), 4)
        account.login_refused(token, "no")
        self.assertEqual(self.availability(account).state, "unavailable")
        self.clock.advance(119)
        self.assertEqual(self.polls(), 0)
        self.clock.advance(1)
        self.assertEqual(self.polls(), 1)

    def test_ends_with_another_login(self) -> None:
        account, token = self.begin()
        account.login_refused(token, "no")
        self.put(FRESH.replace(b"kept", b"changed"))
        self.clock.pump(NOTICE)
        self.assertFalse(self.availability(account).usable, "the same login")
        self.put(login("other", "r9", NOW + 1e9, plan="max"))
        self.clock.pump(NOTICE)
        self.assertTrue(self.availability(account).usable)

    def test_does_not_end_with_our_own_refresh(self) -> None:
        """Whether the successor is good, the probe shows that has made it."""
        account, token = self.begin()
        self.upstream.answer("usage", Answer(401))
        account.login_refused(token, "no")
        self.assertEqual(len(self.upstream.asked(TOKEN)), 1)
        self.assertEqual(self.stored()["access"], "a2")
        self.assertEqual(self.availability(account).state, "unavailable")
        os.unlink(self.path)
        self.clock.pump(NOTICE)
        self.assertIn("does not exist", self.availability(account).message)
        self.put(login("a2", "r2", NOW + 1e9))
        self.clock.pump(NOTICE)
        self.assertIn("refuses the login", self.availability(account).message)

    def test_probe_that_refreshes(self) -> None:
        account, token = self.begin()
        self.upstream.answer("usage", Answer(401), usage())
        account.login_refused(token, "no")
        self.assertTrue(self.availability(account).usable)

    def test_what_makes_no_login_bad(self) -> None:
        """The refusal of a token that has been replaced meanwhile."""
        account, _ = self.begin()
        account.login_refused(OAuthToken("old"), "no")
        self.assertTrue(self.availability(account).usable)

    def test_what_it_has_served_before_does_not_help(self) -> None:
        """Whoever says that the login is refused has looked for proofs, or the words leave no doubt (spec 12.3)."""
        account, token = self.begin()
        account.proved(token)
        account.login_refused(token, "no")
        self.assertFalse(self.availability(account).usable)

    def test_served_after_all(self) -> None:
        """By a request that was in progress."""
        account, token = self.begin()
        account.login_refused(token, "no")
        account.proved(OAuthToken("old"))
        self.assertFalse(self.availability(account).usable)
        account.proved(token)
        self.assertTrue(self.availability(account).usable)

    def test_endpoints_are_remembered_until_the_token_is_replaced(self) -> None:
        account, token = self.begin()
        account.remember_about_request(token, b"GET", b"/v1/files")
        self.assertTrue(account.is_about_request(token, b"GET", b"/v1/files"))
        self.put(FRESH.replace(b"kept", b"changed"))
        self.clock.pump(NOTICE)
        self.assertTrue(account.is_about_request(token, b"GET", b"/v1/files"))
        self.result(account.recover(token, "alice"))
        self.assertFalse(account.is_about_request(token, b"GET", b"/v1/files"))

    def test_budgets(self) -> None:
        account, token = self.begin()
        self.error(account.recover(token, "alice", may_force=False), RefreshNotForced)
        second = self.result(account.recover(token, "alice"))
        self.error(account.recover(second, "alice"), RefreshNotForced)
        self.assertTrue(self.availability(account).usable)


class IdentityTests(AccountTestCase):
    """Spec 12.5: a file that does not name whose login it holds."""

    class Anonymous(PlainFormat):
        def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
            return None if token.account_id else ControlRequest("GET", urls.profile_url)

        def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
            return replace(token, account_id=body.decode())

    def setUp(self) -> None:
        super().setUp()
        self.account_format = self.Anonymous()
        self.upstream.answer("profile", Answer(200, {}, b"org-1"))

    def asked(self) -> int:
        """Requests for the profile since the last call."""
        count = len(self.upstream.asked(PROFILE))
        self.upstream.requests.clear()
        return count

    def test_asked_at_once(self) -> None:
        account = self.start()
        self.assertEqual((account.state.organization, self.asked()), ("org-1", 1))

    def test_a_rewritten_file_is_no_change_of_login(self) -> None:
        account = self.start()
        self.asked()
        self.put(FRESH.replace(b"kept", b"changed"))
        self.clock.pump(NOTICE)
        self.assertEqual((account.state.organization, self.asked()), ("org-1", 0))
        self.result(account.recover(self.result(account.authorize())))
        self.assertEqual((account.state.organization, self.asked()), ("org-1", 0))

    def test_unknown_counts_as_unchanged_until_the_profile_says_otherwise(self) -> None:
        answer: Deferred[Answer] = Deferred()
        account = self.start()
        self.asked()
        self.upstream.answer("profile", answer)
        self.put(login("other", "r9", NOW + 1e9, plan="max"))
        self.clock.pump(NOTICE)
        self.assertEqual((account.state.organization, self.asked()), ("org-1", 1))
        answer.callback(Answer(200, {}, b"org-2"))
        self.assertEqual(account.state.organization, "org-2")

    def test_a_file_that_is_gone_for_a_day(self) -> None:
        account = self.start()
        account.rate_limited(NOW + 5 * 86400, True)
        os.unlink(self.path)
        self.clock.pump(NOTICE)
        for seconds in (3600.0,) * 23:
            self.clock.advance(seconds)
        self.assertEqual(account.state.rate_limited_until, NOW + 5 * 86400)
        self.clock.advance(3600.0)
        self.assertEqual((account.state.rate_limited_until, account.state.organization), (0, ""))


class RequestTests(AccountTestCase):
    def test_f1_fifty_requests_one_refresh(self) -> None:
        """The requests hold leases, and the poll at the start needs the same token."""
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        account = self.start(login())
        leases = [account.lease() for _ in range(50)]
        self.assertEqual(account.in_flight, 50)
        waiting = [Deferred.fromCoroutine(lease.authorize()) for lease in leases]
        answer.callback(tokens("a2", "r2", NOW + 1e9))
        for each in waiting:
            self.assertEqual(self.token(self.successResultOf(each)), "a2")
        self.assertEqual(len(self.upstream.asked(TOKEN)), 1)
        for lease in leases:
            lease.close(LeaseOutcome.SERVED)
        self.assertEqual((account.in_flight, account.outcomes[LeaseOutcome.SERVED]), (0, 50))

    def token(self, authorization: Authorization) -> str:
        assert isinstance(authorization, OAuthToken)
        return authorization.access_token

    def test_recover(self) -> None:
        account = self.start()
        lease = account.lease()
        first = self.result(lease.authorize())
        second = self.result(lease.recover(first))
        self.assertEqual((self.token(first), self.token(second)), ("a1", "a2"))
        lease.close(LeaseOutcome.SERVED)

    def test_client_that_leaves_does_not_end_a_poll(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("usage", answer)
        account = self.start()
        lease = account.lease()
        lease.poll_if_stale()
        lease.close(LeaseOutcome.CANCELLED)
        answer.callback(usage(42.0))
        self.assertEqual(account.snapshot(NOW).limits.short.utilization, 42.0)


class KeyTests(AccountTestCase):
    """A key that replaces a login in the store (spec 3.1)."""

    def setUp(self) -> None:
        super().setUp()
        network = MemoryNetwork(self.clock)
        self.key_connections = ConnectionPool(network.endpoint("keys.example", 443), self.clock)
        urls = replace(URLS, key_api_url="https://keys.example/v1/")
        self.access = UpstreamAccess(urls, NoOutbound(), self.connections, self.key_connections)

    def goes_to(self, lease: ILease) -> tuple[bytes, bytes, ConnectionPool]:
        return lease.host, lease.base_path, lease.connections()

    def test_key_in_the_file(self) -> None:
        account = self.start(b'{"key": "k"}')
        self.assertTrue(account.is_api_key)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(self.upstream.requests, [])

    def test_a_key_takes_the_place_of_a_login_and_the_reverse(self) -> None:
        """Requests go to the upstream for their authorization, also those of a lease that was taken before the change.
        The usage of the login is polled, that of the key is not."""
        logins = b"api.example", b"", self.connections
        keys = b"keys.example", b"/v1", self.key_connections
        account = self.start()
        lease = account.lease()
        self.assertEqual(self.goes_to(lease), logins)
        self.assertIsInstance(self.result(lease.authorize()), OAuthToken)
        self.assertEqual(self.goes_to(lease), logins)
        self.put(b'{"key": "k"}')
        self.clock.pump(NOTICE)
        self.assertTrue(account.is_api_key)
        self.assertTrue(self.availability(account).usable)
        self.assertEqual(account.snapshot(NOW).plan_weight, 1.0)
        self.assertEqual(self.result(lease.authorize()), ApiKey("k"))
        self.assertEqual(self.goes_to(lease), keys)
        self.clock.advance(7200)
        account.poll_if_stale()
        self.assertEqual(len(self.upstream.asked(USAGE)), 1)
        self.put(FRESH)
        self.clock.pump(NOTICE)
        self.assertFalse(account.is_api_key)
        self.assertEqual(account.snapshot(NOW).plan_weight, 10.0)
        self.assertIsInstance(self.result(lease.recover(ApiKey("k"))), OAuthToken)
        self.assertEqual(self.goes_to(lease), logins)
        self.assertEqual(len(self.upstream.asked(USAGE)), 2)
        lease.close(LeaseOutcome.SERVED)

    def test_a_key_that_is_refused(self) -> None:
        account = self.start(b'{"key": "k"}')
        lease = account.lease()
        key = self.result(lease.authorize())
        error = self.error(lease.recover(key), CredentialUnavailable)
        self.assertFalse(error.hard)
        lease.close(LeaseOutcome.REFUSED)

    def test_keys_may_go_where_logins_go(self) -> None:
        self.access = UpstreamAccess(URLS, NoOutbound(), self.connections)
        lease = self.start(b'{"key": "k"}').lease()
        self.result(lease.authorize())
        self.assertEqual(self.goes_to(lease), (b"api.example", b"", self.connections))
        lease.close(LeaseOutcome.SERVED)

    def test_both_kinds_of_connections_are_closed(self) -> None:
        network = MemoryNetwork(self.clock)
        logins, to_logins = with_idle_connection(network, "api.example", self.clock)
        keys, to_keys = with_idle_connection(network, "keys.example", self.clock)
        self.access = replace(self.access, connections=logins, key_connections=keys)
        account = self.start()
        self.assertEqual((to_logins.closed, to_keys.closed), (False, False))
        account.close_connections()
        network.flush()
        self.assertEqual((to_logins.closed, to_keys.closed), (True, True))


class StopTests(AccountTestCase):
    def test_everything_ends(self) -> None:
        """The account is stopped during a poll, during a refresh and during a change of the file."""
        for usage_replies, token_replies, document in (
            ((usage(),), (tokens("a2"),), FRESH),
            ((), (), FRESH),
            ((Answer(500),), (), FRESH),
            ((usage(),), (Answer(500),), login()),
        ):
            self.upstream.answer("usage", *usage_replies)
            self.upstream.answer("token", *token_replies)
            account = self.start(document)
            account.observe(self.used(50.0))
            self.put(FRESH)
            self.clock.advance(POLL_INTERVAL)
            self.finish(account)
            account.poll_if_stale()
            self.clock.advance(7200)
            self.no_timers()

    def test_waits_for_a_refresh(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        account = self.start(login())
        stopped = account.stop()
        self.assertNoResult(stopped)
        answer.callback(tokens("a2", "r2"))
        self.successResultOf(stopped)
        self.assertEqual(self.stored()["access"], "a2")

    def test_started_twice_stopped_twice(self) -> None:
        account = self.start()
        account.start()
        self.successResultOf(account.stop())
        self.successResultOf(account.stop())
