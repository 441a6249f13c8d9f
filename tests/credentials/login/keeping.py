"""Shared by the tests of refreshes: a file on a disk that can fail, and its keepers."""

from __future__ import annotations

import errno
import os
from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import DirectoryLock, lock_path
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.dialects.oauth import Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.facets import IAccountFormat
from tests.credentials.fixtures import TOKEN, URLS, CredentialTestCase, PlainFormat, Upstream, tokens


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
        self.upstream = Upstream(self.clock, token=tokens("a2", "r2"))
        self.changes = 0
        #: Seconds by which Unix time was set ahead of the clock.
        self.ahead = 0.0
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
        """Return a keeper of the file. Several keepers behave like several processes."""

        def changed() -> None:
            self.changes += 1

        def now() -> float:
            return self.clock.seconds() + self.ahead

        return TokenKeeper(
            "acct",
            self.store,
            self.account_format,
            URLS,
            self.upstream.fetch,
            self.clock,
            changed=changed,
            failed=self.failures.append,
            lock=DirectoryLock(lock_path(self.config), self.clock, lambda: 0.0, now) if lock else None,
            now=now,
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
        """Return the access token that a request gets, which must be at once."""
        return self.access(self.successResultOf(self.authorize()))

    def refused(self, hard: bool | None = None) -> str:
        """Return why a request gets no token."""
        error = self.failureResultOf(self.authorize(), CredentialUnavailable).value
        if hard is not None:
            self.assertEqual(error.hard, hard, str(error))
        return str(error)

    def redeemed(self) -> list[str]:
        """Return the refresh tokens that were sent to the token endpoint."""
        return [(request.body or b"").decode() for request in self.upstream.asked(TOKEN)]

    def settled(self) -> None:
        """No lock is left, and no temporary file. The next attempt, if one is put off, is the only timer."""
        self.assertEqual(os.listdir(self.directory), ["config"])
        self.assertEqual(os.listdir(self.config), ["login.json"])
        self.nothing_but_the_next_try()

    def nothing_but_the_next_try(self) -> None:
        """No timer is set but the one of an attempt that is put off (spec 12.4)."""
        expected = 0 if self.keeper.delay() is None else 1
        self.assertEqual(len(self.clock.getDelayedCalls()), expected)

    def next_try(self) -> float:
        """Seconds until the next attempt."""
        (timer,) = self.clock.getDelayedCalls()
        return timer.getTime() - self.clock.seconds()
