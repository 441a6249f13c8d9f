"""Monitors that report changes of the machine's network. Other packages need only :func:`network_monitor`."""

from __future__ import annotations

from ccmproxy.network.choose import network_monitor

__all__ = ["network_monitor"]
