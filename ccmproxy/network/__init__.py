"""Changes of the machine's network, told by the operating system: :func:`network_monitor` is all that others need."""

from __future__ import annotations

from ccmproxy.network.choose import network_monitor

__all__ = ["network_monitor"]
