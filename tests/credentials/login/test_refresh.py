"""Tests of :mod:`ccmproxy.credentials.login.refresh`: the ways in which other proxies lose logins (F1-F3)."""

from __future__ import annotations

import json
import os

from twisted.internet.defer import CancelledError, Deferred

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.dialects.claude.account_format import ClaudeAccountFormat
from ccmproxy.dialects.oauth import ControlRequest, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable
from tests.credentials.fixtures import NOW, PlainFormat, login, tokens
from tests.credentials.login.keeping import TokenTestCase


class RefreshTests(TokenTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.load(login())

    def test_refreshed_and_saved(self) -> None:
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.assertEqual(self.stored(), {"access": "a2", "refresh": "r2", "expires": NOW + 3600})
        with open(self.path, "rb") as file:
            self.assertEqual(json.load(file)["other"], "kept")
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual(len(self.redeemed()), 1)
        self.settled()

    def test_f1_fifty_requests_one_refresh(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = [self.authorize() for _ in range(50)]
        for each in waiting:
            self.assertNoResult(each)
        answer.callback(tokens("a2", "r2"))
        self.assertEqual({self.access(self.successResultOf(each)) for each in waiting}, {"a2"})
        self.assertEqual(self.redeemed(), ["r1"])
        self.settled()

    def test_f1_fifty_share_a_failure(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = [self.authorize() for _ in range(50)]
        answer.callback(Answer(500))
        for each in waiting:
            self.failureResultOf(each, CredentialUnavailable)
        self.assertEqual(self.redeemed(), ["r1"])
        self.assertEqual(len(self.failures), 1)
        self.settled()

    def test_f1_two_processes_one_refresh(self) -> None:
        """Two keepers of one file behave like two processes: one refreshes, and the other finds the result."""
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        other = self.make()
        other.load()
        first = self.authorize()
        second = Deferred.fromCoroutine(other.authorize())
        self.clock.advance(1)
        self.assertEqual(self.redeemed(), ["r1"])
        answer.callback(tokens("a2", "r2"))
        self.assertEqual(self.access(self.successResultOf(first)), "a2")
        self.clock.advance(1)
        self.assertEqual(self.access(self.successResultOf(second)), "a2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.settled()

    def test_f2_other_program_refreshed_before(self) -> None:
        self.put(login("cli", "r9", NOW + 3600))
        self.assertEqual(self.authorized(), "cli")
        self.assertEqual(self.redeemed(), [])

    def test_f2_other_program_refreshes_while_we_wait_for_its_lock(self) -> None:
        os.mkdir(self.config + ".lock")
        os.utime(self.config + ".lock", (NOW, NOW))
        waiting = self.authorize()
        self.put(login("cli", "r9", NOW + 3600))
        os.rmdir(self.config + ".lock")
        self.clock.advance(1)
        self.assertEqual(self.access(self.successResultOf(waiting)), "cli")
        self.assertEqual(self.redeemed(), [])
        self.settled()

    def test_f2_other_program_refreshes_during_ours(self) -> None:
        """A program that ignores the lock logs in during the refresh: the login in the file is used."""
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = self.authorize()
        self.put(login("cli", "r9", NOW + 3600))
        answer.callback(tokens("a2", "r2"))
        self.assertEqual(self.access(self.successResultOf(waiting)), "cli")
        self.assertEqual(self.stored()["access"], "cli")
        self.assertEqual(self.authorized(), "cli")
        self.settled()

    def test_f2_other_program_refreshed_and_ours_was_refused_for_it(self) -> None:
        def refuse(request: ControlRequest) -> Answer:
            self.put(login("cli", "r9", NOW + 3600))
            return Answer(401)

        self.upstream.answer("token", refuse)
        self.assertEqual(self.authorized(), "cli")
        self.assertEqual(self.failures, [])
        self.settled()

    def test_others_keys_that_changed_meanwhile_survive(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = self.authorize()
        self.put(login().replace(b"kept", b"changed"))
        answer.callback(tokens("a2", "r2"))
        self.assertEqual(self.access(self.successResultOf(waiting)), "a2")
        with open(self.path, "rb") as file:
            document = json.load(file)
        self.assertEqual((document["login"]["access"], document["other"]), ("a2", "changed"))

    def test_file_half_written_when_the_answer_comes(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = self.authorize()
        self.put(login()[:20])
        answer.callback(tokens("a2", "r2"))
        self.assertNoResult(waiting)
        self.put(login().replace(b"kept", b"changed"))
        self.clock.advance(0.1)
        self.assertEqual(self.access(self.successResultOf(waiting)), "a2")
        with open(self.path, "rb") as file:
            self.assertEqual(json.load(file)["other"], "changed")
        self.settled()

    def test_file_gone_when_the_answer_comes(self) -> None:
        """The old refresh token is used up, so the new login is saved in the document that the file had before."""
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        waiting = self.authorize()
        os.unlink(self.path)
        self.keeper.load(changed=True)
        self.assertIsNone(self.keeper.authorization)
        answer.callback(tokens("a2", "r2"))
        for _ in range(4):
            self.clock.advance(0.1)
        self.assertEqual(self.access(self.successResultOf(waiting)), "a2")
        with open(self.path, "rb") as file:
            document = json.load(file)
        self.assertEqual((document["login"]["access"], document["other"]), ("a2", "kept"))
        self.assertEqual(self.authorized(), "a2")
        self.settled()

    def test_f3_saved_before_it_is_used(self) -> None:
        """When the first waiter gets the token, and when the change is reported, the file already holds it, synced."""
        synced: list[bytes] = []
        fsync = os.fsync

        def recorded(descriptor: int) -> None:
            fsync(descriptor)
            if os.path.isfile(f"/proc/self/fd/{descriptor}"):
                with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                    synced.append(file.read())

        self.patch(os, "fsync", recorded)
        seen: list[tuple[str, bool]] = []
        waiting = [self.authorize() for _ in range(2)]
        for each in waiting:
            each.addCallback(
                lambda _: seen.append((self.stored()["access"], any(b"a2" in d for d in synced)))
            )
        self.assertEqual(seen, [("a2", True)] * 2)

    def test_f3_disk_full_at_the_save(self) -> None:
        """The new token is not used, and it is said aloud. When there is room again it is saved, by itself: a full disk
        is no state that only a person can end (spec 12.4)."""
        self.store.full = True
        self.assertIn("could not be saved: No space left", said := self.refused(hard=False))
        self.assertIn("next try in 5s", said)
        self.assertEqual(self.stored()["access"], "a1")
        self.assertTrue(any("has to be logged in again" in event for event in self.logged))
        self.settled()
        self.clock.advance(5)
        self.assertIn("next try in 10s", self.refused(hard=False))
        self.store.full = False
        self.clock.advance(10)
        self.assertEqual(self.stored()["access"], "a2")
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual(self.stored()["refresh"], "r2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.settled()

    def test_f3_whatever_goes_wrong_at_the_save(self) -> None:
        """An unexpected exception must not lose the login, and its message must not be quoted."""
        write = self.store.write

        def fail(document: bytes) -> None:
            raise RuntimeError(document)

        self.store.write = fail  # type: ignore[method-assign]
        self.assertIn("could not be saved: RuntimeError", self.refused(hard=False))
        self.store.write = write  # type: ignore[method-assign]
        self.clock.advance(5)
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.settled()

    def test_f3_unsaved_login_gives_way_to_a_new_one(self) -> None:
        self.store.full = True
        self.refused(hard=False)
        self.load(login("new", "r9", NOW + 3600))
        self.assertEqual(self.authorized(), "new")
        self.store.full = False
        self.clock.advance(3600)
        self.upstream.answer("token", tokens("a3", "r3", NOW + 9999))
        self.assertEqual(self.authorized(), "a3")
        self.assertEqual(self.redeemed(), ["r1", "r9"])

    def test_not_writable_not_refreshed(self) -> None:
        """It is tried again by itself, at growing intervals of at most 40 s, so that it is over within a minute after
        its cause, and says when (spec 12.4)."""
        self.store.read_only = True
        self.assertIn("could not be saved", self.refused(hard=False))
        for delay, told in ((5, "5s"), (10, "10s"), (20, "20s"), (40, "40s"), (40, "40s"), (40, "40s")):
            self.assertEqual(self.next_try(), delay)
            self.assertTrue(self.refused(hard=False).endswith(f"next try in {told}"))
            self.assertIn(f"next try in {told}", self.logged[-1])
            self.clock.advance(delay)
        self.assertEqual(self.redeemed(), [])
        self.store.read_only = False
        self.clock.advance(39)
        self.refused(hard=False)
        self.clock.advance(1)
        self.assertEqual(self.authorized(), "a2")
        self.settled()

    def test_the_obstacle_before_does_not_count(self) -> None:
        """After a disk that could not be written, the first refusal of the token endpoint is the first (spec 12.4)."""
        for status, wait in ((500, 5), (429, 30)):
            self.load(login())
            self.store.read_only = True
            for delay in (5, 10, 20, 40):
                self.refused(hard=False)
                self.clock.advance(delay)
            self.store.read_only = False
            self.upstream.answer("token", Answer(status))
            self.clock.advance(40)
            self.assertEqual(self.next_try(), wait)

    def test_not_writable_but_not_expired(self) -> None:
        """The token is used as long as it lasts, and its refresh token is not redeemed (spec 3.2 point 4)."""
        self.load(login(expires=NOW + 30))
        self.store.read_only = True
        self.assertEqual([self.authorized() for _ in range(5)], ["a1"] * 5)
        self.assertEqual((self.redeemed(), self.failures), ([], []))
        self.assertIn("next try in 5s", "".join(self.logged))
        self.clock.advance(29)
        self.assertEqual(self.authorized(), "a1")
        self.clock.advance(1)
        self.refused(hard=False)
        self.store.read_only = False
        self.keeper.load(changed=True)
        self.assertEqual(self.authorized(), "a2")

    def test_disk_full_but_not_expired(self) -> None:
        """The same where the refresh token is redeemed already: its successor is saved as soon as there is room."""
        self.load(login(expires=NOW + 30))
        self.store.full = True
        self.assertEqual([self.authorized() for _ in range(5)], ["a1"] * 5)
        self.clock.advance(5)
        self.store.full = False
        self.clock.advance(10)
        self.assertEqual((self.stored()["access"], self.authorized()), ("a2", "a2"))
        self.assertEqual((self.redeemed(), self.failures), (["r1"], []))
        self.settled()

    def test_scopes_that_were_never_granted(self) -> None:
        """Asked once more with those that the file holds, and saved; a second refusal is a passing one."""
        self.upstream.answer("token", Answer(400, {}, b"invalid_scope"), tokens("a2", "r2"))
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual((self.redeemed(), self.stored()["refresh"]), (["r1", "narrower r1"], "r2"))
        self.load(login("a3", "r3"))
        self.upstream.answer("token", Answer(400, {}, b"invalid_scope"))
        self.assertIn("answered 400; next try in 5s", self.refused(hard=False))
        self.assertEqual(self.redeemed()[2:], ["r3", "narrower r3"])

    def test_no_lock_no_refresh(self) -> None:
        os.mkdir(self.config + ".lock")
        os.utime(self.config + ".lock", (NOW, NOW))
        waiting = self.authorize()
        for _ in range(60):
            os.utime(self.config + ".lock", (self.clock.seconds(),) * 2)
            self.clock.advance(0.1)
        error = self.failureResultOf(waiting, CredentialUnavailable).value
        self.assertFalse(error.hard, "a held lock is no state that only a person can end (spec 12.4)")
        self.assertIn("held by another program; next try in 5s", str(error))
        self.assertEqual(self.redeemed(), [])
        self.nothing_but_the_next_try()
        os.rmdir(self.config + ".lock")
        self.clock.advance(5)
        self.assertEqual(self.authorized(), "a2")
        self.settled()

    def test_no_lock_but_not_expired(self) -> None:
        self.load(login(expires=NOW + 30))
        os.mkdir(self.config + ".lock")
        os.utime(self.config + ".lock", (NOW, NOW))
        waiting = self.authorize()
        for _ in range(60):
            os.utime(self.config + ".lock", (self.clock.seconds(),) * 2)
            self.clock.advance(0.1)
        self.assertEqual(self.access(self.successResultOf(waiting)), "a1")
        self.assertEqual(self.redeemed(), [])

    def test_lock_lost_before_the_refresh(self) -> None:
        """Another program took over the lock, because this process seemed dead, and may be refreshing now."""
        check = self.store.check_writable

        def late() -> None:
            check()
            os.rmdir(self.config + ".lock")
            os.mkdir(self.config + ".lock")

        self.store.check_writable = late  # type: ignore[method-assign]
        self.assertIn("lock of the credential was lost", self.refused(hard=False))
        self.assertEqual(self.redeemed(), [])
        self.assertTrue(os.path.isdir(self.config + ".lock"))
        self.nothing_but_the_next_try()

    def test_lock_held_during_the_refresh_only(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        self.authorize()
        self.assertTrue(os.path.isdir(self.config + ".lock"))
        answer.callback(tokens("a2"))
        self.settled()

    def test_without_lock(self) -> None:
        self.keeper = self.make(lock=False)
        self.keeper.load()
        self.assertEqual(self.authorized(), "a2")

    def test_refresh_token_that_is_not_replaced_stays(self) -> None:
        """With a real format, an answer without a refresh token keeps the old one."""
        self.account_format = ClaudeAccountFormat()
        self.keeper = self.make()
        stored = {
            "accessToken": "a1",
            "refreshToken": "r1",
            "expiresAt": NOW * 1000,
            "scopes": ["user:inference"],
            "subscriptionType": "max",
            "rateLimitTier": "default_claude_max_20x",
        }
        self.load(json.dumps({"claudeAiOauth": stored, "mcpOAuth": {"x": 1}}).encode())
        self.upstream.answer("token", Answer(200, {}, b'{"access_token": "a2", "expires_in": 60}'))
        self.assertEqual(self.authorized(), "a2")
        with open(self.path, "rb") as file:
            document = json.load(file)
        self.assertEqual(document["mcpOAuth"], {"x": 1})
        self.assertEqual(document["claudeAiOauth"]["refreshToken"], "r1")
        self.assertEqual(document["claudeAiOauth"]["expiresAt"], (NOW + 60) * 1000)

    def test_caller_that_goes_away_does_not_end_it(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        first, second = self.authorize(), self.authorize()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        answer.callback(tokens("a2"))
        self.assertEqual(self.access(self.successResultOf(second)), "a2")

    def test_all_callers_go_away(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("token", answer)
        only = self.authorize()
        only.cancel()
        self.failureResultOf(only, CancelledError)
        answer.callback(tokens("a2", "r2"))
        self.assertEqual(self.stored()["refresh"], "r2")
        self.assertEqual(self.authorized(), "a2")

    def test_secrets_are_not_logged(self) -> None:
        secret = "SECRET"
        for reply in (Answer(500, {}, secret.encode()), Answer(200, {}, secret.encode()), tokens(secret)):
            self.load(login(secret + "a", secret + "r"))
            self.upstream.answer("token", reply)
            self.authorize().addErrback(lambda failure: self.logged.append(str(failure.value)))
            self.clock.advance(10)
        self.assertTrue(self.logged)
        self.assertFalse([event for event in self.logged if secret in event.replace("secret", "")])


class FailureTests(TokenTestCase):
    """The token endpoint answers 429, 500 or garbage, or does not answer."""

    def setUp(self) -> None:
        super().setUp()
        self.load(login())

    def test_every_transient_failure(self) -> None:
        for name, reply in (
            ("500", Answer(500)),
            ("nonsense", Answer(200, {}, b"<html>")),
            ("empty", Answer(200)),
            ("lost", ControlError("connection lost")),
        ):
            self.load(login(refresh=name))
            self.upstream.answer("token", reply)
            before = len(self.redeemed())
            self.assertIn("token refresh failed", self.refused(hard=False), name)
            self.assertIsNotNone(self.keeper.authorization, name)
            self.refused(hard=False)
            self.assertEqual(len(self.redeemed()), before + 1, "tried again at once")
            self.upstream.answer("token", tokens("a2", "r2"))
            self.clock.advance(5)
            self.assertEqual(self.stored()["access"], "a2", "not tried again by itself")
            self.assertEqual(self.authorized(), "a2")
            self.settled()

    def test_never_answers(self) -> None:
        self.upstream.answer("token")
        waiting = self.authorize()
        self.clock.pump([1] * 29)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        error = self.failureResultOf(waiting, CredentialUnavailable).value
        self.assertIn("no answer within 30 s", str(error))
        self.assertFalse(error.hard)
        self.settled()

    def test_old_token_serves_while_it_lasts(self) -> None:
        self.load(login(expires=NOW + 30))
        self.upstream.answer("token", Answer(503))
        self.assertEqual(self.authorized(), "a1")
        self.assertEqual(self.authorized(), "a1")
        self.assertEqual(len(self.redeemed()), 1)
        self.clock.advance(6)
        self.assertEqual(self.authorized(), "a1")
        self.assertEqual(len(self.redeemed()), 2)
        self.assertEqual(self.failures, [])
        self.clock.advance(24)
        self.failures.clear()  # That of the attempt that was due at this moment.
        self.refused(hard=False)
        self.assertEqual(len(self.failures), 1)

    def test_429_with_retry_after(self) -> None:
        self.upstream.answer("token", Answer(429, {"retry-after": "120"}))
        for _ in range(10):
            self.refused(hard=False)
        self.clock.advance(119)
        self.refused()
        self.assertEqual(len(self.redeemed()), 1)
        self.upstream.answer("token", tokens("a2"))
        self.clock.advance(1)
        self.assertEqual(self.authorized(), "a2")

    def delays(self, count: int) -> list[float]:
        """The delays between so many attempts, each made by itself, whatever requests come in between."""
        delays = []
        for _ in range(count):
            self.refused(hard=False)
            delays.append(self.next_try())
            before = len(self.redeemed())
            self.clock.advance(delays[-1] - 0.5)
            self.refused(hard=False)
            self.assertEqual(len(self.redeemed()), before, "too early")
            self.clock.advance(0.5)
            self.assertEqual(len(self.redeemed()), before + 1, "not tried again by itself")
        return delays

    def test_429_without_retry_after(self) -> None:
        """It is no reason to stop for ever (spec 12.4 replaces that): 30 s, doubling to 15 min. A changed file lifts
        it, and the steps begin anew."""
        self.upstream.answer("token", Answer(429))
        self.assertEqual(self.delays(7), [30, 60, 120, 240, 480, 900, 900])
        self.keeper.load(changed=True)
        before = len(self.redeemed())
        self.assertEqual(self.delays(2), [30, 60])
        self.assertEqual(len(self.redeemed()), before + 3)
        self.upstream.answer("token", tokens("a2", expires=NOW + 2_000_000))
        self.keeper.load(changed=True)
        self.assertEqual(self.authorized(), "a2")

    def test_delays_that_are_named_are_clamped(self) -> None:
        """Spec 12.4: never shorter than our own first step, never longer than 15 minutes."""
        for status, named, expected in (
            (429, "0", [30, 60, 120]),
            (429, "29", [30, 60, 120]),
            (429, "45", [45, 45]),
            (429, "86400", [900, 900]),
            (503, "0", [5, 10, 20]),
            (503, "100", [100, 100]),
            (503, "86400", [900]),
            (400, None, [5, 10, 20, 40, 80, 160, 300, 300]),
        ):
            self.load(login(refresh=f"{status} {named}"))
            self.upstream.answer("token", Answer(status, {"retry-after": named} if named else {}))
            self.assertEqual(self.delays(len(expected)), expected, (status, named))

    def test_a_refresh_that_succeeds_ends_the_steps(self) -> None:
        self.upstream.answer("token", Answer(500), Answer(500), tokens("a2", "r2", NOW + 100))
        self.assertEqual(self.delays(2), [5, 10])
        self.assertEqual(self.authorized(), "a2")
        self.upstream.answer("token", Answer(500))
        self.clock.advance(100)
        self.refused(hard=False)
        self.assertEqual(self.next_try(), 5)

    def test_429_old_token_serves_while_it_lasts(self) -> None:
        self.load(login(expires=NOW + 30))
        self.upstream.answer("token", Answer(429))
        self.assertEqual([self.authorized() for _ in range(5)], ["a1"] * 5)
        self.assertEqual(len(self.redeemed()), 1)

    def test_permanent(self) -> None:
        """That refresh token is never used again, even if the rest of the file changes. A new one is used."""
        self.upstream.answer("token", Answer(401))
        self.assertIn("log in again with the official client (run `plain login`)", self.refused(hard=True))
        self.assertEqual(len([event for event in self.logged if "log in again" in event]), 1, "told once")
        self.no_timers()
        self.load(login().replace(b"kept", b"changed"))
        self.assertIsNone(self.keeper.authorization)
        self.clock.advance(10)
        self.refused(hard=True)
        self.assertEqual(self.redeemed(), ["r1"])
        self.upstream.answer("token", tokens("a3"))
        self.load(login(refresh="r2"))
        self.assertEqual(self.authorized(), "a3")
        self.assertEqual(self.redeemed(), ["r1", "r2"])

    def test_refused_for_good_but_given_a_new_access_token(self) -> None:
        self.upstream.answer("token", Answer(401))
        self.refused(hard=True)
        self.load(login("pasted", "r1", NOW + 600))
        self.assertEqual(self.authorized(), "pasted")
        self.clock.advance(600)
        self.refused(hard=True)
        self.assertEqual(self.redeemed(), ["r1"])

    def test_bug_in_a_format_is_contained(self) -> None:
        class Broken(PlainFormat):
            def refresh_answer(self, *arguments: object) -> OAuthToken:
                raise ZeroDivisionError("bug")

        self.account_format = Broken()
        self.keeper = self.make()
        self.keeper.load()
        self.assertIn("unexpectedly", self.refused(hard=False))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.settled()
