"""The ``ccmproxy`` command: check a configuration, make a token, look at a running instance, see it all work.

Each command prints what was asked for to standard output and sentences about what went wrong to standard error, and
ends with 0 or 1 (2: wrong usage; 130: interrupted). Each has a module of its own, which adds its parser.
"""

from __future__ import annotations

from ccmproxy.surfaces.cli.entry import main

__all__ = ["main"]
