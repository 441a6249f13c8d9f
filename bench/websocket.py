"""``python -m bench.websocket``: our WebSocket codec beside autobahn's, function by function; a few seconds.

autobahn decides when it is imported whether it uses its native code: without it, it is measured in a process of its
own. Each figure is the quickest of several runs, so that other programs on the machine matter little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import USES_NVX
from autobahn.websocket.utf8validator import Utf8Validator
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]  # one of two
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from bench.bodies import turn_message
from ccmproxy.websocket.connection import Connection
from ccmproxy.websocket.masking import NATIVE_MASK, mask_in_python
from ccmproxy.websocket.utf8 import is_utf8

KIB = 1024
MIB = 1024 * KIB

#: What is measured, and by whom it is done.
TABLES: Mapping[str, Sequence[str]] = {
    "masking": ("ours, in Python", "ours, native", "autobahn, native", "autobahn, in Python"),
    "UTF-8 check": ("ours", "autobahn, native", "autobahn, in Python"),
    "message in, message out": ("ours", "autobahn, native", "autobahn, in Python"),
}

_KEY = b"\x37\xfa\x21\x3d"
_SIZES = (16, 128, 300, KIB, 4 * KIB, 16 * KIB, 64 * KIB, MIB)
_MESSAGE_SIZES = (16, 300, 4 * KIB, 64 * KIB, MIB)
#: As much as Twisted reads at once.
_READ = 64 * KIB
#: How often each measurement is made; the quickest counts.
_FEWEST_RUNS = 3
_MOST_RUNS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One function at work: in which row of which table, and in which column, it stands."""

    table: str
    row: str
    column: str
    call: Callable[[], object]


#: Seconds of one call, by table, row and column.
Results = Mapping[tuple[str, str, str], float]


def size_name(size: int) -> str:
    """A size in bytes, as people say it."""
    if size >= MIB:
        return f"{size // MIB} MiB"
    return f"{size // KIB} KiB" if size >= KIB else f"{size} B"


def texts() -> dict[str, bytes]:
    """What is checked for being UTF-8, by name."""
    found = {}
    for size in (300, MIB):
        found[f"{size_name(size)}, ASCII"] = b"x" * size
        # A sixth of its words are not ASCII.
        found[f"{size_name(size)}, mixed"] = _cut(turn_message(size + 10_000)[5000:], size)
        found[f"{size_name(size)}, Japanese"] = _cut("日本語".encode() * (size // 9 + 1), size)
    return found


def _cut(text: bytes, size: int) -> bytes:
    """So many bytes of it, or a little less: the last character is whole."""
    return text[:size].decode("utf-8", "ignore").encode()


def our_cases() -> Iterator[Case]:
    """What we do."""
    for size in _SIZES:
        data, row = os.urandom(size), size_name(size)
        yield Case("masking", row, "ours, in Python", partial(mask_in_python, data, _KEY))
        if NATIVE_MASK is not None:
            yield Case("masking", row, "ours, native", partial(NATIVE_MASK, data, _KEY))
    for name, text in texts().items():
        yield Case("UTF-8 check", name, "ours", partial(is_utf8, text))
    for size in _MESSAGE_SIZES:
        message, reads = _message(size)
        yield Case(
            "message in, message out",
            size_name(size),
            "ours",
            partial(_through_ours, Connection(None), reads, message),
        )


def _through_ours(server: Connection, reads: list[bytes], message: bytes) -> None:
    for read in reads:
        server.receive(read)
        while server.next_event() is not None:
            pass
    server.send_message(message, True)


def autobahn_cases(column: str) -> Iterator[Case]:
    """What autobahn does, with or without its native code, as this process has it."""
    for size in _SIZES:
        yield Case("masking", size_name(size), column, partial(_autobahn_mask, os.urandom(size)))
    validator = Utf8Validator()
    for name, text in texts().items():
        yield Case("UTF-8 check", name, column, partial(_autobahn_check, validator, text))
    for size in _MESSAGE_SIZES:
        message, reads = _message(size)
        yield Case(
            "message in, message out",
            size_name(size),
            column,
            partial(_through_autobahn, _autobahn_server(), reads, message),
        )


def _autobahn_mask(data: bytes) -> None:
    create_xor_masker(_KEY, len(data)).process(data)


def _autobahn_check(validator: Any, text: bytes) -> None:
    validator.reset()
    validator.validate(text)


def _through_autobahn(server: WebSocketServerProtocol, reads: list[bytes], message: bytes) -> None:
    for read in reads:
        server.dataReceived(read)
    server.sendMessage(message)


def _message(size: int) -> tuple[bytes, list[bytes]]:
    """A text, and the reads in which a client's message of it comes."""
    text = b"x" * size
    wire = Connection(lambda: _KEY).send_message(text, True)
    return text, [wire[at : at + _READ] for at in range(0, len(wire), _READ)]


class _Sink(StringTransport):
    """Forgets what is written."""

    def write(self, data: bytes) -> None:
        pass


def _autobahn_server() -> WebSocketServerProtocol:
    server = WebSocketServerProtocol()
    server.factory = WebSocketServerFactory(reactor=Clock())
    server.factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
    server.makeConnection(_Sink())
    server.dataReceived(
        b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return server


def measure(call: Callable[[], object], seconds: float) -> float:
    """Seconds of one call: of the quickest of several runs, which take ``seconds`` together; of three at least."""
    began = time.perf_counter()
    call()
    best = max(time.perf_counter() - began, 1e-9)
    calls = max(1, int(seconds / _MOST_RUNS / best))
    end = began + seconds
    runs = 0
    while runs < _FEWEST_RUNS or (runs < _MOST_RUNS and time.perf_counter() < end):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - began) / calls)
        runs += 1
    return best


def measure_all(cases: Iterator[Case], seconds: float) -> dict[tuple[str, str, str], float]:
    """Seconds of one call, by table, row and column."""
    return {(case.table, case.row, case.column): measure(case.call, seconds) for case in cases}


def table(name: str, results: Results) -> str:
    """Microseconds of one call, as Markdown; "-" where something was not measured."""
    columns = TABLES[name]
    rows = dict.fromkeys(row for found, row, _ in results if found == name)
    lines = [f"| {name}, µs | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for row in rows:
        cells = [
            _microseconds(results[name, row, column]) if (name, row, column) in results else "-"
            for column in columns
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _microseconds(seconds: float) -> str:
    """To three significant digits."""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the tables. Exit status: 0; 1 where autobahn cannot be run without its native code."""
    parser = argparse.ArgumentParser("python -m bench.websocket", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=0.01, help="of one run; each is made five times (0.01)"
    )
    parser.add_argument("--autobahn-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.autobahn_only:
        found = measure_all(autobahn_cases("autobahn, in Python"), options.seconds)
        print(json.dumps([[*key, value] for key, value in found.items()]))
        return 0
    results = measure_all(our_cases(), options.seconds)
    if USES_NVX:
        results |= measure_all(autobahn_cases("autobahn, native"), options.seconds)
    command = [sys.executable, "-m", "bench.websocket", "--autobahn-only", f"--seconds={options.seconds}"]
    environment = {**os.environ, "AUTOBAHN_USE_NVX": "0"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(ran.stderr, file=sys.stderr)
        return 1
    results |= {(name, row, column): value for name, row, column, value in json.loads(ran.stdout)}
    print("\n\n".join(table(name, results) for name in TABLES))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
