"""Connections that travel within another one: how they are lost with it."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost


class CarrierConnectionLost(ConnectionLost):
    """The connection beneath is gone, and with it all that it carried: it was nothing that one of them did."""
