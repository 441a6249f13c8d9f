"""``python -m bench.soak``: run, print the table, write JSON; the exit status tells whether all is as it must be."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from bench import machine
from bench.soak.daemon_process import DaemonFailed
from bench.soak.disturbances import IN_NAMESPACE
from bench.soak.run import Options, Soak, say
from bench.soak.summary import counts, details, document, table


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of load (60)")
    parser.add_argument("--seed", type=int, default=1, help="decides requests, faults and disturbances (1)")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("clock", "disk"),
        help="leave this disturbance out; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the result")
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    return parser.parse_args(arguments)


def _enter_namespace(arguments: Sequence[str]) -> None:
    """Go on in a mount namespace of our own, where one can be had: what is mounted there ends with us."""
    if os.environ.get(IN_NAMESPACE) or shutil.which("unshare") is None:
        return
    for options in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *options, "--propagation", "private"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            os.environ[IN_NAMESPACE] = "1"
            os.execvp(command[0], [*command, sys.executable, "-m", "bench.soak", *arguments])


async def _main(reactor: Any, options: argparse.Namespace) -> None:
    began = datetime.datetime.now(datetime.UTC)
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ccmproxy-soak-"))
        if options.keep:
            say(f"configurations and logs: {directory}")
        else:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        soak = Soak(
            reactor,
            Options(options.minutes * 60.0, options.seed, directory, frozenset(options.without), say),
        )
        try:
            rows = await soak.run()
        except DaemonFailed as error:
            say(str(error))
            raise SystemExit(1) from None
    if options.json is not None:
        facts = {
            "began": began.isoformat(timespec="seconds"),
            "minutes": options.minutes,
            "seed": options.seed,
            "without": options.without,
            "machine": machine.describe(),
            "samples": {
                name: [(round(at), round(figure, 1)) for at, figure in samples]
                for name, samples in soak.samples.items()
            },
        }
        options.json.write_text(
            json.dumps(document(rows, soak.tally, facts), indent=1, ensure_ascii=False) + "\n"
        )
    print(table(rows))
    print(f"\n{counts(soak.tally)}")
    if told := details(rows):
        print(f"\n{told}")
    if any(row.bad for row in rows):
        raise SystemExit(1)


def main(arguments: Sequence[str]) -> None:
    """Run. Exits with 0 if every figure is what it must be, else with 1."""
    options = _arguments(arguments)
    _enter_namespace(arguments)
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, options)))


if __name__ == "__main__":
    main(sys.argv[1:])
