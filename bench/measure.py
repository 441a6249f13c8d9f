"""Performs measurements: starts upstream, peer and load, and reads the CPU clocks between the load's signals."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import bodies
from bench.certificates import HOST, Certificates
from bench.children import Child, ChildFailed, pause
from bench.compile import Programs
from bench.machine import Cores, core_busy_seconds, cpu_seconds, free_port, resident_kib
from bench.peers import Peer, Target
from bench.report import Measurement
from bench.scenarios import Scenario

#: Name of the connection without a proxy.
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements of a run share. ``directory``: for configurations, logs and requests."""

    programs: Programs
    certificates: Certificates
    cores: Cores
    directory: Path
    #: Nice value of every process that is started.
    nice: int
    #: Called with a line about each measurement.
    say: Callable[[str], None]

    def run(
        self, scenario: Scenario, peers: Sequence[Peer], direct: bool, rounds: int
    ) -> Iterator[Measurement]:
        """Measure each peer in each round, the peers of a round one after the other."""
        with ExitStack() as stack:
            upstream, target = stack.enter_context(self._upstream(scenario))
            requests = self._write_requests(scenario)
            running: dict[str, tuple[Child, int] | str] = {}
            peers = [each for each in peers if (each.websocket if scenario.websocket else each.http)]
            for number in range(1, rounds + 1):
                if direct and not scenario.memory:
                    yield self._attempt(scenario, number, DIRECT, target, requests[DIRECT], None, upstream)
                for peer in peers:
                    with ExitStack() as round_stack:
                        # A peer is kept for the whole scenario, except where its memory is measured.
                        owner = round_stack if scenario.memory else stack
                        if scenario.memory or peer.name not in running:
                            running[peer.name] = self._start(owner, scenario, number, peer, target)
                        started = running[peer.name]
                        if isinstance(started, str):
                            measurement = Measurement(scenario.name, peer.name, number, note=started)
                            self.say(f"{scenario.name:10} {peer.name:9} {started}")
                        else:
                            child, port = started
                            measurement = self._attempt(
                                scenario,
                                number,
                                peer.name,
                                Target(port, None),
                                requests["proxy" if peer.replaces_token else DIRECT],
                                child,
                                upstream,
                            )
                        yield measurement

    @contextmanager
    def _upstream(self, scenario: Scenario) -> Iterator[tuple[Child, Target]]:
        port = free_port()
        arguments: list[str | Path] = [self.programs.upstream, "--port", str(port), *scenario.upstream]
        if scenario.tls:
            files = self.certificates
            arguments += ["--tls-certificate", files.certificate, "--tls-key", files.key]
        log = self.directory / f"upstream-{scenario.name}.log"
        with Child(arguments, self.cores.upstream, log, talks=True, nice=self.nice) as child:
            child.read_line(10)
            yield child, Target(port, self.certificates.ca if scenario.tls else None, scenario.websocket)
            child.ask_to_end()
            if leaked := json.loads(child.read_line(5))["unreplaced"]:
                self.say(
                    f"{scenario.name}: {leaked} requests reached the upstream with the client's own token"
                )

    def _write_requests(self, scenario: Scenario) -> dict[str, Path]:
        """The files with the requests: one for a proxy, one for the upstream directly (with the upstream's token)."""
        if scenario.websocket:
            body = bodies.turn_message(1_000_000 if scenario.body == "large" else 300)
        elif scenario.body == "small":
            body = bodies.small_body()
        else:
            streamed = scenario.upstream[1] != "json"
            body = bodies.conversation_body(1_000_000 if scenario.body == "large" else 49_000, streamed)
        files = {}
        for name, token in (("proxy", bodies.CLIENT_TOKEN), (DIRECT, bodies.UPSTREAM_TOKEN)):
            files[name] = self.directory / f"request-{scenario.name}-{name}"
            whole = bodies.websocket_request if scenario.websocket else bodies.request
            files[name].write_bytes(whole(body, token))
        return files

    def _start(
        self, stack: ExitStack, scenario: Scenario, number: int, peer: Peer, target: Target
    ) -> tuple[Child, int] | str:
        """The running peer and its port, or why it does not run."""
        directory = self.directory / f"{scenario.name}-{peer.name}-{number}"
        directory.mkdir()
        port = free_port()
        start = peer.prepare(directory, port, target)
        log = directory / f"{peer.name}.log"
        child = stack.enter_context(
            Child(start.arguments, self.cores.proxy, log, environment=start.environment, nice=self.nice)
        )
        try:
            child.await_port(port)
            if scenario.websocket:
                _check_websocket(port, bodies.CLIENT_TOKEN if peer.replaces_token else bodies.UPSTREAM_TOKEN)
            elif scenario.upstream[1] != "hold":
                _check_until(port, peer.warm_up)
        except (ChildFailed, OSError, http.client.HTTPException, ValueError) as error:
            child.stop()
            return _one_line(error)
        return child, port

    def _attempt(
        self,
        scenario: Scenario,
        number: int,
        name: str,
        target: Target,
        request: Path,
        proxy: Child | None,
        upstream: Child,
    ) -> Measurement:
        try:
            measurement = self._measure(scenario, number, name, target, request, proxy, upstream)
        except ChildFailed as error:
            measurement = Measurement(scenario.name, name, number, note=_one_line(error))
        self.say(_describe(measurement))
        return measurement

    def _measure(
        self,
        scenario: Scenario,
        number: int,
        name: str,
        target: Target,
        request: Path,
        proxy: Child | None,
        upstream: Child,
    ) -> Measurement:
        arguments: list[str | Path] = [
            self.programs.load,
            *("--mode", scenario.load, "--port", str(target.port), "--request", request),
            *("--connections", str(scenario.connections), "--seconds", str(scenario.seconds)),
            *("--warmup-ms", str(scenario.warmup_ms)),
            *("--count", str(scenario.count), "--warmup-count", str(scenario.warmup_count)),
        ]
        if target.ca:
            arguments += ["--tls-ca", target.ca, "--tls-name", HOST]
        log = self.directory / f"load-{scenario.name}-{name}-{number}.log"
        with Child(arguments, self.cores.load, log, talks=True, nice=self.nice) as load:
            watched = [child for child in (proxy, upstream, load) if child is not None]
            load.read_line()  # "ready", or for churn "open": the warm-up is over
            before_kib = None
            if scenario.memory and proxy is not None:
                pause(scenario.settle)
                before_kib = resident_kib(proxy.pid)
            readings = _Readings(watched, self.cores)
            load.proceed()
            if scenario.load == "hold":
                load.read_line()
            else:
                result = json.loads(load.read_line(120))
            readings.finish()
            if scenario.memory:
                pause(scenario.settle)
            after_kib = resident_kib(proxy.pid) if proxy else None
            if scenario.load == "hold":
                load.proceed()
                result = json.loads(load.read_line())
            load.proceed()
        counted = {
            "requests": result["completed"],
            "streams": result["events"],
            "churn": result["completed"] + result["broken_off"],
            "hold": result["open"],
        }[scenario.load]
        notes = [str(result["first_error"])] if result["first_error"] else []
        if scenario.load == "requests" and result["reconnects"]:
            notes.append(f"{result['reconnects']} connections not kept alive")
        if scenario.load in ("streams", "hold") and result["open"] != scenario.connections:
            notes.append(f"{result['open']} of {scenario.connections} streams were open at the end")
        timed = scenario.load in ("requests", "streams")
        return Measurement(
            scenario=scenario.name,
            peer=name,
            round=number,
            units=counted * scenario.units_per_count,
            seconds=result["seconds"],
            proxy_cpu_seconds=readings.used(proxy) if proxy else None,
            proxy_share=readings.share(proxy) if proxy else None,
            load_share=readings.share(load),
            upstream_share=readings.share(upstream),
            foreign_share=readings.foreign_share(proxy) if proxy else None,
            p50_ms=result["p50_ms"] if timed else None,
            p99_ms=result["p99_ms"] if timed else None,
            rss_kib=after_kib,
            rss_before_kib=before_kib,
            errors=result["errors"],
            note="; ".join(notes),
        )


class _Readings:
    """CPU time of the children, and of the proxy's core, from construction to ``finish``."""

    def __init__(self, children: Sequence[Child], cores: Cores) -> None:
        self._children = children
        self._cores = cores
        self._at_start, self._core_at_start = self._read()
        self._began = time.perf_counter()

    def finish(self) -> None:
        """Read the clocks again."""
        self._at_end, self._core_at_end = self._read()
        self._seconds = time.perf_counter() - self._began

    def used(self, child: Child) -> float:
        """Seconds of CPU time that ``child`` used."""
        return self._at_end[child] - self._at_start[child]

    def share(self, child: Child) -> float:
        """CPU time of ``child`` per second."""
        return self.used(child) / self._seconds

    def foreign_share(self, proxy: Child) -> float | None:
        """Share of the proxy's core that other processes used; None where the proxy has no core of its own."""
        if self._cores.proxy in (self._cores.load, self._cores.upstream):
            return None
        return max(0.0, (self._core_at_end - self._core_at_start - self.used(proxy)) / self._seconds)

    def _read(self) -> tuple[dict[Child, float], float]:
        children = {child: cpu_seconds(child.pid) for child in self._children}
        return children, core_busy_seconds(self._cores.proxy)


def _check(port: int) -> None:
    """Send one request through the peer, so that the measurement does not measure errors."""
    whole = bodies.request(bodies.small_body())
    head, _, body = whole.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    headers["Connection"] = "close"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/messages?beta=true", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            answer = response.read(300).decode(errors="replace")
            raise ValueError(f"the first request was answered {response.status}: {answer}")
        response.read(1000)
    finally:
        connection.close()


def _check_until(port: int, seconds: float) -> None:
    """The same, repeated for up to ``seconds`` while it fails."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            _check(port)
            return
        except (OSError, http.client.HTTPException, ValueError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)  # noqa: TID251 - no reactor here


def _check_websocket(port: int, token: str) -> None:
    """The same for a WebSocket handshake."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(bodies.websocket_request(b"", token))
        answer = b""
        while b"\r\n" not in answer and (data := connection.recv(1000)):
            answer += data
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ValueError(f"the first handshake was answered {answer[:300].decode(errors='replace')}")


def _one_line(error: Exception) -> str:
    """The error on one line, short enough for a table."""
    text = " ".join(str(error).replace("|", "/").split())
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-140:]}"


def _describe(measurement: Measurement) -> str:
    parts = [f"{measurement.scenario:10} {measurement.peer:9} round {measurement.round}"]
    if measurement.rate:
        parts.append(f"{measurement.rate:12,.1f} units/s")
    if measurement.cpu_ms_per_unit is not None:
        parts.append(f"{measurement.cpu_ms_per_unit:9.4f} CPU ms each")
    if measurement.rss_growth_kib is not None:
        parts.append(f"{measurement.rss_growth_kib:8,.0f} KiB more")
    if measurement.errors:
        parts.append(f"{measurement.errors} errors")
    if measurement.note:
        parts.append(measurement.note)
    return "  ".join(parts)
