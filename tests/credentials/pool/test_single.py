"""Tests of :mod:`ccmproxy.credentials.pool.single`: one credential serves, or the error says why not."""

from __future__ import annotations

from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from ccmproxy.credentials.destination import upstream_of
from ccmproxy.credentials.key import KeyAccount
from ccmproxy.credentials.pool.single import SingleProvider
from ccmproxy.dialects.oauth import ApiKey
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import IProvider
from ccmproxy.policy.balancing import NoCredential, Selection
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    Denied,
    ModelDenied,
    PollFailed,
    Rests,
    SocketsRest,
    TokenUnavailable,
)
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork
from tests.credentials.fixtures import NOW, URLS, CredentialTestCase, PlainCredential


class SingleProviderTests(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        pool = ConnectionPool(MemoryNetwork(self.clock).endpoint("api.example", 443), self.clock)
        upstream = upstream_of(URLS.api_url, pool)
        self.account = KeyAccount("key", ApiKey("k"), upstream, self.clock, now=self.clock.seconds)
        self.account.start()
        self.addCleanup(self.account.stop)
        self.provider = SingleProvider(self.account, self.clock.seconds)

    def reason(self, selection: Selection) -> str:
        error: NoCredential = self.assertRaises(NoCredential, self.provider.select, selection)
        return error.availability.reason

    def test_provides_its_interface(self) -> None:
        self.assertTrue(verifyObject(IProvider, self.provider))
        self.assertTrue(self.provider.is_single_account)
        for allowed in (True, False):
            self.assertEqual(list(self.provider.credentials(allowed)), [self.account])

    def test_serves(self) -> None:
        lease = self.provider.select(Selection(session="s", model="m"))
        self.assertEqual(self.account.in_flight, 1)
        lease.close(LeaseOutcome.SERVED)
        self.assertEqual(self.account.in_flight, 0)

    def test_used_up(self) -> None:
        self.account.observe(LimitsUpdate(short=Window(100.0, NOW + 600, 18000.0)))
        self.assertEqual(self.reason(Selection()), "short_window")

    def test_tried_already(self) -> None:
        self.assertEqual(self.reason(Selection(excluded=frozenset({"key"}))), "")

    def test_model_used_up(self) -> None:
        self.account.observe(LimitsUpdate(models={"opus": Window(100.0, NOW + 600, 604800.0)}))
        self.assertEqual(self.reason(Selection(model="claude-opus-4")), "model_window")
        self.provider.select(Selection(model="claude-sonnet-4")).close(LeaseOutcome.SERVED)

    def test_unavailable_names_the_credential(self) -> None:
        self.account._apply(TokenUnavailable("its file does not exist"))
        error: NoCredential = self.assertRaises(NoCredential, self.provider.select, Selection())
        self.assertEqual(str(error), "credential key is unavailable: its file does not exist")
        self.assertEqual(error.availability.state, "unavailable")

    def test_failing_polls_keep_nobody_out(self) -> None:
        """F6: failures of the usage endpoint say nothing about the account."""
        self.account._apply(PollFailed())
        self.provider.select(Selection()).close(LeaseOutcome.SERVED)
        self.account.rate_limited(NOW + 600, True)
        self.assertEqual(self.reason(Selection()), "rate_limited")

    def test_a_connection_limit_keeps_nobody_out(self) -> None:
        """Spec 12.2: the limit is of WebSockets alone, so that requests go on."""
        self.account.learn(SocketsRest(self.clock.seconds() + 60))
        self.assertTrue(self.account.is_usable())
        self.provider.select(Selection()).close(LeaseOutcome.SERVED)

    def test_a_rest_keeps_cold_work_out(self) -> None:
        """Spec 12.2: the time at which it ends is told, so that it can be told to the client."""
        asked, other = Combination("/v1/messages", "m"), Combination("/v1/messages", "n")
        warm = Selection(session="warm", asked=asked)
        self.provider.select(warm).close(LeaseOutcome.SERVED)
        self.provider.served(warm, "key")
        self.assertTrue(self.provider.is_warm(warm, "key"))
        self.account.learn(Rests(asked, "u", 20.0))
        error: NoCredential = self.assertRaises(
            NoCredential, self.provider.select, Selection(session="cold", asked=asked)
        )
        self.assertEqual(error.free_at, NOW + 20)
        self.assertTrue(error.availability.usable)
        self.assertFalse(self.provider.is_warm(Selection(session="cold", asked=asked), "key"))
        self.provider.select(warm).close(LeaseOutcome.SERVED)
        self.provider.select(Selection(session="cold", asked=other)).close(LeaseOutcome.SERVED)
        self.clock.advance(20)
        self.provider.select(Selection(session="cold", asked=asked)).close(LeaseOutcome.SERVED)

    def test_what_it_refuses_is_asked_for_nevertheless(self) -> None:
        """There is nobody else to ask, and the provider says more than this proxy could (spec 12.2)."""
        asked = Combination("/v1/messages", "m")
        self.account.learn(Denied(asked, "u"))
        self.account.learn(ModelDenied("m"))
        self.provider.select(Selection(asked=asked)).close(LeaseOutcome.SERVED)

    def test_a_refused_account(self) -> None:
        """Spec 12.3: one request per interval is let through, all others get the provider's sentence."""
        asked = Combination("/v1/messages", "m")
        self.account.learn(AccountRefused("This organization has been disabled."))
        error: NoCredential = self.assertRaises(NoCredential, self.provider.select, Selection(asked=asked))
        self.assertIn("This organization has been disabled.", str(error))
        self.assertEqual(error.free_at, 0)
        self.clock.advance(60)
        self.provider.select(Selection(asked=asked)).close(LeaseOutcome.REFUSED)
        self.account.sending(asked)
        self.assertEqual(self.reason(Selection(asked=asked)), "refused")

    def test_a_remote_is_for_those_who_may_use_it(self) -> None:
        remote = PlainCredential("remote", self.clock, external=True)
        self.addCleanup(remote.stop)
        self.provider = SingleProvider(remote, self.clock.seconds)
        self.assertFalse(self.provider.is_single_account)
        self.assertEqual(list(self.provider.credentials(True)), [remote])
        self.assertEqual(list(self.provider.credentials(False)), [])
        self.assertEqual(self.reason(Selection()), "unavailable")
        self.provider.select(Selection(allow_external=True)).close(LeaseOutcome.SERVED)

    def test_a_connection_is_kept(self) -> None:
        """It is kept while the credential serves, even if its model is closed: a new connection would be no better."""
        self.account.observe(LimitsUpdate(models={"opus": Window(100.0, NOW + 600, 604800.0)}))
        self.assertTrue(self.provider.keeps(Selection(user="u", session="s", model="claude-opus-4"), "key"))
        (found,) = self.provider.sessions("u")
        self.assertEqual((found[0].session, found[1].models), ("s", ["claude-opus-4"]))
        self.assertFalse(self.provider.keeps(Selection(), "another"))
        self.account._apply(PollFailed())
        self.assertTrue(self.provider.keeps(Selection(), "key"))
        self.account.observe(LimitsUpdate(short=Window(100.0, NOW + 600, 18000.0)))
        self.assertFalse(self.provider.keeps(Selection(), "key"))

    def test_each_session_is_logged_once(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for session, model in (("s", "m"), ("s", "m"), ("s", "n"), (None, "m"), ("t", None)):
            self.provider.select(Selection(session=session, model=model)).close(LeaseOutcome.SERVED)
        logged = [(event["session"], event["model"]) for event in events if "session" in event]
        self.assertEqual(logged, [("s", "m"), ("s", "n"), ("t", "-")])
