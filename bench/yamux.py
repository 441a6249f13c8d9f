"""``python -m bench.yamux``: our yamux sessions beside hashicorp/yamux's, under the same load, in one run."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.children import Child, ChildFailed
from bench.compile import build_go_yamux

#: Description of each scenario, and its unit of work.
SCENARIOS: Mapping[str, tuple[str, str]] = {
    "up": ("one stream to the server", "MiB"),
    "up-100": ("100 streams to the server at a time", "MiB"),
    "down": ("one stream from the server", "MiB"),
    "down-100": ("100 streams from the server at a time", "MiB"),
    "trip": ("a byte there and back on one stream", "round trip"),
    "trip-100": ("the same on 100 streams at a time", "round trip"),
    "open": ("open a stream, a byte there and back, close it", "stream"),
    "open-100": ("the same, 100 at a time", "stream"),
}
#: The measured servers; the load is Go's own client for both.
PEERS = ("go", "ccmproxy")


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement, or the medians of several.

    ``rate``: units per second; ``cpu``: microseconds of the server's CPU time per unit; ``p50``, ``p99``: microseconds
    of a round trip, 0 where there is none.
    """

    rate: float
    cpu: float
    p50: float
    p99: float


def medians(figures: Sequence[Figures]) -> Figures:
    """The median of each figure by itself."""
    return Figures(*(statistics.median(column) for column in zip(*map(_columns, figures), strict=True)))


def _columns(figures: Figures) -> tuple[float, float, float, float]:
    return figures.rate, figures.cpu, figures.p50, figures.p99


def table(results: Mapping[tuple[str, str], Figures]) -> str:
    """A Markdown table by scenario and peer; the last column is the ratio of our CPU time to Go's."""
    lines = [
        "| scenario | per second, go | ccmproxy | CPU in µs per unit, go | ccmproxy | p50 / p99 in µs, go | ccmproxy"
        " | CPU ccmproxy / go |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (_, unit) in SCENARIOS.items():
        if any((name, peer) not in results for peer in PEERS):
            continue
        go, ours = (results[name, peer] for peer in PEERS)
        trips = [f"{each.p50:,.0f} / {each.p99:,.0f}" if each.p50 else "-" for each in (go, ours)]
        lines.append(
            f"| `{name}`, {unit} | {go.rate:,.0f} | {ours.rate:,.0f} | {go.cpu:,.1f} | {ours.cpu:,.1f}"
            f" | {trips[0]} | {trips[1]} | {ours.cpu / go.cpu:.2f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Run:
    """What all measurements share."""

    program: Path
    directory: Path
    cores: machine.Cores
    seconds: float
    nice: int

    def measure(self, peer: str, scenario: str) -> Figures:
        """Measure one scenario on a new server. Raises ChildFailed."""
        port = machine.free_port()
        server: list[str | Path] = [self.program, "-listen", f"127.0.0.1:{port}"]
        if peer == "ccmproxy":
            server = [sys.executable, "-m", "bench.yamux_server", str(port)]
        load: list[str | Path] = [self.program, "-connect", f"127.0.0.1:{port}", "-scenario", scenario]
        load += ["-seconds", str(self.seconds)]
        log = self.directory / f"{scenario}-{peer}"
        with Child(server, self.cores.proxy, log.with_suffix(".server"), nice=self.nice) as serving:
            serving.await_port(port)
            with Child(
                load, self.cores.load, log.with_suffix(".load"), talks=True, nice=self.nice
            ) as loading:
                loading.read_line()
                before = machine.cpu_seconds(serving.pid)
                loading.proceed()
                found = json.loads(loading.read_line())
                used = machine.cpu_seconds(serving.pid) - before
        units = max(found["units"], 1e-9)
        return Figures(units / found["seconds"], used * 1e6 / units, found["p50_us"], found["p99_us"])


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments select. Exit status: 0; 1 if nothing can be measured."""
    parser = argparse.ArgumentParser("python -m bench.yamux", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over these (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement (3)")
    parser.add_argument(
        "--scenario", action="append", choices=[*SCENARIOS], help="only this one; may be repeated"
    )
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="nice value of everything measured")
    options = parser.parse_args(arguments)
    program = build_go_yamux()
    if isinstance(program, str):
        print(program, file=sys.stderr)
        return 1
    results = {}
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ccmproxy-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        run = _Run(program, directory, machine.assign_cores(), options.seconds, options.nice)
        for scenario in options.scenario or SCENARIOS:
            rounds: dict[str, list[Figures]] = {peer: [] for peer in PEERS}
            for _ in range(options.rounds):
                for peer in PEERS:
                    try:
                        rounds[peer].append(run.measure(peer, scenario))
                    except ChildFailed as error:
                        print(f"{scenario} {peer}: {error}", file=sys.stderr)
                        return 1
            for peer, figures in rounds.items():
                results[scenario, peer] = medians(figures)
                print(f"{scenario:9} {peer:9} {results[scenario, peer]}", file=sys.stderr, flush=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
