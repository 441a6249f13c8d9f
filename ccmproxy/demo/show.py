"""``ccmproxy demo``: the proxy in front of a simulated upstream, to try by hand or with a scripted set of requests.

Everything but the upstream is real: accounts with credential files in a temporary directory, users, and a service for
each dialect, built from a configuration. All traffic stays on the loopback address.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from ccmproxy.demo.outcome import report
from ccmproxy.demo.script import SCRIPT
from ccmproxy.demo.stage import Demo
from ccmproxy.root.logs import daemon_observer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ccmproxy demo``."""
    parser.add_argument(
        "--once", action="store_true", help="send a scripted set of requests, show what happened, end"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=None,
        metavar="N",
        help="where the proxy listens, for Codex on the next port, as somebody else's instance on the one after that"
        " (8080; with --once on free ports)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. Returns the exit status: 0, or 1 if a scripted request had an unexpected outcome."""
    port = arguments.port if arguments.port is not None else (None if arguments.once else 8080)
    verdict: list[bool] = []

    async def main(reactor: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="ccmproxy-demo-") as directory:
            demo = Demo(reactor, Path(directory), port)
            await demo.start()
            try:
                if arguments.once:
                    verdict.append(report([await step(demo) for step in SCRIPT]))
                else:
                    # Ctrl-C stops the reactor, which waits for the trigger's Deferred.
                    reactor.addSystemEventTrigger("before", "shutdown", demo.end)
                    print(demo.invitation(), flush=True)
                    await Deferred()
            finally:
                await demo.stop()

    if not arguments.once:
        globalLogBeginner.beginLoggingTo([daemon_observer(None, "info", "text")], redirectStandardIO=False)
    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    except SystemExit as ending:
        if ending.code:
            return 1
    return 0 if not arguments.once or verdict == [True] else 1
