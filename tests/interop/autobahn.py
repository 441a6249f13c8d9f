"""The Autobahn test suite's fuzzing client against the side of a WebSocket relay that clients see.

``python -m tests.interop.autobahn WSTEST`` runs it by hand, and prints what docs/websocket-conformance.md shows.

The suite's cases need an echo, which no upstream of ours is: ccmproxy stands in front of one that is made of
autobahn, and must pass on whatever comes. ``CCMPROXY_INTEROP_DIR`` (see :mod:`tests.interop.claude_cli`) may hold
``autobahn``, a virtual environment of Python 2.7 with ``autobahntestsuite`` in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txaio.tx import make_logger

from ccmproxy.config import load_text
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from tests.interop.claude_cli import NOT_ASKED_FOR, interop_directory, run_program

#: What the suite says of a case that is not a failure, and of how its connection was closed.
GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
GOOD_CLOSE = frozenset({"OK", "INFORMATIONAL", "FAILED BY CLIENT"})

CATEGORIES: Mapping[int, str] = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "close handling",
    9: "limits and performance",
    10: "automatic fragmentation",
    12: "compression",
    13: "compression with parameters",
}

#: Seconds that all cases together may take; most of that is the suite's own work.
TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Result:
    """Of one case: its number as the suite writes it, what the suite says of it, and of the close."""

    number: str
    behavior: str
    close: str
    code: int | None

    @property
    def category(self) -> int:
        """The first part of the number."""
        return int(self.number.split(".")[0])

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong."""
        return self.behavior in GOOD and self.close in GOOD_CLOSE

    def __str__(self) -> str:
        return f"{self.number}: {self.behavior}, close {self.close} ({self.code})"


class _Echo(WebSocketServerProtocol):
    """Says every message back."""

    log = make_logger("error")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(payload, isBinary)


def echo_factory(reactor: Any) -> WebSocketServerFactory:
    """Serves echoes, which leave it to the other side when to close."""
    factory = WebSocketServerFactory(reactor=reactor)
    factory.protocol = _Echo
    factory.setProtocolOptions(
        failByDrop=False, echoCloseCodeReason=True, openHandshakeTimeout=0, closeHandshakeTimeout=0
    )
    return factory


def find_wstest() -> str:
    """The suite's program. Raises LookupError, which says why there is none."""
    directory = interop_directory()
    if directory is None:
        raise LookupError(NOT_ASKED_FOR)
    program = directory / "autobahn" / "bin" / "wstest"
    if not program.is_file():
        raise LookupError(f"the Autobahn test suite is not installed in {directory / 'autobahn'}")
    return str(program)


async def run_cases(reactor: Any, wstest: str, cases: Sequence[str], directory: Path) -> list[Result]:
    """Run the cases, such as ``7.*``, and leave the suite's report in ``directory``. Raises RuntimeError."""
    echo = reactor.listenTCP(0, echo_factory(reactor), interface="127.0.0.1")
    entry = {
        "type": "ocm",
        "listen": "127.0.0.1",
        "listen_port": 0,
        "credentials": [{"tag": "key", "api_key": "a-key-that-nobody-checks"}],
        "upstream": {"api_url": f"http://127.0.0.1:{echo.getHost().port}"},
    }
    config = load_text(json.dumps({"services": [entry]}), "autobahn")
    service = ProxyService(config, Surroundings.of_reactor(reactor, random.SystemRandom()))
    service.startService()
    try:
        (running,) = service.services.values()
        assert running.port is not None
        port = running.port.getHost().port  # type: ignore[attr-defined]
        report = directory / "report"
        spec = {
            "outdir": str(report),
            "servers": [{"agent": "ccmproxy", "url": f"ws://127.0.0.1:{port}/v1/responses"}],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        file = directory / "fuzzingclient.json"
        file.write_text(json.dumps(spec))
        command = [wstest, "-m", "fuzzingclient", "-s", str(file)]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory)}
        outcome = await run_program(reactor, command, environment, directory, TIMEOUT)
        index = report / "index.json"
        if outcome.code != 0 or not index.is_file():
            raise RuntimeError(f"wstest ended with {outcome.code}: {outcome.output}{outcome.errors}"[-2000:])
        return _results(json.loads(index.read_text()))
    finally:
        await service.stopService()
        await (echo.stopListening() or _done())


async def _done() -> None:
    """Nothing to wait for."""


def _results(index: dict[str, Any]) -> list[Result]:
    (cases,) = index.values()
    found = [
        Result(number, case["behavior"], case["behaviorClose"], case["remoteCloseCode"])
        for number, case in cases.items()
    ]
    return sorted(found, key=lambda result: [int(part) for part in result.number.split(".")])


def table(results: Sequence[Result]) -> str:
    """Counts by category, as Markdown, and below it whatever is not an ordinary pass."""
    lines = [
        "| category | cases | passed | non-strict | informational | failed |",
        "|---|---|---|---|---|---|",
    ]
    groups = [(f"{n} {name}", [r for r in results if r.category == n]) for n, name in CATEGORIES.items()]
    for name, group in [*groups, ("all", list(results))]:
        if group:
            counts = Counter(result.behavior if result.is_good else "FAILED" for result in group)
            cells = [counts[kind] for kind in ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED")]
            lines.append(f"| {name} | {len(group)} | {' | '.join(map(str, cells))} |")
    unusual = [str(r) for r in results if r.behavior != "OK" or r.close != "OK"]
    return "\n".join([*lines, "", *unusual])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.autobahn", description=__doc__)
    parser.add_argument("wstest", metavar="WSTEST", help="the suite's program")
    parser.add_argument("--cases", default="*", metavar="LIST", help="such as 1.*,7.*; all, if left out")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep the suite's own report here")
    arguments = parser.parse_args()
    wstest = str(Path(arguments.wstest).absolute())
    directory = Path(arguments.directory or tempfile.mkdtemp(prefix="ccmproxy-autobahn-")).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    failed: list[Result] = []

    async def run(reactor: Any) -> None:
        results = await run_cases(reactor, wstest, arguments.cases.split(","), directory)
        print(table(results))
        print(f"\nThe suite's own report: {directory / 'report' / 'index.html'}")
        failed.extend(result for result in results if not result.is_good)

    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    except SystemExit as ending:
        if ending.code:
            raise
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
