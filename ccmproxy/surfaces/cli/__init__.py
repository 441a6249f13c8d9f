"""The ``ccmproxy`` command: check a configuration, make a token, query a running instance, run the demo.

Each command prints its result to standard output and error messages to standard error, and exits with 0 or 1 (2: wrong
usage; 130: interrupted). Each has its own module, which adds its parser.
"""

from __future__ import annotations

from ccmproxy.surfaces.cli.entry import main

__all__ = ["main"]
