"""Tests of :mod:`ccmproxy.credentials.login.token`: other proxies' lost logins must not be ours (F1-F4)."""

from __future__ import annotations

import errno
import json
import os
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import DirectoryLock, lock_path
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.dialects.claude.account import ClaudeAccountFormat
from ccmproxy.dialects.oauth import ApiKey, ControlRequest, Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.facets import IAccountFormat
from tests.credentials.fixtures import (
    NOW,
    PROFILE,
    TOKEN,
    URLS,
    CredentialTestCase,
    PlainFormat,
    Upstream,
    login,
    tokens,
)


class Disk(FileStore):
    """A file on a disk that can be full, or read-only."""

    full = False
    read_only = False

    def write(self, document: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(document)

    def check_writable(self) -> None:
        if self.read_only:
            FileStore(self.path + "/nowhere").check_writable()
        super().check_writable()


class TokenTestCase(CredentialTestCase):
    account_format: IAccountFormat = PlainFormat()

    def setUp(self) -> None:
        super().setUp()
        self.upstream = Upstream(token=tokens("a2", "r2"))
        self.changes = 0
        self.failures: list[str] = []
        self.store = Disk(self.path)
        self.keeper = self.make()
        self.logged: list[str] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _log(self, event: LogEvent) -> None:
        self.logged.append(repr(event))

    def make(self, lock: bool = True) -> TokenKeeper:
        """A keeper of the file; several are like several processes."""

        def changed() -> None:
            self.changes += 1

        return TokenKeeper(
            "acct",
            self.store,
            self.account_format,
            URLS,
            self.upstream.fetch,
            self.clock,
            changed=changed,
            failed=self.failures.append,
            lock=DirectoryLock(lock_path(self.config), self.clock, lambda: 0.0) if lock else None,
        )

    def load(self, document: bytes) -> None:
        self.put(document)
        self.keeper.load(changed=True)

    def authorize(self) -> Deferred[Login]:
        return Deferred.fromCoroutine(self.keeper.authorize())

    def access(self, authorization: Login) -> str:
        assert isinstance(authorization, OAuthToken)
        return authorization.access_token

    def authorized(self) -> str:
        """The access token that a request gets at once."""
        return self.access(self.successResultOf(self.authorize()))

    def refused(self, hard: bool | None = None) -> str:
        """Why a request gets none."""
        error = self.failureResultOf(self.authorize(), CredentialUnavailable).value
        if hard is not None:
            self.assertEqual(error.hard, hard, str(error))
        return str(error)

    def redeemed(self) -> list[str]:
        """The refresh tokens that went to the token endpoint."""
        return [(request.body or b"").decode() for request in self.upstream.asked(TOKEN)]

    def settled(self) -> None:
        """No lock is left, and no temporary file."""
        self.assertEqual(os.listdir(self.directory), ["config"])
        self.assertEqual(os.listdir(self.config), ["login.json"])
        self.no_timers()


class ReadTests(TokenTestCase):
    def test_fresh_token_is_used_without_looking(self) -> None:
        self.load(login(expires=NOW + 3600))
        os.unlink(self.path)
        self.assertEqual(self.authorized(), "a1")
        self.assertEqual(self.upstream.requests, [])

    def test_never_expires(self) -> None:
        self.load(login(expires=None))
        self.assertEqual(self.authorized(), "a1")

    def test_key_in_the_file(self) -> None:
        self.load(b'{"key": "k"}')
        self.assertEqual(self.successResultOf(self.authorize()), ApiKey("k"))
        error = self.error(self.keeper.recover(ApiKey("k")), CredentialUnavailable)
        self.assertFalse(error.hard)
        self.put(b'{"key": "k2"}')
        self.assertEqual(self.result(self.keeper.recover(ApiKey("k"))), ApiKey("k2"))

    def test_every_defect_of_a_file(self) -> None:
        """Each gives a sentence, at once, and a repaired file is used."""
        whole = login(expires=NOW + 3600)
        for name, document, problem in (
            ("empty", b"", "is empty"),
            ("truncated", whole[:40], "not valid JSON"),
            ("not JSON", b"hello", "not valid JSON"),
            ("lacks the key", b'{"other": 1}', "login field not found"),
            ("not text", b"\xff\xfe", "not UTF-8"),
        ):
            self.load(document)
            self.assertIsNone(self.keeper.authorization, name)
            self.assertIn(problem, self.keeper.problem or "", name)
            self.clock.advance(3)
            self.assertIn(problem, self.refused(), name)
            self.load(whole)
            self.assertEqual(self.authorized(), "a1")

    def test_directory_and_missing(self) -> None:
        self.keeper.load()
        self.assertIn("does not exist", self.refused())
        os.mkdir(self.path)
        self.keeper.load()
        self.assertIn("is a directory", self.refused())

    def test_reread_on_demand_every_two_seconds(self) -> None:
        self.keeper.load()
        self.put(login(expires=NOW + 3600))
        self.clock.advance(1.9)
        self.refused()
        self.clock.advance(0.1)
        self.assertEqual(self.authorized(), "a1")

    def test_changes_are_told(self) -> None:
        self.load(login(expires=NOW + 3600))
        self.assertEqual(self.changes, 1)
        self.keeper.load()
        self.assertEqual(self.changes, 1)
        os.unlink(self.path)
        self.keeper.load()
        self.assertEqual(self.changes, 2)
        self.assertIsNone(self.keeper.authorization)


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
        """Two keepers of the same file, as in two processes: the lock lets one refresh, the other finds the result."""
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
        """A program that ignores the lock logs in while our refresh is under way: what the file holds wins."""
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
        """The old token is used up: what came in its place is saved, with all that the file held."""
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
        """When the first waiter gets the token, and when a change is told, the file holds it, synced."""
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
        """Hard failure: the new token is not used, and it is said aloud. When there is room again it is saved."""
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
        """Also what nobody thought of must not cost the login, nor be quoted."""
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
        """Another program took us for dead (we were suspended, say): it may be refreshing now."""
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
        """With a real format: an answer without a refresh token leaves the old one."""
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
    """The token endpoint answers 429, 500, nonsense, or never."""

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
        """Never again with that refresh token, whatever else of the file changes; a new one is used."""
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
        """It met a 401 with a token that has been replaced since: nothing is refreshed, nothing is written."""
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
        """Not even where it has not expired and the refresh fails for the moment."""
        self.upstream.answer("token", Answer(500))
        self.failureResultOf(self.recover(), CredentialUnavailable)
        self.assertEqual(len(self.failures), 1)

    def test_cannot_be_refreshed(self) -> None:
        self.load(login(refresh=None, expires=NOW + 3600))
        self.failureResultOf(self.recover(), CredentialUnavailable)
        self.assertEqual(self.redeemed(), [])
        self.assertEqual(len(self.failures), 1)

    def test_file_gone(self) -> None:
        os.unlink(self.path)
        self.failureResultOf(self.recover(), CredentialUnavailable)
        self.assertEqual(self.redeemed(), [])

    def test_every_token_is_refused(self) -> None:
        """A banned account does not become a refresh per request."""
        rejected: Login = self.old
        self.upstream.answer("token", *(tokens(f"n{n}", f"s{n}") for n in range(9)))
        for _ in range(3):
            rejected = self.successResultOf(self.recover(rejected))
        self.failureResultOf(self.recover(rejected), CredentialUnavailable)
        self.assertEqual(len(self.redeemed()), 3)
        self.clock.advance(60)
        self.successResultOf(self.recover(rejected))
        self.assertEqual(len(self.redeemed()), 4)


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
