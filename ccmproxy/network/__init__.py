"""Monitors that report changes of the machine's network. Other packages need only what is named here."""

from __future__ import annotations

from ccmproxy.network.address_poll import has_address
from ccmproxy.network.choose import network_monitor

__all__ = ["has_address", "network_monitor"]
