"""Asking the usage endpoint: rarely, one poll at a time, and never on a request's behalf (spec 3.5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.credentials.control import Answer, ControlError, Fetch, fetch_within
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.dialects.oauth import AnswerMalformed, ControlRequest, OAuthToken, UpstreamURLs
from ccmproxy.http.retry_after import parse_retry_after
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.state.transitions import Input, PollFailed, PollSucceeded

#: How old what is known may get (seconds).
POLL_INTERVAL = 60 * 60.0
#: After the first, second, … failure in a row; the last holds for all further ones (seconds).
BACK_OFF = (60.0, 120.0, 240.0, 300.0)
#: After a 429 of the usage endpoint that names no time (seconds).
DEFAULT_RETRY_AFTER = 60.0
#: After a 403 that is not about the token (seconds): it will hardly be different in a minute.
FORBIDDEN_DELAY = BACK_OFF[-1]
#: For one attempt (seconds).
TIMEOUT = 5.0
#: Between the attempts of one poll when there is no answer at all (seconds).
RETRY_DELAYS = (0.2, 0.4)


class Poller(ABC):
    """Asks now and then, one poll at a time, and tells ``apply`` what came of each poll that counts.

    ``last_update`` gives the Unix seconds of the last data that came in any way: it puts polls off (spec 4.7). Nothing
    here ever raises, or waits for long.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        clock: IReactorTime,
        apply: Callable[[Input], None],
        last_update: Callable[[], float],
        now: Callable[[], float] | None = None,
    ) -> None:
        #: Polls that failed, in a row.
        self.failures = 0
        self._tag = tag
        self._clock = clock
        self._apply = apply
        self._last_update = last_update
        self._now: Callable[[], float] = now or clock.seconds
        self._last_attempt = 0.0
        self._last_success = 0.0
        self._postponed_until = 0.0
        self._polling = False
        self._poll_result: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._running = False

    # What is asked ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _can_ask(self) -> bool:
        """Is there anything to ask with?"""

    @abstractmethod
    async def _poll(self) -> None:
        """One poll, from the question to :meth:`_succeeded`, :meth:`_count` or :meth:`_postpone`.

        May raise ControlError, where there was no answer, and CredentialUnavailable, where there is nothing to ask
        with; both count as failures, but for a CredentialUnavailable that is hard.
        """

    # ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Poll now, if there is anything to ask with, and from then on whenever what is known gets old."""
        self._running = True
        self.poll_if_stale()

    def stop(self) -> None:
        """End: no timer, no poll in flight."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._poll_result is not None:
            self._poll_result.cancel()

    def poll_if_stale(self) -> None:
        """Begin a poll if one is due. Returns at once."""
        if self._wait() <= 0:
            self.poll()
        elif self._timer is None:
            self._arm()  # there was nothing to ask with for a while

    def poll(self) -> None:
        """Begin a poll now, unless one is under way or there is nothing to ask with. Returns at once."""
        if not self._running or self._polling or not self._can_ask:
            return
        self._polling = True
        result = Deferred.fromCoroutine(self._poll()).addBoth(self._finished)
        if self._polling:
            self._poll_result = result

    def poll_anew(self) -> None:
        """Begin a poll now, in place of one that is under way: what that asks may be of no use any more."""
        if self._poll_result is not None:
            self._poll_result.cancel()
        self.poll()

    # When -------------------------------------------------------------------------------------------------

    def _wait(self) -> float:
        """Seconds until the next poll is due; 0 and less: now."""
        now = self._now()
        if self.failures:
            since, delay = self._last_attempt, BACK_OFF[min(self.failures, len(BACK_OFF)) - 1]
        else:
            since, delay = max(self._last_update(), self._last_success), POLL_INTERVAL
        # Something that lies ahead means that the clock was set back: it says nothing of how old the data is.
        due = since + delay if since <= now else now
        return max(due, self._postponed_until) - now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running and not self._polling and self._can_ask:
            # Looked at again every hour at least: the wall clock may be set while the timer runs.
            self._timer = self._clock.callLater(min(max(self._wait(), 1.0), POLL_INTERVAL), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.poll_if_stale()

    # What came of it --------------------------------------------------------------------------------------

    def _succeeded(self, event: Input) -> None:
        self.failures = 0
        self._last_success = self._now()
        self._apply(event)

    def _postpone(self, seconds: float) -> None:
        """The endpoint does not want to be asked just now, which is no failure (F26)."""
        now = self._now()
        self._postponed_until = now + seconds
        self._last_attempt = now

    def _count(self, reason: str) -> None:
        self.failures += 1
        self._last_attempt = self._now()
        if self.failures <= len(BACK_OFF):
            self.log.warn(
                "{tag}: usage poll failed: {reason}{last}",
                tag=self._tag,
                reason=reason,
                failures=self.failures,
                last=" (further failures are not logged)" if self.failures == len(BACK_OFF) else "",
            )
        self._apply(PollFailed())

    def _finished(self, result: Failure | None) -> None:
        self._polling = False
        self._poll_result = None
        if isinstance(result, Failure):
            error = result.value
            if isinstance(error, CancelledError):
                pass
            elif isinstance(error, CredentialUnavailable):
                if not error.hard:  # a hard one is known as such, and a poll would not help
                    self._count(str(error))
            elif isinstance(error, ControlError):
                self._count(f"usage endpoint: {error}")
            else:
                self.log.failure("{tag}: usage poll failed", failure=result, tag=self._tag)
                self._count("usage poll failed unexpectedly")
        self._arm()


async def ask_repeatedly(fetch: Fetch, request: ControlRequest, clock: IReactorTime) -> Answer:
    """The answer to ``request``, asked for three times where there is none at all. Raises ControlError after the
    last."""
    for delay in RETRY_DELAYS:
        try:
            return await fetch_within(TIMEOUT, fetch, request, clock)
        except ControlError:
            await deferLater(clock, delay)
    return await fetch_within(TIMEOUT, fetch, request, clock)


class UsagePoller(Poller):
    """Keeps one account's windows known. ``weight`` gives the weight of the plan of a login.

    A 403 that is not about the token and a 429 are not counted as failures, on purpose (F26): an endpoint that does
    not want to be asked says nothing of the account. They only put off the next poll.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        keeper: TokenKeeper,
        account_format: IAccountFormat,
        urls: UpstreamURLs,
        fetch: Fetch,
        clock: IReactorTime,
        apply: Callable[[Input], None],
        last_update: Callable[[], float],
        weight: Callable[[OAuthToken], float],
        now: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(tag, clock, apply, last_update, now)
        self._keeper = keeper
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._weight = weight

    @property
    def _can_ask(self) -> bool:
        return isinstance(self._keeper.authorization, OAuthToken)

    def token_failed(self, message: str) -> None:
        """A token was wanted and could not be had for the moment: counts like a failed poll (spec 3.2).

        During a poll, or while the back-off of an earlier failure runs, it is the same failure.
        """
        if self._running and not self._polling and (not self.failures or self._wait() <= 0):
            self._count(message)
            self._arm()

    async def _poll(self) -> None:
        token = await self._keeper.authorize()
        if not isinstance(token, OAuthToken):
            return
        answer = await self._ask(token)
        if self._format.token_rejected(answer.status, answer.body):
            recovered = await self._keeper.recover(token)
            if not isinstance(recovered, OAuthToken):
                return
            token = recovered
            answer = await self._ask(token)
        self._take(answer, token)
        await self._keeper.complete_profile()

    async def _ask(self, token: OAuthToken) -> Answer:
        return await ask_repeatedly(self._fetch, self._format.usage_request(token, self._urls), self._clock)

    def _take(self, answer: Answer, token: OAuthToken) -> None:
        now = self._now()
        rejected = self._format.token_rejected(answer.status, answer.body)
        if answer.status == 200:
            try:
                update = self._format.usage_answer(answer.body, now)
            except AnswerMalformed as error:
                self._count(str(error))
                return
            self._succeeded(PollSucceeded(update, self._weight(token)))
        elif answer.status == 429 or (answer.status == 403 and not rejected):
            default = DEFAULT_RETRY_AFTER if answer.status == 429 else FORBIDDEN_DELAY
            delay = parse_retry_after(answer.headers.get("retry-after"), now)
            self._postpone(default if delay is None else max(delay, 1.0))
            self.log.info(
                "{tag}: usage endpoint answered {status}, asked again later",
                tag=self._tag,
                status=answer.status,
            )
        else:
            self._count(f"usage endpoint answered {answer.status}")
