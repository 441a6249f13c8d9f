"""The base class of all credentials: their state, their leases and their listeners (spec 5).

State changes are pure functions (:mod:`ccmproxy.state.transitions`); this module feeds inputs to them and carries out
the effects that they return.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ccmproxy.credentials.destination import Upstream
from ccmproxy.credentials.lease import Lease
from ccmproxy.dialects.oauth import Authorization
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import (
    Availability,
    Caps,
    CredentialSnapshot,
    CredentialState,
    availability,
    next_change,
    snapshot,
)
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import (
    ClockSet,
    HeadersObserved,
    Input,
    Interrupt,
    Leased,
    Log,
    Notify,
    Poll,
    RateLimited,
    Rejected,
    RequestGaveUp,
    RequestSent,
    RequestServed,
    TimePassed,
)
from ccmproxy.state.limits import LimitsUpdate
from ccmproxy.state.transitions import transition

#: Longest delay of the timer for changes that time alone causes (seconds). It is bounded because the clocks drift
#: apart: the moment is one of Unix time, and the timer runs on the monotonic clock.
LONGEST_TIMER = 3600.0
#: An answer with the same limits as the previous one is ignored for this long after it (seconds).
OBSERVED_TWICE = 10.0
#: How long a remote instance that refused a request is not used (seconds): one poll interval (spec 4.4).
REJECTION = 3600.0
#: Most models for which snapshots are cached. It is bounded because the names of models come from clients.
MOST_VIEWS = 16


class _View(NamedTuple):
    """A cached snapshot. It is valid from ``at`` until just before ``until`` (Unix seconds)."""

    snapshot: CredentialSnapshot
    at: float
    until: float


class Credential(ABC):
    """State, leases and listeners of one credential. Subclasses know how to authorize a request.

    ``leases``: the leases that are still open. ``outcomes``: how many leases were closed with each outcome.
    """

    log = Logger()
    is_external = False

    def __init__(self, tag: str, caps: Caps, clock: IReactorTime, now: Callable[[], float]) -> None:
        """``clock``: the monotonic clock, for timers. ``now`` returns Unix seconds."""
        self.tag = tag
        self.caps = caps
        self.state = CredentialState()
        self.leases: set[Lease] = set()
        self.outcomes: Counter[LeaseOutcome] = Counter()
        self._clock = clock
        self._now = now
        self._running = False
        self._timer: IDelayedCall | None = None
        self._listeners: dict[object, Callable[[], None]] = {}
        self._views: dict[str | None, _View] = {}
        self._observed: LimitsUpdate | None = None
        self._observed_state: CredentialState | None = None
        self._views_of: tuple[CredentialState, Caps] = (self.state, caps)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tag} {self._availability().state} in_flight={self.in_flight}>"

    # What subclasses implement ----------------------------------------------------------------------------

    @property
    def is_api_key(self) -> bool:
        """Whether requests are sent with a key of the operator's, not with a login."""
        return False

    @property
    def is_account(self) -> bool:
        """Whether it is an account with a login: what keys and remote instances answer is no second opinion."""
        return not self.is_external and not self.is_api_key

    @property
    @abstractmethod
    def upstream(self) -> Upstream:
        """The upstream that requests go to. For a given authorization, :meth:`upstream_for` may return another one."""

    @abstractmethod
    async def authorize(self) -> Authorization:
        """Return the authorization to send requests with. Raises CredentialUnavailable when there is none."""

    @abstractmethod
    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Return another authorization than ``rejected``, which the upstream refused (spec 3.4). Raises
        CredentialUnavailable when there is no other."""

    async def prove(self, authorization: Authorization) -> bool | None:
        """Return whether this very authorization is known to be good, although the upstream has refused it for one
        request (spec 12.3); None: nobody could say. What cannot be refreshed or asked about is not."""
        return False

    def proved(self, authorization: Authorization) -> None:  # noqa: B027 - only logins remember it
        """Note that a model request was served with this authorization."""

    def login_refused(self, authorization: Authorization, sentence: str) -> None:  # noqa: B027 - likewise
        """Note that the upstream goes on refusing this authorization. ``sentence``: the provider's."""

    def is_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether a 401 for such a request is known to be about the request, whatever the login."""
        return False

    def remember_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> None:  # noqa: B027
        """Note that a 401 for such a request is about the request alone."""

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Return the upstream for requests that are sent with ``authorization``."""
        return self.upstream

    @abstractmethod
    def poll_if_stale(self) -> None:
        """Start a poll if the known usage is out of date. Returns at once."""

    def poll_now(self) -> None:  # noqa: B027 - a key has nothing to ask
        """Start a poll, unless one is in progress: what was learnt contradicts what is known. Returns at once."""

    def turns_away(self, asked: Combination, is_warm: bool, now: float) -> bool:
        """Whether a request for ``asked`` does not go here at present (Unix seconds), although the windows have room.

        ``is_warm``: its session was served here within the last minutes (spec 12.2).
        """
        holds = self.state.holds
        return not holds.is_empty and holds.turns_away(asked, is_warm, now)

    def free_at(self, asked: Combination, now: float) -> float:
        """When a rest of ``asked`` ends here (Unix seconds); 0: it does not rest."""
        holds = self.state.holds
        return 0.0 if holds.is_empty else holds.free_at(asked, now)

    def poll_if_unusable(self) -> None:  # noqa: B027 - most kinds are not asked out of turn
        """Start a poll if the credential is unusable and a poll may show that it has recovered (spec 5.5)."""

    # ICredential ------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """The number of requests that hold a lease on the credential."""
        return len(self.leases)

    def snapshot(self, now: float, model: str | None = None) -> CredentialSnapshot:
        """Return an immutable view of the state at ``now`` (Unix seconds). With ``model``, it includes the windows of
        that model.

        Returns the same object as long as nothing has changed, since every request and every answer asks for it.
        """
        state = self.state
        if not (state.limits.models or state.limits.named or state.model_rejections):
            model = None
        if self._views_of[0] is not state or self._views_of[1] is not self.caps:
            self._views.clear()
            self._views_of = state, self.caps
        known = self._views.get(model)
        if known is not None and known.at <= now < known.until:
            return known.snapshot
        view = snapshot(state, self.caps, now, tag=self.tag, is_external=self.is_external, model=model)
        until = next_change(state, self.caps, now) or math.inf
        if model is not None or not view.availability.usable:
            # The message of an unusable credential tells the remaining time in seconds, and next_change() does not
            # include the windows of a model.
            until = min(until, math.floor(now) + 1.0)
        if len(self._views) >= MOST_VIEWS:
            self._views.clear()
        self._views[model] = _View(view, now, until)
        return view

    def lease(self, holder: Hashable = None) -> ILease:
        """Open a lease. ``holder`` is the key by which :meth:`interrupt` finds it."""
        lease = Lease(self, holder)
        self.leases.add(lease)
        if self.state.refused is not None:
            self._apply(Leased())
        return lease

    def interrupt(self, holder: Hashable, cause: Availability) -> None:
        """Interrupt the leases of ``holder`` as if the credential had become unusable because of ``cause``."""
        for lease in [lease for lease in self.leases if lease.holder == holder]:
            lease.interrupt(cause)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that is visible in the status. Returns a function that unsubscribes."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    # What leases call -------------------------------------------------------------------------------------

    def observe(self, update: LimitsUpdate) -> None:
        """Take over the limits that an answer reported."""
        if not (update.has_data or update.rejected_until or update.model_rejections):
            return
        if (
            update == self._observed
            and self.state is self._observed_state
            and 0 <= self._now() - self.state.last_update < OBSERVED_TWICE
        ):
            return
        self._apply(self._observation(update))
        self._observed, self._observed_state = update, self.state

    def _observation(self, update: LimitsUpdate) -> Input:
        return HeadersObserved(update)

    def rate_limited(self, until: float, explicit: bool) -> None:
        """Note that the upstream answered 429 for the whole credential. ``until``: Unix seconds; ``explicit``: the
        upstream named that time."""
        self._apply(RateLimited(until, explicit))

    def learn(self, event: Input) -> None:
        """Take over what a request's outcome tells of the credential."""
        self._apply(event)

    def sending(self, asked: Combination) -> None:
        """Note that a request for ``asked`` is about to be sent."""
        if not self.state.holds.is_empty:
            self._apply(RequestSent(asked))

    def gave_up(self, asked: Combination) -> None:
        """Note that a request for ``asked`` came to nothing that tells anything of the credential."""
        if not self.state.holds.is_empty:
            self._apply(RequestGaveUp(asked))

    def served(self, asked: Combination, sent_at: float, is_model_request: bool) -> None:
        """Note that the upstream has served a request that was sent at ``sent_at`` (Unix seconds)."""
        state = self.state
        if (
            state.refusals
            or state.refused is not None
            or state.rate_limited_until
            or state.model_rejections
            or state.cannot_serve
            or not state.holds.is_empty
        ):
            self._apply(RequestServed(asked, sent_at, is_model_request))

    @property
    def identity(self) -> str:
        """Whose login it is: id of the account or organization (spec 12.5, F33); empty = not known."""
        return self.state.organization

    def reject(self) -> None:
        """Do not use the credential for one poll interval, or until a poll succeeds (spec 4.4)."""
        self._apply(Rejected(self._now() + REJECTION))

    def is_usable(self) -> bool:
        """Return whether the credential can serve a request now."""
        return self._availability().usable

    def release(self, lease: Lease) -> None:
        """Forget ``lease``. Called by the lease when it is closed."""
        self.leases.discard(lease)
        if lease.outcome is not None:
            self.outcomes[lease.outcome] += 1

    # State ------------------------------------------------------------------------------------------------

    def clock_set(self, by: float) -> None:
        """Note that ``now`` was set by ``by`` seconds: the times of our own move with it (spec 11)."""
        self._apply(ClockSet(by))

    def _availability(self) -> Availability:
        return availability(self.state, self.caps, self._now())

    def _apply(self, event: Input) -> None:
        """Apply ``event`` to the state and carry out the effects of the transition."""
        self.state, effects = transition(self.state, event, self._now(), self.caps)
        self._arm()
        for effect in effects:
            match effect:
                case Log(message):
                    self.log.info("{tag}: {change}", tag=self.tag, change=message)
                case Interrupt(cause):
                    for lease in list(self.leases):
                        lease.interrupt(cause)
                case Notify():
                    self._notify()
                case Poll():
                    self.poll_now()

    def _notify(self) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener()
            except Exception:
                self.log.failure("{tag}: telling a change failed", tag=self.tag)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Set a timer for the next change that time alone causes, such as a reset or the end of a block."""
        self._disarm()
        if not self._running:
            return
        now = self._now()
        moment = next_change(self.state, self.caps, now)
        if moment is not None:
            self._timer = self._clock.callLater(min(moment - now, LONGEST_TIMER), self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        self._apply(TimePassed())
