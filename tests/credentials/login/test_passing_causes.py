"""What a machine does for a while to a login: nothing of it is final (spec 12.4, F66)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from ccmproxy.credentials.login.account import LoginAccount, LoginPlace
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.keychain import FirstOf, KeyringStore
from ccmproxy.dialects.oauth import ApiKey, Authorization, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable
from tests.credentials.fixtures import NOW, TOKEN, login, tokens
from tests.credentials.login.machine import READING, WRITING, Cause, Machine
from tests.credentials.login.test_account import FRESH, AccountTestCase
from tests.credentials.login.test_keychain import MemoryKeyring

#: The trouble has to be over so long after its cause (seconds).
A_MINUTE = 60


class PassingCauseTests(AccountTestCase):
    """One cause after the other, for up to ten minutes, while requests come in."""

    def setUp(self) -> None:
        super().setUp()
        self.logged: list[str] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.machine = Machine(self, self.directory)

    def _log(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def each(self, causes: list[Cause], seconds: int) -> Iterator[tuple[Cause, LoginAccount]]:
        """Yield each cause, which lasts, and an account, so many seconds after it began. Its login is due for a refresh
        after 40 s, and expires after 100 s."""
        for cause in causes:
            self.upstream.requests.clear()
            now = self.clock.seconds()
            self.upstream.answer("token", tokens("a2", "r2", now + 1e9))
            account = self.start(login(expires=now + 100, plan="max"))
            self.logged.clear()
            self.machine.causes = {cause}
            self.clock.pump([1.0] * seconds)
            yield cause, account
            self.finish(account)
            os.unlink(self.path)

    def ask(self, account: LoginAccount) -> Deferred[Authorization]:
        return Deferred.fromCoroutine(account.authorize())

    def asks(self, account: LoginAccount, seconds: int) -> Iterator[Authorization | CredentialUnavailable]:
        """Yield what a request gets every three seconds, for so long."""
        for _ in range(seconds // 3):
            got: list[Any] = []
            self.ask(account).addErrback(lambda failure: failure.value).addCallback(got.append)
            self.clock.pump([1.0] * 3)
            yield from got

    def heals(self, account: LoginAccount, cause: Cause) -> None:
        """Without a request, the refreshed login is in service and in the file within a minute."""
        self.machine.causes = set()
        self.clock.pump([1.0] * A_MINUTE)
        self.assertTrue(self.availability(account).usable, cause)
        present = self.result(account.authorize())
        assert isinstance(present, OAuthToken)
        self.assertEqual((present.access_token, self.stored()["access"]), ("a2", "a2"), cause)
        self.assertEqual(len(self.upstream.asked(TOKEN)), 1, cause)
        self.assertEqual(os.listdir(self.config), ["login.json"], cause)

    def test_a_token_that_is_valid_stays_in_service(self) -> None:
        """The log says what is wrong, where, and when the next attempt is made."""
        for cause, account in self.each([*READING, *WRITING], 41):
            for got in self.asks(account, 57):
                assert isinstance(got, OAuthToken), (cause, got)
                self.assertEqual(got.access_token, "a1")
                self.assertTrue(self.availability(account).usable, cause)
            told = [line for line in self.logged if os.strerror(cause.number) in line]
            self.assertTrue(
                told and all("next try in" in line or "read again in" in line for line in told), cause
            )
            self.heals(account, cause)

    def test_an_expired_token_comes_back(self) -> None:
        """Requests are told what is wrong and when to come again, but not where."""
        for cause, account in self.each([*READING, *WRITING], 101):
            for got in self.asks(account, 600):
                assert isinstance(got, CredentialUnavailable), (cause, got)
                self.assertFalse(got.hard, cause)
                assert got.retry_in is not None, cause
                self.assertTrue(0 <= got.retry_in <= 40, (cause, got.retry_in))
                self.assertIn(os.strerror(cause.number), str(got))
                self.assertNotIn(self.directory, str(got))
                status = self.availability(account)
                self.assertFalse(status.usable, cause)
                self.assertIn(os.strerror(cause.number), status.message)
                self.assertNotIn(self.directory, status.message)
                self.assertTrue(0 <= status.reset_at - self.clock.seconds() <= 40 or not status.reset_at)
            self.heals(account, cause)

    def test_a_login_that_could_not_be_read_at_the_start(self) -> None:
        for cause in READING:
            self.put(FRESH)
            self.machine.causes = {cause}
            account = self.start(None)
            status = self.availability(account)
            self.assertTrue(status.is_passing, cause)
            self.assertEqual(status.reset_at, self.clock.seconds() + 5)
            error = self.error(account.authorize(), CredentialUnavailable)
            self.assertEqual((error.hard, error.retry_in), (False, 5))
            self.clock.pump([1.0] * 600)
            status = self.availability(account)
            self.assertTrue(0 < status.reset_at - self.clock.seconds() <= 40, cause)
            self.assertNotIn(self.directory, status.message)
            self.assertTrue(any(self.path in line and "read again in 5s" in line for line in self.logged))
            self.machine.causes = set()
            self.clock.pump([1.0] * A_MINUTE)
            self.assertTrue(self.availability(account).usable, cause)
            self.finish(account)

    def test_a_key(self) -> None:
        """It needs no refresh, and stays in service for as long as its file cannot be read."""
        account = self.start(b'{"key": "sk-test"}')
        self.machine.causes = {READING[0]}
        self.put(b'{"key": "sk-other"}')
        self.clock.pump([1.0] * 600)
        self.assertEqual(self.result(account.authorize()), ApiKey("sk-test"))
        self.machine.causes = set()
        self.clock.pump([1.0] * A_MINUTE)
        self.assertEqual(self.result(account.authorize()), ApiKey("sk-other"))

    def test_a_locked_keychain(self) -> None:
        """It has no watch, and a stale file lies beside it."""
        keyring = MemoryKeyring()
        item = KeyringStore("Service", "me", keyring)
        account = LoginAccount(
            "acct",
            LoginPlace(FirstOf(item, FileStore(self.path))),
            self.account_format,
            self.access,
            self.clock,
            lambda: 0.0,
            fetch=self.upstream.fetch,
            now=self.clock.seconds,
        )
        item.write(login(expires=NOW + 100, plan="max"))
        self.put(login("stale", "used-up", NOW + 90, plan="max"))
        account.start()
        keyring.locked = True
        self.clock.pump([1.0] * 41)
        for got in self.asks(account, 57):
            assert isinstance(got, OAuthToken)
            self.assertEqual(got.access_token, "a1")
        self.clock.pump([1.0] * 10)
        for got in self.asks(account, 600):
            assert isinstance(got, CredentialUnavailable)
            self.assertIn("its keychain item cannot be read", str(got))
            self.assertIsNotNone(got.retry_in)
        keyring.locked = False
        self.clock.pump([1.0] * A_MINUTE)
        self.assertIn("a2", item.read().decode())
        self.assertTrue(self.availability(account).usable)
        self.assertEqual([request.body for request in self.upstream.asked(TOKEN)], [b"r1"])
        self.finish(account)

    def test_the_lock_of_a_living_program(self) -> None:
        for expires in (30.0, -1.0):
            now = self.clock.seconds()
            self.upstream.answer("token", tokens("a2", "r2", now + 1e9))
            lock = self.config + ".lock"
            os.mkdir(lock)
            os.utime(lock, (now, now))
            account = self.start(login(expires=now + expires, plan="max"))
            self.ask(account).addErrback(lambda _: None)
            for _ in range(600):
                self.clock.advance(1)
                os.utime(lock, (self.clock.seconds(),) * 2)
            self.assertFalse(self.availability(account).usable)
            self.assertIn("held by another program", self.availability(account).message)
            self.assertNotIn(self.directory, self.availability(account).message)
            os.rmdir(lock)
            self.clock.pump([1.0] * A_MINUTE)
            self.assertEqual(self.stored()["access"], "a2")
            self.assertTrue(self.availability(account).usable)
            self.finish(account)

    def test_the_lock_of_a_dead_program_and_a_clock_that_was_set_back(self) -> None:
        """The lock seems to be of tomorrow, so that its age would make it stale only then."""
        lock = self.config + ".lock"
        os.mkdir(lock)
        os.utime(lock, (NOW + 86400, NOW + 86400))
        account = self.start(login(plan="max"))
        self.ask(account).addErrback(lambda _: None)
        self.clock.pump([1.0] * A_MINUTE)
        self.assertEqual(self.stored()["access"], "a2")
        self.assertTrue(self.availability(account).usable)

    def test_a_directory_that_is_missing_for_a_moment(self) -> None:
        """As while a volume is mounted anew."""
        account = self.start(login(expires=NOW + 3600, plan="max"))
        aside = self.config + ".aside"
        os.rename(self.config, aside)
        self.clock.pump([1.0] * 20)
        self.assertIn("does not exist", self.availability(account).message)
        self.assertNotIn(self.directory, self.availability(account).message)
        os.rename(aside, self.config)
        self.clock.pump([1.0] * A_MINUTE)
        self.assertTrue(self.availability(account).usable)

    def test_a_file_that_is_half_written(self) -> None:
        account = self.start(login(expires=NOW + 100, plan="max"))
        whole = login(expires=NOW + 50, plan="max")
        with open(self.path, "wb") as file:
            file.write(whole[:20])
        self.ask(account).addErrback(lambda _: None)
        self.clock.pump([1.0] * 20)
        self.assertIn("not valid JSON", self.availability(account).message)
        with open(self.path, "ab") as file:
            file.write(whole[20:])
        self.clock.pump([1.0] * A_MINUTE)
        self.assertTrue(self.availability(account).usable)
        self.result(account.authorize())
        self.assertEqual(self.stored()["access"], "a2")

    def test_a_file_that_is_half_written_for_a_moment(self) -> None:
        """The request that meets it waits, and nothing is interrupted."""
        for half in (b"", login()[:20]):
            now = self.clock.seconds()
            account = self.start(login(expires=now + 100, plan="max"))
            self.clock.pump([1.0] * 50)
            with open(self.path, "wb") as file:
                file.write(half)
            asking = self.ask(account)
            self.assertNoResult(asking)
            self.assertTrue(self.availability(account).usable)
            self.put(login(expires=now + 100, plan="max"))
            self.clock.advance(0.1)
            self.assertTrue(self.availability(account).usable)
            self.successResultOf(asking)
            self.assertEqual(self.stored()["access"], "a2")
            self.finish(account)

    def test_the_only_copy_is_saved_at_the_end(self) -> None:
        """A refreshed login that could not be saved is saved when the account is stopped, if that is possible then."""
        self.machine.causes = {Cause("replace", errno.ENOSPC)}
        account = self.start(login(plan="max"))
        self.error(account.authorize(), CredentialUnavailable)
        self.machine.causes = set()
        self.finish(account)
        self.assertEqual(self.stored()["access"], "a2")
