"""A login whose usage is polled at an upstream in memory, for tests of the polls."""

from __future__ import annotations

from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.credentials.login.usage_poller import UsagePoller
from ccmproxy.state.inputs import Input
from tests.credentials.fixtures import (
    NOW,
    URLS,
    USAGE,
    CredentialTestCase,
    PlainFormat,
    Upstream,
    login,
    tokens,
    usage,
)


class PollTestCase(CredentialTestCase):
    """``applied``: the inputs that came of polls. ``shown``: what polls have shown of which access token. ``logged``:
    the failures in the log. ``last_update``, ``wanted``: what the poller is told when it asks."""

    def setUp(self) -> None:
        super().setUp()
        self.upstream = Upstream(self.clock, usage=usage(), token=tokens("a2", "r2", NOW + 1e9))
        self.applied: list[Input] = []
        self.last_update = 0.0
        self.keeper = TokenKeeper(
            "acct",
            FileStore(self.path),
            PlainFormat(),
            URLS,
            self.upstream.fetch,
            self.clock,
            failed=lambda message: self.poller.token_failed(message),
            now=self.clock.seconds,
        )
        self.poller = UsagePoller(
            "acct",
            self.keeper,
            PlainFormat(),
            URLS,
            self.upstream.fetch,
            self.clock,
            self.applied.append,
            last_update=lambda: self.last_update,
            weight=lambda token: PlainFormat().plan_weight(token),
            now=lambda: self.clock.seconds() + self.ahead,
            wanted=lambda now: self.wanted,
            token_state=lambda token, is_good: self.shown.append((token.access_token, is_good)),
        )
        self.wanted = 0.0
        #: Seconds by which Unix time was set ahead of the clock.
        self.ahead = 0.0
        self.shown: list[tuple[str, bool | None]] = []
        self.logged: list[str] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.addCleanup(self.finish)

    def _log(self, event: LogEvent) -> None:
        if "failures" in event:
            self.logged.append(str(event["reason"]))

    def finish(self) -> None:
        self.poller.stop()
        self.successResultOf(self.keeper.stop())
        self.no_timers()

    def start(self, expires: float | None = NOW + 1e9) -> None:
        self.put(login(expires=expires, plan="pro"))
        self.keeper.load(changed=True)
        self.poller.start()

    def polls(self) -> int:
        """Return the number of requests to the usage endpoint since the last call."""
        count = len(self.upstream.asked(USAGE))
        self.upstream.requests = [each for each in self.upstream.requests if each.url != USAGE]
        return count

    def events(self) -> list[str]:
        """Return the names of the inputs that were applied since the last call."""
        names = [type(event).__name__ for event in self.applied]
        self.applied.clear()
        return names

    def polled_after(self, seconds: float) -> None:
        """Check that the next poll comes after this delay, not before."""
        self.polls()
        self.clock.advance(seconds - 1)
        self.assertEqual(self.polls(), 0, "too early")
        self.clock.advance(1)
        self.assertEqual(self.polls(), 1, "not yet")
