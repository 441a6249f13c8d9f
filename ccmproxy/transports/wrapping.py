"""Connecting in two steps: another endpoint makes the connection, then a handshake is done on it.

:mod:`.tls` uses it for TLS, :mod:`.tunnel` for the tunnel of a proxy.
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
    """The protocol of the connection below: it does the handshake, and then serves the requested protocol.

    It reports the result to its :class:`Connecting`.
    """

    def negotiate() -> None:
        """Begin the handshake; called once the connection is made."""

    def abortConnection() -> None:
        """Drop the connection at once."""


def _unchanged(reason: Failure) -> Failure:
    return reason


@implementer(IProtocolFactory)
class Connecting:
    """One call of ``connect`` of an endpoint with a handshake, until its Deferred fires. It is the protocol factory
    for the endpoint below.

    ``is_over``: the Deferred has fired or was cancelled; a later connection is not wanted any more.
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
        """``factory``: builds the requested protocol. ``negotiator``: makes the protocol below, which negotiates.

        ``timeout``: seconds for the negotiation; after that, ``connect`` fails with ``timed_out``. ``explain``: turns
        a failure of the endpoint below into the failure of ``connect``.
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
        """Connect through the endpoint ``below``. Cancelling the result closes the connection at once."""
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
        negotiator = cast(INegotiator, protocol)  # made by buildProtocol
        if self.is_over:
            negotiator.abortConnection()
            return
        self._negotiator = negotiator
        self._deadline = self._clock.callLater(self._timeout, self._time_out, negotiator)
        negotiator.negotiate()

    def _not_connected(self, reason: Failure) -> None:
        self.failed(self._explain(reason))

    # Called by the negotiator

    def established(self, transport: IByteStream) -> IProtocol | None:
        """Build and return the requested protocol: the negotiation has succeeded.

        The caller connects the protocol to ``transport``, and then calls :meth:`succeeded`. Return None when the
        connection is not wanted: ``transport`` was aborted, and ``connect`` failed with ConnectionLost unless it was
        over.
        """
        protocol = None if self.is_over else self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            self.failed(Failure(ConnectionLost("nobody wants the connection")))
        return protocol

    def succeeded(self, protocol: IProtocol) -> None:
        """Fire ``connect`` with ``protocol``, which is connected."""
        if not self.is_over:
            self._finish()
            self._result.callback(protocol)

    def failed(self, reason: Failure) -> None:
        """Make ``connect`` fail with ``reason``, unless it is over."""
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
