"""Registers ``twistd ccmproxy`` with Twisted. The implementation is in :mod:`ccmproxy.root.tap`."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

ccmproxy = ServiceMaker(
    "ccmproxy",
    "ccmproxy.root.tap",
    "One address for a team's Claude Code and Codex clients, over your own accounts.",
    "ccmproxy",
)
