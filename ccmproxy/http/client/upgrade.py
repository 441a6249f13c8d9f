"""A connection to an upstream that has switched to another protocol (RFC 9110 section 7.8)."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure


class SwitchedConnection:
    """A connection after a 101, as given out by
    :meth:`ConnectionPool.upgrade <ccmproxy.http.client.connection_pool.ConnectionPool.upgrade>`.

    Reading is paused until :meth:`hand_over`, and bytes that have arrived are kept. The recipient must hand the
    connection over or abort it, as it no longer belongs to a pool.
    """

    __slots__ = ("_early", "_lost", "_successor", "_transport")

    def __init__(self, transport: Any, early: bytes) -> None:
        """``transport``: the transport that HTTP used; ``early``: bytes received after the 101."""
        self._transport = transport
        self._early = early
        self._lost: Failure | None = None
        self._successor: IProtocol | None = None
        transport.pauseProducing()

    def hand_over(self, successor: IProtocol) -> None:
        """Connect ``successor`` to the transport, and pass it the bytes that have arrived."""
        self._successor = successor
        successor.makeConnection(self._transport)
        early, self._early = self._early, b""
        if early:
            successor.dataReceived(early)
        if self._lost is not None:
            successor.connectionLost(self._lost)
        else:
            self._transport.resumeProducing()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._early = b""
        self._transport.abortConnection()

    # What the HTTP protocol passes on

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the successor, or keep them until there is one."""
        if self._successor is None:
            self._early += data
        else:
            self._successor.dataReceived(data)

    def connection_lost(self, reason: Failure) -> None:
        """Pass the loss of the connection to the successor, now or when there is one."""
        self._lost = reason
        if self._successor is not None:
            self._successor.connectionLost(reason)
