"""Polls of the usage endpoint: rare, one at a time, and never in the path of a request (spec 3.5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.credentials.control import Answer, ControlError, Fetch
from ccmproxy.dialects.oauth import ControlRequest
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.policy.delays import clamped_delay, growing_delay
from ccmproxy.policy.rate import TokenBucket
from ccmproxy.state.clock_set import moment
from ccmproxy.state.inputs import Input, PollFailed

#: Age at which the known usage is out of date (seconds).
POLL_INTERVAL = 60 * 60.0
#: Delays after the first, second, … consecutive failure (seconds). The last one also applies to all further failures.
BACK_OFF = (60.0, 120.0, 240.0, 300.0)
#: Delays after the first failures within START_TIME of the start (seconds), where no poll has succeeded yet: nothing is
#: known of the credential till then (spec 14). Those above follow.
START_BACK_OFF = (2.0, 5.0, 10.0, 30.0)
START_TIME = 60.0
#: Delay after a 429 of the usage endpoint without Retry-After (seconds). It doubles with each further one in a row, up
#: to LONGEST_POSTPONEMENT.
DEFAULT_RETRY_AFTER = 60.0
#: Longest delay of a poll that the endpoint refuses for now (seconds; spec 12.4).
LONGEST_POSTPONEMENT = 900.0
#: So many polls in a row follow on changes of the system's clock, and later ones so far apart (seconds).
CLOCK_POLLS = 4
CLOCK_POLLS_APART = 300.0
#: Time-out of one attempt, and delays between the attempts of one poll when there is no answer at all (seconds).
TIMEOUT = 5.0
RETRY_DELAYS = (0.2, 0.4)


class Poller(ABC):
    """Polls periodically, one poll at a time, and passes each success and each counted failure to ``apply``.

    ``last_update`` returns the time of the newest data from any source (Unix seconds); such data postpones the next
    poll (spec 4.7). ``wanted`` is called with the present time, and returns when the state asks for a poll besides that
    rhythm (both Unix seconds; 0 = not at all); a time before the start of the last poll has been granted already. After
    a change of what it returns, :meth:`reconsider` has to be called. No method raises or blocks.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        clock: IReactorTime,
        apply: Callable[[Input], None],
        last_update: Callable[[], float],
        now: Callable[[], float],
        wanted: Callable[[float], float] = lambda now: 0.0,
    ) -> None:
        #: Number of consecutive failures.
        self.failures = 0
        #: How many of these came right after the start, which is at ``_started`` (Unix seconds).
        self._early_failures = 0
        self._started = 0.0
        self._tag = tag
        self._clock = clock
        self._apply = apply
        self._last_update = last_update
        self._now = now
        #: Unix seconds, as are all times here: they are compared with those of the state. 0 = none yet.
        self._last_attempt = 0.0
        self._last_success = 0.0
        self._wanted = wanted
        #: When the poll was sent that is in flight or was the last one that was not postponed (Unix seconds, 0 = none).
        self._began = 0.0
        self._began_before = 0.0
        self._postponed_until = 0.0
        #: How many polls in a row the endpoint has refused for now.
        self._postponements = 0
        self._polling = False
        #: Whether another poll is to begin when the one in flight is over.
        self._again = False
        self._poll_result: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._running = False
        self._clock_polls = TokenBucket(CLOCK_POLLS, CLOCK_POLLS_APART)

    # What subclasses implement ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def _can_ask(self) -> bool:
        """Whether a poll is possible, for example because there is a token."""

    @abstractmethod
    async def _poll(self) -> None:
        """Make one poll and report its outcome by :meth:`_succeeded`, :meth:`_count` or :meth:`_postpone`.

        Raises ControlError when there is no answer, and CredentialUnavailable when there is no token. Both count as
        failures, except for a CredentialUnavailable with ``hard`` set.
        """

    # ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Poll now, if that is possible, and from then on whenever the known usage is out of date."""
        self._running = True
        self._started = self._now()
        self.poll_if_stale()

    def stop(self) -> None:
        """Cancel the timer and a poll in flight."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._poll_result is not None:
            self._poll_result.cancel()

    def poll_if_stale(self) -> None:
        """Start a poll if one is due. Returns at once."""
        if self._wait() <= 0:
            self.poll()
        elif self._timer is None:
            self._arm()  # No timer was set while polling was impossible.

    def poll(self) -> None:
        """Start a poll now unless one is in flight or polling is impossible. Returns at once."""
        if not self._running or self._polling or not self._can_ask:
            return
        self._polling = True
        self._began_before, self._began = self._began, self._now()
        result = Deferred.fromCoroutine(self._poll()).addBoth(self._finished)
        if self._polling:
            self._poll_result = result

    @property
    def last_began(self) -> float:
        """When the last poll began that the endpoint did not refuse for now (Unix seconds); 0: there was none."""
        return self._began

    def poll_unless_postponed(self) -> None:
        """Start a poll now, although none is due, unless the endpoint has asked for a delay. Returns at once.

        If a poll is in flight, the new one begins when that is over: it may have asked before the cause came.
        """
        if self._postponed_until <= self._now():
            self._again = self._polling
            self.poll()

    def reconsider(self) -> None:
        """Set the timer anew if the next poll is due earlier than it was. Returns at once."""
        timer = self._timer
        if timer is not None and self._clock.seconds() + max(self._wait(), 1.0) < timer.getTime() - 1e-3:
            self._arm()

    def clock_set(self, by: float) -> None:
        """Note that ``now`` was set by ``by`` seconds: all intervals go on. To be called before any other method."""
        self._started = moment(self._started, by)
        self._last_attempt = moment(self._last_attempt, by)
        self._last_success = moment(self._last_success, by)
        self._began = moment(self._began, by)
        self._postponed_until = moment(self._postponed_until, by)

    def poll_for_clock(self) -> None:
        """Poll because the system's clock was set, so that what was told in seconds is told again (spec 11). Returns at
        once. A clock that is set again and again does not cause as many polls (F57)."""
        if self._running and not self._clock_polls.delay(self._clock.seconds()):
            self._clock_polls.take(self._clock.seconds())
            self.poll_unless_postponed()

    def poll_anew(self) -> None:
        """Start a poll now and cancel one in flight, since its destination may no longer be valid."""
        if self._poll_result is not None:
            self._poll_result.cancel()
        self.poll()

    # Schedule ---------------------------------------------------------------------------------------------

    def _wait(self) -> float:
        """Return the seconds until the next poll is due. Zero or less means now."""
        now = self._now()
        if self.failures:
            since, delay = self._last_attempt, self._back_off()
        else:
            since, delay = max(self._last_update(), self._last_success), POLL_INTERVAL
        # A time in the future is wrong, and must not put polls off.
        due = since + delay if since <= now else now
        wanted = self._wanted(now)
        if wanted > (self._began if self._began <= now else 0.0):
            due = min(due, wanted)
        return max(due, self._postponed_until) - now

    def _back_off(self) -> float:
        """Return the delay after the last of the present failures (seconds)."""
        later = self.failures - self._early_failures
        if later <= 0:
            return START_BACK_OFF[self.failures - 1]
        return BACK_OFF[min(later, len(BACK_OFF)) - 1]

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running and not self._polling and self._can_ask:
            # At most one hour at a time: the moment is one of Unix time, from which the clock of the timer drifts.
            self._timer = self._clock.callLater(min(max(self._wait(), 1.0), POLL_INTERVAL), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.poll_if_stale()

    # Outcomes ---------------------------------------------------------------------------------------------

    def _succeeded(self, event: Input) -> None:
        self.failures = self._postponements = 0
        self._last_success = self._now()
        self._apply(event)

    def _postpone(self, named: float | None, first: float = DEFAULT_RETRY_AFTER) -> None:
        """Delay the next poll because the endpoint refuses polls for now. This does not count as a failure (F26).

        ``named``: the delay that it named (seconds), which counts within its clamp; without one, the delay is ``first``
        and doubles with each further refusal in a row (spec 12.4).
        """
        now = self._now()
        # It has told nothing: what wanted it wants it still.
        self._began = self._began_before
        self._postponements += 1
        own = growing_delay(self._postponements, first, LONGEST_POSTPONEMENT)
        self._postponed_until = now + clamped_delay(named, own, first)
        self._last_attempt = now

    def _count(self, reason: str) -> None:
        self.failures += 1
        self._postponements = 0
        self._last_attempt = now = self._now()
        if self.failures == 1:
            self._early_failures = 0
        is_start = not self._last_success and 0 <= now - self._started < START_TIME
        if is_start and not self._wanted(now):  # else the state has a rhythm of its own
            self._early_failures = min(self.failures, len(START_BACK_OFF))
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
        again, self._again = self._again, False
        if isinstance(result, Failure):
            error = result.value
            if isinstance(error, CancelledError):
                pass
            elif isinstance(error, CredentialUnavailable):
                if not error.hard:  # A hard error is already in the state, and a poll would not help.
                    self._count(str(error))
            elif isinstance(error, ControlError):
                self._count(f"usage endpoint: {error}")
            else:
                self.log.failure("{tag}: usage poll failed", failure=result, tag=self._tag)
                self._count("usage poll failed unexpectedly")
        if again:
            self.poll_unless_postponed()
        self._arm()


async def ask_repeatedly(fetch: Fetch, request: ControlRequest, clock: IReactorTime) -> Answer:
    """Return the answer to ``request``, after up to three attempts. Raises ControlError when none was answered."""
    for delay in RETRY_DELAYS:
        try:
            return await fetch(request, TIMEOUT)
        except ControlError:
            await deferLater(clock, delay)
    return await fetch(request, TIMEOUT)
