"""Telling a WebSocket client the aggregate state, in place of the upstream's events about one account (spec 10)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from ccmproxy.interfaces.facets import IFrames
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyContext
from ccmproxy.proxy.websocket.leg import Leg


class AggregatePush:
    """Sends the aggregate to one client when started, and after each change.

    Changes within one reactor turn are sent as one. A client that does not read gets the latest state when it reads
    again. The same state is never sent twice in a row, and nothing is sent after :meth:`stop`.
    """

    __slots__ = (
        "_caller",
        "_client",
        "_context",
        "_frames",
        "_is_running",
        "_is_waiting",
        "_soon",
        "_told",
        "_unsubscribe",
    )

    def __init__(self, context: ProxyContext, frames: IFrames, caller: Caller, client: Leg) -> None:
        self._context = context
        self._frames = frames
        self._caller = caller
        self._client = client
        self._is_running = False
        self._is_waiting = False
        self._told = b""
        self._soon: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Send the state now, and subscribe to its changes. Does nothing when called again."""
        if self._is_running:
            return
        self._is_running = True
        self._unsubscribe = self._caller.provider.subscribe(self._changed)
        self._tell()

    def stop(self) -> None:
        """Send nothing more, and unsubscribe."""
        self._is_running = self._is_waiting = False
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def drained(self) -> None:
        """Send the state if it could not be sent before, as the client reads again."""
        if self._is_waiting:
            self._tell()

    def _changed(self) -> None:
        if self._soon is None and self._is_running:
            self._soon = self._context.clock.callLater(0, self._tell_now)

    def _tell_now(self) -> None:
        self._soon = None
        self._tell()

    def _tell(self) -> None:
        self._is_waiting = self._client.is_blocked
        if self._is_waiting:
            return
        whole = self._context.aggregates.aggregate_for(self._caller)
        if whole is None:
            return
        data = self._frames.aggregate(whole)
        if data != self._told:
            self._told = data
            self._client.send(data, True)
