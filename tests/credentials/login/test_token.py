"""Tests of :mod:`ccmproxy.credentials.login.token`: recovery, the plan, and stopping (F1, F4)."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import replace

from twisted.internet.defer import Deferred

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.credentials.login.token import POLLS
from ccmproxy.dialects.oauth import ControlRequest, Login, OAuthToken, UpstreamURLs
from ccmproxy.interfaces.credentials import CredentialUnavailable, RefreshNotForced
from tests.credentials.fixtures import NOW, PROFILE, PlainFormat, login, tokens
from tests.credentials.login.keeping import TokenTestCase


class RecoveryTests(TokenTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.load(login(expires=NOW + 3600))
        self.old = OAuthToken("a1", "r1", NOW + 3600)

    def recover(self, rejected: Login | None = None) -> Deferred[Login]:
        return Deferred.fromCoroutine(self.keeper.recover(rejected or self.old))

    def test_another_token_in_the_file(self) -> None:
        self.put(login("cli", "r9", NOW + 3600))
        self.assertEqual(self.access(self.successResultOf(self.recover())), "cli")
        self.assertEqual(self.redeemed(), [])

    def test_another_token_in_the_file_although_ours_cannot_be_refreshed(self) -> None:
        self.load(login(refresh=None, expires=NOW + 3600))
        self.put(login("cli", "r9", NOW + 3600))
        self.assertEqual(self.access(self.successResultOf(self.recover())), "cli")

    def test_forced(self) -> None:
        self.assertEqual(self.access(self.successResultOf(self.recover())), "a2")
        self.assertEqual(self.stored()["refresh"], "r2")
        self.settled()

    def test_f4_late_caller_takes_what_is_there(self) -> None:
        """The caller got a 401 for a token that has since been replaced: nothing is refreshed or written."""
        self.assertEqual(self.access(self.successResultOf(self.recover())), "a2")
        before = os.stat(self.path)
        for _ in range(5):
            self.assertEqual(self.access(self.successResultOf(self.recover())), "a2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.assertEqual(os.stat(self.path).st_ino, before.st_ino)

    def test_fifty_at_once_one_refresh(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = [self.recover() for _ in range(50)]
        answer.callback(tokens("a2", "r2"))
        self.assertEqual({self.access(self.successResultOf(each)) for each in waiting}, {"a2"})
        self.assertEqual(self.redeemed(), ["r1"])

    def test_during_a_refresh_that_is_due(self) -> None:
        self.load(login(expires=NOW + 30))
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        due, recovery = self.authorize(), self.recover()
        answer.callback(tokens("a2", "r2"))
        self.assertEqual(self.access(self.successResultOf(due)), "a2")
        self.assertEqual(self.access(self.successResultOf(recovery)), "a2")
        self.assertEqual(self.redeemed(), ["r1"])

    def test_the_rejected_token_is_never_given_back(self) -> None:
        """This holds even if the token has not expired and the refresh fails temporarily."""
        self.upstream.answer("token", Answer(500))
        self.failureResultOf(self.recover(), CredentialUnavailable)
        self.assertEqual(len(self.failures), 1)

    def test_cannot_be_refreshed(self) -> None:
        self.load(login(refresh=None, expires=NOW + 3600))
        # The refusal counts as one that a refresh has not mended (spec 12.3): no trouble of a poll's.
        self.failureResultOf(self.recover(), RefreshNotForced)
        self.assertEqual((self.redeemed(), self.failures), ([], []))

    def test_file_gone(self) -> None:
        os.unlink(self.path)
        self.failureResultOf(self.recover(), CredentialUnavailable)
        self.assertEqual(self.redeemed(), [])

    def test_every_token_is_refused(self) -> None:
        """The requests of a banned account do not each cause a refresh."""
        rejected: Login = self.old
        self.upstream.answer("token", *(tokens(f"n{n}", f"s{n}") for n in range(9)))
        for _ in range(3):
            rejected = self.successResultOf(self.recover(rejected))
        self.failureResultOf(self.recover(rejected), CredentialUnavailable)
        self.assertEqual(len(self.redeemed()), 3)
        self.clock.advance(60)
        self.successResultOf(self.recover(rejected))
        self.assertEqual(len(self.redeemed()), 4)


class BudgetTests(TokenTestCase):
    """Spec 12.3: a request that is refused for its own sake does not cost a refresh each time."""

    def setUp(self) -> None:
        super().setUp()
        self.load(login("n0", "s0", expires=NOW + 3600))
        self.upstream.answer("token", *(tokens(f"n{n}", f"s{n}") for n in range(1, 99)))
        self.rejected: Login = OAuthToken("n0", "s0", NOW + 3600)

    def recover(self, caller: Hashable = None, may_force: bool = True) -> Deferred[Login]:
        """The upstream refuses the present token once more."""

        def recovered(login: Login) -> Login:
            self.rejected = login
            return login

        coroutine = self.keeper.recover(self.rejected, caller, may_force=may_force)
        return Deferred.fromCoroutine(coroutine).addCallback(recovered)

    def test_one_caller_once_in_ten_minutes(self) -> None:
        self.successResultOf(self.recover("alice"))
        self.failureResultOf(self.recover("alice"), RefreshNotForced)
        self.successResultOf(self.recover("bob"))
        self.clock.advance(599)
        self.failureResultOf(self.recover("alice"), RefreshNotForced)
        self.clock.advance(1)
        self.successResultOf(self.recover("alice"))
        self.assertEqual(len(self.redeemed()), 3)

    def test_a_spent_budget_says_nothing_about_the_account(self) -> None:
        self.successResultOf(self.recover("alice"))
        for _ in range(5):
            self.failureResultOf(self.recover("alice"), RefreshNotForced)
        self.assertEqual(self.failures, [])
        self.assertIsNotNone(self.keeper.authorization)

    def test_polls_have_their_own(self) -> None:
        for name in "abc":
            self.successResultOf(self.recover(name))
        self.failureResultOf(self.recover("d"), RefreshNotForced)
        for _ in range(3):
            self.successResultOf(self.recover(POLLS))
        self.failureResultOf(self.recover(POLLS), RefreshNotForced)
        self.clock.advance(60)
        self.successResultOf(self.recover("d"))

    def test_paths_that_may_not_force(self) -> None:
        """A token that is there already is used nevertheless."""
        self.failureResultOf(self.recover("alice", may_force=False), RefreshNotForced)
        self.assertEqual((self.redeemed(), self.failures), ([], []))
        self.put(login("cli", "r9", NOW + 3600))
        self.assertEqual(self.access(self.successResultOf(self.recover("alice", may_force=False))), "cli")
        self.successResultOf(self.recover("alice"))

    def test_nothing_is_spent_while_refreshes_are_put_off(self) -> None:
        self.upstream.answer("token", Answer(503))
        error = self.failureResultOf(self.recover("alice"), CredentialUnavailable).value
        self.assertNotIsInstance(error, RefreshNotForced)
        for name in ("b", "c", "d", "e"):
            error = self.failureResultOf(self.recover(name), CredentialUnavailable).value
            self.assertIn("next try in 5s", str(error))
        self.assertEqual(len(self.redeemed()), 1)
        self.upstream.answer("token", tokens("n1", "s1"))
        self.clock.advance(5)
        self.assertEqual(self.stored()["access"], "n1", "a refused token is replaced by itself, too")
        self.upstream.answer("token", tokens("n2", "s2"))
        self.rejected = OAuthToken("n1", "s1", NOW + 3600)
        self.successResultOf(self.recover("b"))

    def test_the_clock_is_set(self) -> None:
        """What is put off, and the budget, are matters of durations (spec 11)."""
        for ahead in (-3 * 3600.0, 20 * 3600.0):
            with self.subTest(ahead=ahead):
                self.load(login("n0", "s0", expires=NOW + 1e7))
                self.rejected = OAuthToken("n0", "s0", NOW + 1e7)
                self.upstream.answer("token", Answer(503), tokens("n1", "s1"), tokens("n2", "s2"))
                self.failureResultOf(self.recover(f"alice {ahead}"), CredentialUnavailable)
                asked = len(self.redeemed())
                self.ahead = ahead
                self.assertEqual(
                    self.keeper.delay(),
                    ("token refresh failed: token endpoint answered 503", self.clock.seconds() + ahead + 5),
                )
                self.clock.advance(4)
                self.assertEqual(len(self.redeemed()), asked)
                self.clock.advance(1)
                self.assertEqual(len(self.redeemed()), asked + 1)
                self.rejected = OAuthToken("n1", "s1", NOW + 1e7)
                self.failureResultOf(self.recover(f"alice {ahead}"), RefreshNotForced)
                self.clock.advance(600)


class ProfileTests(TokenTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream.answer("profile", Answer(200, {}, b"max"))
        self.load(login(expires=NOW + 3600))

    def complete(self) -> None:
        self.result(self.keeper.complete_profile())

    def plan(self) -> str | None:
        assert isinstance(self.keeper.authorization, OAuthToken)
        return self.keeper.authorization.plan

    def test_saved_with_the_login(self) -> None:
        self.complete()
        self.assertEqual(self.plan(), "max")
        self.assertEqual(self.stored()["plan"], "max")
        self.complete()
        self.assertEqual(len(self.upstream.asked(PROFILE)), 1)
        self.settled()

    def test_identity_is_no_reason_to_write(self) -> None:
        """The file cannot hold it: it is known, told once, and asked for no more (spec 12.5)."""

        class Anonymous(PlainFormat):
            def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
                return None if token.account_id else ControlRequest("GET", urls.profile_url)

            def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
                return replace(token, account_id=body.decode())

        self.account_format = Anonymous()
        self.upstream.answer("profile", Answer(200, {}, b"org-1"))
        self.keeper = self.make()
        self.keeper.load()
        before, self.changes = os.stat(self.path), 0
        for _ in range(3):
            self.complete()
            self.keeper.load()
        assert isinstance(self.keeper.authorization, OAuthToken)
        self.assertEqual((self.keeper.authorization.account_id, self.changes), ("org-1", 1))
        self.assertEqual(len(self.upstream.asked(PROFILE)), 1)
        self.assertEqual(os.stat(self.path), before)
        self.successResultOf(Deferred.fromCoroutine(self.keeper.recover(self.keeper.authorization)))
        self.assertEqual(self.keeper.authorization.account_id, "org-1")
        self.settled()

    def test_failure_is_harmless(self) -> None:
        for reply in (Answer(500), Answer(200), ControlError("lost")):
            self.upstream.answer("profile", reply)
            self.complete()
            self.assertEqual((self.plan(), self.authorized()), (None, "a1"))
        self.assertEqual(self.failures, [])

    def test_never_answers(self) -> None:
        self.upstream.answer("profile")
        asking = Deferred.fromCoroutine(self.keeper.complete_profile())
        self.assertEqual(self.authorized(), "a1")
        self.clock.advance(30)
        self.assertIsNone(self.successResultOf(asking))

    def test_not_saved_but_known(self) -> None:
        self.store.full = True
        self.complete()
        self.assertEqual(self.plan(), "max")
        self.assertNotIn("plan", self.stored())

    def test_does_not_undo_a_refresh(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("profile", answer)
        asking = Deferred.fromCoroutine(self.keeper.complete_profile())
        self.load(login("cli", "r9", NOW + 3600))
        answer.callback(Answer(200, {}, b"max"))
        self.successResultOf(asking)
        self.assertEqual(self.stored()["access"], "cli")
        self.assertEqual(self.authorized(), "cli")


class StopTests(TokenTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.load(login())

    def test_idle(self) -> None:
        self.assertIsNone(self.successResultOf(self.keeper.stop()))
        self.refused()
        self.assertEqual(self.redeemed(), [])

    def test_waits_for_an_answer_that_must_not_be_lost(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = self.authorize()
        stopped = self.keeper.stop()
        self.clock.advance(5)
        self.assertNoResult(stopped)
        answer.callback(tokens("a2", "r2"))
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.stored()["refresh"], "r2")
        self.assertEqual(self.access(self.successResultOf(waiting)), "a2")
        self.settled()

    def test_not_for_ever(self) -> None:
        self.upstream.answer("token")
        waiting = self.authorize()
        stopped = self.keeper.stop()
        self.clock.advance(10)
        self.assertIsNone(self.successResultOf(stopped))
        self.failureResultOf(waiting, CredentialUnavailable)
        self.assertEqual(self.failures, [])
        self.settled()

    def test_waiting_for_the_lock_is_given_up(self) -> None:
        os.mkdir(self.config + ".lock")
        os.utime(self.config + ".lock", (NOW, NOW))
        waiting = self.authorize()
        self.assertIsNone(self.successResultOf(self.keeper.stop()))
        self.failureResultOf(waiting, CredentialUnavailable)
        self.assertTrue(os.path.isdir(self.config + ".lock"))
        self.no_timers()
