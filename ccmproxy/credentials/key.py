"""An account that is a key of the provider's commercial API (spec 3.7). It needs no refreshes and no polls."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream
from ccmproxy.dialects.oauth import ApiKey, Authorization
from ccmproxy.interfaces.credentials import ICredential, RefreshNotForced
from ccmproxy.policy.delays import growing_delay
from ccmproxy.state.availability import Caps
from ccmproxy.state.inputs import TimePassed, TokenAvailable, TokenUnavailable

#: Plan weight of a key for which the configuration sets none (spec 3.7).
DEFAULT_WEIGHT = 1.0
#: How long a key that the upstream refuses is left alone, which doubles, and the longest such time (seconds). As there
#: is nothing to poll, requests find out then whether it is good again.
FIRST_REFUSAL = 60.0
LONGEST_REFUSAL = 600.0


@implementer(ICredential)
class KeyAccount(Credential):
    """An API key from the configuration. It is usable after :meth:`start` unless the upstream reports its limits used
    up.

    A key in a login file belongs to a :class:`.LoginAccount` instead, because that file may hold a login again at any
    time.
    """

    log = Logger()
    is_api_key = True

    def __init__(
        self,
        tag: str,
        key: ApiKey,
        upstream: Upstream,
        clock: IReactorTime,
        *,
        caps: Caps = Caps(),  # noqa: B008 - frozen
        plan_weight: float | None = None,
        now: Callable[[], float],
    ) -> None:
        """``upstream``: the API that accepts keys. ``now`` returns Unix seconds."""
        super().__init__(tag, caps, clock, now)
        self._key = key
        self._upstream = upstream
        self._plan_weight = plan_weight
        #: How often in a row the upstream has refused the key, and the timer that ends the time without it.
        self._refusals = 0
        self._pause: IDelayedCall | None = None

    def start(self) -> None:
        """Make the account usable. Idempotent."""
        self._running = True
        self._apply(self._available())

    def stop(self) -> Deferred[None]:
        """Stop the timer. Leases stay valid until they are closed; closing the connections is left to the caller."""
        self._running = False
        self._disarm()
        self._end_pause()
        return succeed(None)

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Apply a reloaded configuration. Requests in flight go on unless a new cap is already reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        self._apply(self._available() if self._running and self._pause is None else TimePassed())

    def _available(self) -> TokenAvailable:
        return TokenAvailable(DEFAULT_WEIGHT if self._plan_weight is None else self._plan_weight)

    def poll_if_stale(self) -> None:
        """Do nothing: no endpoint reports the usage of a key."""

    async def authorize(self) -> Authorization:
        """Return the key."""
        return self._key

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Raise RefreshNotForced, since there is only one key."""
        raise RefreshNotForced("the upstream refused the API key")

    async def prove(self, authorization: Authorization) -> bool | None:
        """Return None: nobody can be asked whether a key is good."""
        return None

    def proved(self, authorization: Authorization) -> None:
        """Note that a model request was served with the key."""
        self._refusals = 0
        if self._pause is not None:
            self._use_again()

    def login_refused(self, authorization: Authorization, sentence: str) -> None:
        """Note that the upstream refuses the key: it is left alone for a while (spec 12.3). ``sentence``: the
        provider's."""
        if not self._running or self._pause is not None:
            return
        self._refusals += 1
        seconds = growing_delay(self._refusals, FIRST_REFUSAL, LONGEST_REFUSAL)
        self._pause = self._clock.callLater(seconds, self._use_again)
        said = f' ("{sentence}")' if sentence else ""
        problem = f"the upstream refuses this API key{said}: ask the operator of this proxy for another one"
        self.log.error(
            "{tag}: {problem}; next try in {wait:g} s", tag=self.tag, problem=problem, wait=seconds
        )
        self._apply(TokenUnavailable(problem, ends_requests=False))

    def _use_again(self) -> None:
        self._end_pause()
        self._apply(self._available())

    def _end_pause(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None and pause.active():
            pause.cancel()

    @property
    def upstream(self) -> Upstream:
        """The API that accepts keys."""
        return self._upstream

    def close_connections(self) -> None:
        """Close idle connections now, and the others when their requests are done."""
        self._upstream.connections.close()
