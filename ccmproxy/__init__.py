"""ccmproxy: one address for a team's Claude Code and Codex clients, over your own accounts."""

from __future__ import annotations

from ccmproxy._version import __version__

__all__ = ["__version__"]
