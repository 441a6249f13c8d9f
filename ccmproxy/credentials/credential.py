"""What every credential has in common: its state, whoever holds it, whoever looks at it (spec 5).

State changes are pure (:mod:`ccmproxy.state.transitions`); here an input is put in and the effects are carried out.
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
from ccmproxy.state.limits import LimitsUpdate
from ccmproxy.state.transitions import (
    Blocked,
    HeadersObserved,
    Input,
    Interrupt,
    Log,
    Notify,
    RateLimited,
    Rejected,
    TimePassed,
    transition,
)

#: The timer for changes that time makes by itself looks again at least this often (seconds): the wall clock may be set.
LONGEST_TIMER = 3600.0
#: An answer that says the same as the one before, within so long of it, is not looked at again (seconds).
OBSERVED_TWICE = 10.0
#: How long a remote that refuses us is left alone (seconds): one poll interval (spec 4.4).
REJECTION = 3600.0
#: Views for so many models are kept; their names come from clients.
MOST_VIEWS = 16


class _View(NamedTuple):
    """A snapshot, and for which time it holds (Unix seconds): from ``at`` on, before ``until``."""

    snapshot: CredentialSnapshot
    at: float
    until: float


class Credential(ABC):
    """State, leases and listeners of one credential; a base for those that know how to authorize a request.

    ``leases``: those that are not closed yet; ``outcomes``: how many were closed with each outcome.
    """

    log = Logger()
    is_external = False

    def __init__(
        self, tag: str, caps: Caps, clock: IReactorTime, now: Callable[[], float] | None = None
    ) -> None:
        """``now``: Unix seconds; left out, ``clock`` tells them."""
        self.tag = tag
        self.caps = caps
        self.state = CredentialState()
        self.leases: set[Lease] = set()
        self.outcomes: Counter[LeaseOutcome] = Counter()
        self._clock = clock
        self._now: Callable[[], float] = now or clock.seconds
        self._running = False
        self._timer: IDelayedCall | None = None
        self._listeners: dict[object, Callable[[], None]] = {}
        self._views: dict[str | None, _View] = {}
        self._observed: LimitsUpdate | None = None
        self._observed_state: CredentialState | None = None
        self._views_of: tuple[CredentialState, Caps] = (self.state, caps)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tag} {self._availability().state} in_flight={self.in_flight}>"

    # What the kinds do in their own ways ------------------------------------------------------------------

    @property
    @abstractmethod
    def upstream(self) -> Upstream:
        """Where requests go, unless :meth:`authorize` says otherwise."""

    @abstractmethod
    async def authorize(self) -> Authorization:
        """What to send requests with. Raises CredentialUnavailable where there is nothing."""

    @abstractmethod
    async def recover(self, rejected: Authorization) -> Authorization:
        """Something else than ``rejected``, which the upstream refused (spec 3.4). Raises CredentialUnavailable where
        there is nothing else."""

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Where requests go that are sent with ``authorization``."""
        return self.upstream

    @abstractmethod
    def poll_if_stale(self) -> None:
        """Start a poll if what is known is old. Returns at once."""

    def poll_if_unusable(self) -> None:  # noqa: B027 - most kinds are not asked out of turn
        """Start a poll if the credential cannot be used, where that may tell anything (spec 5.5)."""

    # ICredential ------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many requests hold the credential."""
        return len(self.leases)

    def snapshot(self, now: float, model: str | None = None) -> CredentialSnapshot:
        """A frozen view; ``model`` takes windows of one model into account.

        The same object as long as nothing has changed: it is asked for with every request and every answer.
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
            # The words for an unusable one tell how long it still takes, and no timer knows the windows of a model.
            until = min(until, math.floor(now) + 1.0)
        if len(self._views) >= MOST_VIEWS:
            self._views.clear()
        self._views[model] = _View(view, now, until)
        return view

    def lease(self, holder: Hashable = None) -> ILease:
        """Begin a use. ``holder``: who may interrupt it."""
        lease = Lease(self, holder)
        self.leases.add(lease)
        return lease

    def interrupt(self, holder: Hashable, cause: Availability) -> None:
        """Interrupt the leases of ``holder``, as if the credential had stopped being usable."""
        for lease in [lease for lease in self.leases if lease.holder == holder]:
            lease.interrupt(cause)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    # What leases ask for ----------------------------------------------------------------------------------

    def observe(self, update: LimitsUpdate) -> None:
        """State learnt from an answer."""
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
        """The upstream answered 429 on account of the whole credential."""
        self._apply(RateLimited(until, explicit))

    def block(self, reason: str, until: float) -> None:
        """Not to be used until then (Unix seconds)."""
        self._apply(Blocked(reason, until))

    def reject(self) -> None:
        """Not to be used for one poll interval, or until a poll succeeds (spec 4.4)."""
        self._apply(Rejected(self._now() + REJECTION))

    def is_usable(self) -> bool:
        """Can it take a request now?"""
        return self._availability().usable

    def release(self, lease: Lease) -> None:
        """Called by a lease that was closed."""
        self.leases.discard(lease)
        if lease.outcome is not None:
            self.outcomes[lease.outcome] += 1

    # State ------------------------------------------------------------------------------------------------

    def _availability(self) -> Availability:
        return availability(self.state, self.caps, self._now())

    def _apply(self, event: Input) -> None:
        """Move the state, and carry out what follows from it."""
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
        """A timer for what time changes by itself: resets that pass, blocks that end."""
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
