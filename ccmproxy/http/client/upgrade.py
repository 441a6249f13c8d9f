"""A connection to an upstream that speaks another protocol from now on (RFC 9110 section 7.8)."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure


class SwitchedConnection:
    """What :meth:`ConnectionPool.upgrade <ccmproxy.http.client.connection_pool.ConnectionPool.upgrade>` gives on a 101.

    Nothing is read until it is handed over, and nothing that has come is lost. Whoever gets it hands it over or
    aborts it: it belongs to no pool any more.
    """

    __slots__ = ("_early", "_lost", "_successor", "_transport")

    def __init__(self, transport: Any, early: bytes) -> None:
        """``transport``: as HTTP used it; ``early``: bytes that came behind the 101."""
        self._transport = transport
        self._early = early
        self._lost: Failure | None = None
        self._successor: IProtocol | None = None
        transport.pauseProducing()

    def hand_over(self, successor: IProtocol) -> None:
        """Let ``successor`` have the connection: it is connected to the transport, and gets what came early."""
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
        """Nobody wants it."""
        self._early = b""
        self._transport.abortConnection()

    # What the HTTP protocol passes on

    def data_received(self, data: bytes) -> None:
        """More bytes, for the successor."""
        if self._successor is None:
            self._early += data
        else:
            self._successor.dataReceived(data)

    def connection_lost(self, reason: Failure) -> None:
        """The connection is gone."""
        self._lost = reason
        if self._successor is not None:
            self._successor.connectionLost(reason)
