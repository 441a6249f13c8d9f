"""The error of connections that are carried inside another connection, when the outer connection is lost."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost


class CarrierConnectionLost(ConnectionLost):
    """The carrier was lost, and all connections inside it with it; none of these was the cause."""
