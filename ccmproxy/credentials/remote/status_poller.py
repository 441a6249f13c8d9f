"""Polls of the status of a remote instance (spec 5.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ccmproxy.credentials.control import Fetch
from ccmproxy.credentials.credential import REJECTION
from ccmproxy.credentials.polling import POLL_INTERVAL, Poller, ask_repeatedly
from ccmproxy.dialects.oauth import AnswerMalformed, ControlRequest
from ccmproxy.dialects.remote import RemoteStatus, read_status
from ccmproxy.http.retry_after import parse_retry_after
from ccmproxy.policy.delays import growing_delay
from ccmproxy.state.availability import CredentialState
from ccmproxy.state.inputs import Input

#: How often a remote that has rejected a request is polled, to see whether it would serve again (seconds, spec 14).
REJECTED_POLL_INTERVAL = 300.0
#: How soon a remote is polled again that knew no figures yet (seconds, spec 14). The time doubles, as one that has API
#: keys alone will never know any.
UNKNOWN_POLL_INTERVAL = 10.0


class PolledRemote(Protocol):
    """A remote instance, as its poller uses it."""

    tag: str
    state: CredentialState

    @property
    def can_be_asked(self) -> bool:
        """Whether the state of the remote can and should be requested."""

    def status_request(self) -> ControlRequest:
        """Return the request of a poll."""

    def polled(self, status: RemoteStatus) -> None:
        """Take over the state that a poll has returned."""


class StatusPoller(Poller):
    """Polls the state of a remote: at the start, when the route to it changes, and when the known state is out of date.
    More often while the remote is not used because it rejected a request, or while it knows no figures itself.

    ``unknown_polls``: how many polls in a row were answered without figures; 0 if these came in another way.
    """

    log = Logger()

    def __init__(
        self,
        remote: PolledRemote,
        fetch: Fetch,
        clock: IReactorTime,
        apply: Callable[[Input], None],
        now: Callable[[], float],
    ) -> None:
        """``apply`` is passed each counted failure. ``now`` returns Unix seconds."""
        super().__init__(remote.tag, clock, apply, lambda: remote.state.last_update, now, self._due_early)
        self._remote = remote
        self._fetch = fetch
        self.unknown_polls = 0

    def _due_early(self, now: float) -> float:
        """See ``wanted`` of Poller."""
        if (until := self._remote.state.rejected_until) > now:
            return max(self.last_began, until - REJECTION) + REJECTED_POLL_INTERVAL
        if not self.unknown_polls:
            return 0.0
        return self.last_began + growing_delay(self.unknown_polls, UNKNOWN_POLL_INTERVAL, POLL_INTERVAL)

    @property
    def _can_ask(self) -> bool:
        return self._remote.can_be_asked

    async def _poll(self) -> None:
        answer = await ask_repeatedly(self._fetch, self._remote.status_request(), self._clock)
        if answer.status == 429:
            delay = parse_retry_after(answer.headers.get("retry-after"), self._now())
            self._postpone(delay)
        elif answer.status != 200:
            self._count(f"the remote's status endpoint answered {answer.status}")
        else:
            try:
                status = read_status(answer.body)
            except AnswerMalformed as error:
                self._count(str(error))
                return
            self._last_success = self._now()
            self._postponements = 0
            self.unknown_polls += 1  # the remote ends the row, where there are figures
            self._remote.polled(status)
