"""Connecting in two steps: another endpoint makes the connection, then something is negotiated on it.

:mod:`.tls` puts TLS on a connection, :mod:`.tunnel` the tunnel of a proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.contract import IByteStream


class INegotiator(IProtocol):
    """The protocol on the connection below: it negotiates, and then serves the protocol that was asked for.

    It tells its :class:`Connecting` how that went.
    """

    def negotiate() -> None:
        """The connection is made: begin."""

    def abortConnection() -> None:
        """Drop the connection at once."""


def _unchanged(reason: Failure) -> Failure:
    return reason


@implementer(IProtocolFactory)
class Connecting:
    """One ``connect`` of an endpoint that negotiates, until its Deferred fires: as a factory for the endpoint below.

    ``is_over``: it has fired, or was cancelled; nobody wants the connection any more.
    """

    def __init__(
        self,
        factory: IProtocolFactory,
        clock: IReactorTime,
        negotiator: Callable[[Connecting], INegotiator],
        timeout: float,
        timed_out: Exception,
        explain: Callable[[Failure], Failure] = _unchanged,
    ) -> None:
        """``factory``: makes the protocol that was asked for. ``negotiator``: makes the one below that.

        ``timeout``: seconds for the negotiation; after that, ``connect`` fails with ``timed_out``. ``explain``: what it
        fails with where the endpoint below fails.
        """
        self._factory = factory
        self._clock = clock
        self._build_negotiator = negotiator
        self._timeout = timeout
        self._timed_out = timed_out
        self._explain = explain
        self._negotiator: INegotiator | None = None
        self._deadline: IDelayedCall | None = None
        self.is_over = False

    def begin(self, below: IStreamClientEndpoint) -> Deferred[IProtocol]:
        """Connect through ``below``. Cancelling the result closes the connection at once."""
        self._result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._below = below.connect(self)
        self._below.addCallbacks(self._connected, self._not_connected)
        return self._result

    # IProtocolFactory, for the endpoint below

    def buildProtocol(self, addr: IAddress) -> INegotiator | None:
        return None if self.is_over else self._build_negotiator(self)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def _connected(self, protocol: IProtocol) -> None:
        negotiator = cast(INegotiator, protocol)  # built above
        if self.is_over:
            negotiator.abortConnection()
            return
        self._negotiator = negotiator
        self._deadline = self._clock.callLater(self._timeout, self._time_out, negotiator)
        negotiator.negotiate()

    def _not_connected(self, reason: Failure) -> None:
        self.failed(self._explain(reason))

    # What the negotiator tells

    def established(self, transport: IByteStream) -> IProtocol | None:
        """The negotiation is done: the protocol that was asked for, to be connected; then say :meth:`succeeded`.

        None if nobody wants ``transport``: it was dropped, and ``connect`` failed with ConnectionLost, unless over.
        """
        protocol = None if self.is_over else self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            self.failed(Failure(ConnectionLost("nobody wants the connection")))
        return protocol

    def succeeded(self, protocol: IProtocol) -> None:
        """``protocol`` is connected: ``connect`` fires."""
        if not self.is_over:
            self._finish()
            self._result.callback(protocol)

    def failed(self, reason: Failure) -> None:
        """There will be no connection: ``connect`` fails, unless it is over."""
        if not self.is_over:
            self._finish()
            self._result.errback(reason)

    def _time_out(self, negotiator: INegotiator) -> None:
        self._deadline = None
        negotiator.abortConnection()
        self.failed(Failure(self._timed_out))

    def _cancelled(self, result: Deferred[IProtocol]) -> None:
        negotiator = self._negotiator
        self._finish()
        if negotiator is not None:
            negotiator.abortConnection()
        else:
            self._below.cancel()

    def _finish(self) -> None:
        self.is_over = True
        self._negotiator = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
