"""An account that is a key of the provider's commercial API (spec 3.7): nothing to refresh, nothing to poll."""

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
from ccmproxy.state.transitions import TimePassed, TokenAvailable

#: Weight of a key where the configuration names none (spec 3.7).
DEFAULT_WEIGHT = 1.0


@implementer(ICredential)
class KeyAccount(Credential):
    """A key that the configuration holds. Usable from :meth:`start` on, unless the upstream says that it is used up.

    A key in the file of a login is a :class:`.LoginAccount`'s: the file may hold a login again at any time.
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
        now: Callable[[], float] | None = None,
    ) -> None:
        """``upstream``: the API for keys. ``now``: Unix seconds; left out, ``clock`` tells them."""
        super().__init__(tag, caps, clock, now)
        self._key = key
        self._upstream = upstream
        self._plan_weight = plan_weight

    def start(self) -> None:
        """Be usable. Once more changes nothing."""
        self._running = True
        self._apply(self._available())

    def stop(self) -> Deferred[None]:
        """End the timer. Leases stay valid until they are closed; connections are the caller's business."""
        self._running = False
        self._disarm()
        return succeed(None)

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Take over what a reloaded configuration says; nothing in flight is touched unless a cap was reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        self._apply(self._available() if self._running else TimePassed())

    def _available(self) -> TokenAvailable:
        return TokenAvailable(DEFAULT_WEIGHT if self._plan_weight is None else self._plan_weight)

    def poll_if_stale(self) -> None:
        """Nobody can be asked how much of a key's limits is used."""

    async def authorize(self) -> Authorization:
        """The key."""
        return self._key

    async def recover(self, rejected: Authorization) -> Authorization:
        """There is but one key. Raises CredentialUnavailable, always."""
        raise CredentialUnavailable("the upstream refused the API key")

    @property
    def upstream(self) -> Upstream:
        """The API for keys."""
        return self._upstream

    def close_connections(self) -> None:
        """Close the connections that nobody uses, and the others when they are done."""
        self._upstream.connections.close()
