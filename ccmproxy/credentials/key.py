"""An account that is a key of the provider's commercial API (spec 3.7). It needs no refreshes and no polls."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream
from ccmproxy.dialects.oauth import ApiKey, Authorization
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.state.availability import Caps
from ccmproxy.state.inputs import TimePassed, TokenAvailable

#: Plan weight of a key for which the configuration sets none (spec 3.7).
DEFAULT_WEIGHT = 1.0


@implementer(ICredential)
class KeyAccount(Credential):
    """An API key from the configuration. It is usable after :meth:`start` unless the upstream reports its limits used
    up.

    A key in a login file belongs to a :class:`.LoginAccount` instead, because that file may hold a login again at any
    time.
    """

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

    def start(self) -> None:
        """Make the account usable. Idempotent."""
        self._running = True
        self._apply(self._available())

    def stop(self) -> Deferred[None]:
        """Stop the timer. Leases stay valid until they are closed; closing the connections is left to the caller."""
        self._running = False
        self._disarm()
        return succeed(None)

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Apply a reloaded configuration. Requests in flight go on unless a new cap is already reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        self._apply(self._available() if self._running else TimePassed())

    def _available(self) -> TokenAvailable:
        return TokenAvailable(DEFAULT_WEIGHT if self._plan_weight is None else self._plan_weight)

    def poll_if_stale(self) -> None:
        """Do nothing: no endpoint reports the usage of a key."""

    async def authorize(self) -> Authorization:
        """Return the key."""
        return self._key

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Raise CredentialUnavailable, since there is only one key."""
        raise CredentialUnavailable("the upstream refused the API key")

    @property
    def upstream(self) -> Upstream:
        """The API that accepts keys."""
        return self._upstream

    def close_connections(self) -> None:
        """Close idle connections now, and the others when their requests are done."""
        self._upstream.connections.close()
