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
        """A hard failure: the new token is not used, and an error is logged. It is saved when there is space again."""
        self.store.full = True
        self.assertIn("could not be saved: No space left", self.refused(hard=True))
        self.assertIsNone(self.keeper.authorization)
        self.assertEqual(self.stored()["access"], "a1")
        self.assertTrue(any("has to be logged in again" in event for event in self.logged))
        self.settled()
        self.clock.advance(3)
        self.refused(hard=True)
        self.store.full = False
        self.clock.advance(3)
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
        self.assertIn("could not be saved: RuntimeError", self.refused(hard=True))
        self.store.write = write  # type: ignore[method-assign]
        self.clock.advance(3)
        self.assertEqual(self.authorized(), "a2")
        self.assertEqual(self.redeemed(), ["r1"])
        self.settled()

    def test_f3_unsaved_login_gives_way_to_a_new_one(self) -> None:
        self.store.full = True
        self.refused(hard=True)
        self.load(login("new", "r9", NOW + 3600))
        self.assertEqual(self.authorized(), "new")
        self.store.full = False
        self.clock.advance(3600)
        self.upstream.answer("token", tokens("a3", "r3", NOW + 9999))
        self.assertEqual(self.authorized(), "a3")
        self.assertEqual(self.redeemed(), ["r1", "r9"])

    def test_not_writable_not_refreshed(self) -> None:
        self.store.read_only = True
        self.assertIn("could not be saved", self.refused(hard=True))
        self.assertEqual(self.redeemed(), [])
        self.store.read_only = False
        self.clock.advance(60)
        self.refused(hard=True)
        self.keeper.load(changed=True)
        self.assertEqual(self.authorized(), "a2")
        self.settled()

    def test_no_lock_no_refresh(self) -> None:
        os.mkdir(self.config + ".lock")
        os.utime(self.config + ".lock", (NOW, NOW))
        waiting = self.authorize()
        for _ in range(60):
            os.utime(self.config + ".lock", (self.clock.seconds(),) * 2)
            self.clock.advance(0.1)
        error = self.failureResultOf(waiting, CredentialUnavailable).value
        self.assertTrue(error.hard)
        self.assertIn("held by another program", self.keeper.problem or "")
        self.assertEqual(self.redeemed(), [])
        self.no_timers()

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
        self.no_timers()

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
            self.clock.advance(5)
            self.upstream.answer("token", tokens("a2", "r2"))
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
        self.refused(hard=False)
        self.assertEqual(len(self.failures), 1)

    def test_429_with_retry_after(self) -> None:
        self.upstream.answer("token", Answer(429, {"retry-after": "120"}))
        for _ in range(10):
            self.refused(hard=False)
        self.clock.advance(119)
        self.refused()
        self.assertEqual(len(self.redeemed()), 1)
        self.clock.advance(1)
        self.upstream.answer("token", tokens("a2"))
        self.assertEqual(self.authorized(), "a2")

    def test_429_without_retry_after_until_the_file_changes(self) -> None:
        self.upstream.answer("token", Answer(429))
        self.refused(hard=False)
        self.clock.advance(1_000_000)
        self.refused(hard=False)
        self.assertEqual(len(self.redeemed()), 1)
        self.upstream.answer("token", tokens("a2", expires=NOW + 2_000_000))
        self.keeper.load(changed=True)
        self.assertEqual(self.authorized(), "a2")

    def test_429_old_token_serves_while_it_lasts(self) -> None:
        self.load(login(expires=NOW + 30))
        self.upstream.answer("token", Answer(429))
        self.assertEqual([self.authorized() for _ in range(5)], ["a1"] * 5)
        self.assertEqual(len(self.redeemed()), 1)

    def test_permanent(self) -> None:
        """That refresh token is never used again, even if the rest of the file changes. A new one is used."""
        self.upstream.answer("token", Answer(401))
        self.assertIn("log in again", self.refused(hard=True))
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
