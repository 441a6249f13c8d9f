"""``python -m bench.hostile``: how long one user waits while another one sends bodies that are made to take time (F63).

One user asks for something small, every few milliseconds, whether the answers before have come or not: time in which
the proxy does nothing else is time that every request waits which falls into it. Meanwhile another user sends, on a few
connections, one hostile body after the other, each as soon as the one before was answered. The first row is without
them. Whatever the answer to a hostile body is, it counts as one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench import machine
from bench.bodies import CLIENT_TOKEN
from bench.children import Child, ChildFailed
from bench.compile import CannotBuild, build_programs
from bench.peers import Ccmproxy, Target
from bench.report import figure, table

#: Seconds between two requests of the user who waits.
_INTERVAL = 0.005
#: Connections of the hostile user.
_CONNECTIONS = 3
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kind:
    """What is sent. ``make``: the bytes of one request, or of many."""

    name: str
    make: Callable[[], bytes]


def _post(body: bytes, coding: str = "") -> bytes:
    named = f"Content-Encoding: {coding}\r\n" if coding else ""
    head = (
        "POST /v1/responses HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {CLIENT_TOKEN}\r\n{named}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _list(element: bytes, size: int) -> bytes:
    return b'{"model":"m","input":[%b%b]}' % ((element + b",") * (size // (len(element) + 1)), element)


KINDS = (
    Kind("gzip, empty members, 1 MiB", lambda: _post(gzip.compress(b"") * (_MIB // 20), "gzip")),
    Kind("list of numbers, 60 MiB", lambda: _post(_list(b"1", 60 * _MIB))),
    Kind("list of numbers, 30 MiB", lambda: _post(_list(b"1", 30 * _MIB))),
    Kind("list of numbers, 1 MiB", lambda: _post(_list(b"1", _MIB - 100))),
    Kind("list of objects, 1 MiB", lambda: _post(_list(b"{}", _MIB - 100))),
    Kind("list of texts, 30 MiB", lambda: _post(_list(b'"%b"' % (b"\\n" * 500), 30 * _MIB))),
    Kind("zstd, list of numbers, 1.5 KB", lambda: _post(zstandard.compress(_list(b"1", 15 * _MIB)), "zstd")),
    Kind("zstd, empty frames, 16 MiB", lambda: _post(zstandard.compress(b"") * (16 * _MIB // 9), "zstd")),
    Kind("2,500 requests at once", lambda: b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 2500),
    Kind("empty lines, 1 MiB", lambda: b"\r\n" * (_MIB // 2) + b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    Kind("7,000 header fields", lambda: b"GET / HTTP/1.1\r\nHost:\r\n" + b"a:\r\n" * 7000 + b"\r\n"),
)


def _answered(connection: socket.socket, answers: int) -> bool:
    """Read until so many answers have begun and nothing more comes; whether the connection may be used again."""
    connection.settimeout(120)
    found, data = 0, b""
    while True:
        received = connection.recv(65536)
        if not received:
            return False
        data = data[-8:] + received
        found += data.count(b"HTTP/1.1 ")
        if found >= answers:
            return False  # a new connection is simpler than knowing where the last answer ends


def _attack(port: int, request: bytes, seconds: float, sent: multiprocessing.Queue[int]) -> None:
    """Send the request again and again, on some connections, and tell how many were answered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    until = time.monotonic() + seconds
    answers = 2500 if request.startswith(b"GET / HTTP/1.1\r\nHost:\r\n\r\nGET") else 1
    counts = [0] * _CONNECTIONS

    def go(number: int) -> None:
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", port), 120) as connection:
                    connection.sendall(request)
                    _answered(connection, answers)
            except OSError:
                pass  # refused before the body was read
            counts[number] += 1

    threads = [threading.Thread(target=go, args=(number,), daemon=True) for number in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 10)
    sent.put(sum(counts))


def _latencies(port: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each small request from when it was due, and how many were not answered with 200."""
    request = _post(json.dumps({"model": "m", "input": "quota"}).encode())
    times: list[float] = []
    failed = 0
    lock = threading.Lock()
    free: list[socket.socket] = []
    began = time.perf_counter()

    def ask(due: float) -> None:
        nonlocal failed
        try:
            with lock:
                connection = free.pop() if free else None
            connection = connection or socket.create_connection(("127.0.0.1", port), 120)
            connection.settimeout(120)
            connection.sendall(request)
            is_good = connection.recv(65536).startswith(b"HTTP/1.1 200")
        except OSError:
            is_good, connection = False, None
        with lock:
            times.append((time.perf_counter() - began - due) * 1000)
            failed += not is_good
            if is_good and connection is not None:
                free.append(connection)

    threads = []
    for number in range(int(seconds / _INTERVAL)):
        due = number * _INTERVAL
        time.sleep(max(0.0, due - (time.perf_counter() - began)))  # noqa: TID251 - no reactor here
        thread = threading.Thread(target=ask, args=(due,), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(120)
    for connection in free:
        connection.close()
    return times, failed


def _row(name: str, port: int, request: bytes | None, seconds: float) -> list[str]:
    answered = "-"
    sent: multiprocessing.Queue[int] = multiprocessing.Queue()
    attacker = None
    if request is not None:
        attacker = multiprocessing.Process(target=_attack, args=(port, request, seconds, sent), daemon=True)
        attacker.start()
        time.sleep(0.2)  # noqa: TID251 - no reactor here
    times, failed = _latencies(port, seconds)
    if attacker is not None:
        answered = str(sent.get(timeout=200))
        attacker.join(10)
    points = statistics.quantiles(times, n=100)
    note = f"{failed} failed" if failed else ""
    return [name, answered, figure(points[49]), figure(points[98]), figure(max(times)), note]


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table. Exit status: 0; 1 if nothing can be measured."""
    parser = argparse.ArgumentParser("python -m bench.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row (10)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows that contain this")
    parser.add_argument(
        "--nice", type=int, default=0, help="of everything; below 0 needs root, for a busy machine"
    )
    options = parser.parse_args(arguments)
    os.nice(options.nice)
    try:
        programs = build_programs()
    except CannotBuild as error:
        print(error, file=sys.stderr)
        return 1
    cores = machine.assign_cores()
    rows: list[list[str]] = []
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ccmproxy-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        upstream_port, port = machine.free_port(), machine.free_port()
        upstream = stack.enter_context(
            Child(
                [programs.upstream, "--port", str(upstream_port), "--mode", "json"],
                cores.upstream,
                directory / "upstream.log",
                talks=True,
            )
        )
        upstream.read_line(10)
        # A service of type ocm, which looks into compressed bodies too.
        start = Ccmproxy().prepare(directory, port, Target(upstream_port, None, websocket=True))
        proxy = stack.enter_context(
            Child(start.arguments, cores.proxy, directory / "ccmproxy.log", environment=start.environment)
        )
        try:
            proxy.await_port(port)
            rows.append(_row("no hostile load", port, None, options.seconds))
            for kind in KINDS:
                if not options.only or any(text in kind.name for text in options.only):
                    rows.append(_row(kind.name, port, kind.make(), options.seconds))
                    print(" ".join(rows[-1]), file=sys.stderr, flush=True)
        except ChildFailed as error:
            print(error, file=sys.stderr)
            return 1
        print(f"resident at the end: {machine.resident_kib(proxy.pid) // 1024} MiB", file=sys.stderr)
    print(table(["another user's requests", "hostile", "p50 ms", "p99 ms", "max ms", "notes"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
