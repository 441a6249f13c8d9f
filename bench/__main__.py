"""``python -m bench``: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.certificates import make_certificates
from bench.compile import CannotBuild, Programs, build_programs
from bench.measure import DIRECT, Bench
from bench.peers import Ccmproxy, CcmproxyByURL, CcmproxyReverse, Go, Haproxy, Nginx, Peer, Relay
from bench.report import Measurement, as_document, memory_table, summarize, work_table
from bench.scenarios import SCENARIOS, Scenario, named, shortened

_RESULTS = Path(__file__).parent / "results"
_PEERS = (DIRECT, Nginx.name, Haproxy.name, Go.name, Relay.name, Ccmproxy.name)
#: Peers that are measured only on request: they show the cost of borrowing.
_MORE_PEERS = (CcmproxyByURL.name, CcmproxyReverse.name)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description="Measure ccmproxy beside other proxies.")
    parser.add_argument(
        "--quick", action="store_true", help="one short round: a first impression in two minutes"
    )
    parser.add_argument("--rounds", type=int, help="rounds per scenario (3, with --quick 1)")
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        choices=[each.name for each in SCENARIOS],
        help=f"only this one; may be repeated: {', '.join(each.name for each in SCENARIOS)}",
    )
    parser.add_argument(
        "--peers",
        default=",".join(_PEERS),
        metavar="LIST",
        help=f"separated by commas: {', '.join((*_PEERS, *_MORE_PEERS))}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write the result (bench/results/…)"
    )
    parser.add_argument(
        "--twistd-options", default="", metavar="OPTIONS", help='for ccmproxy, e.g. "--reactor=poll"'
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="run ccmproxy under cProfile; statistics go there (slows it down)",
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        metavar="N",
        help="nice value of everything measured; below 0 needs root",
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    parsed = parser.parse_args(arguments)
    parsed.peers = [name.strip() for name in parsed.peers.split(",") if name.strip()]
    for name in parsed.peers:
        if name not in (*_PEERS, *_MORE_PEERS):
            parser.error(f"unknown peer {name!r}: known are {', '.join((*_PEERS, *_MORE_PEERS))}")
    return parsed


@dataclass(frozen=True, slots=True)
class _Selection:
    peers: list[Peer]
    direct: bool
    scenarios: list[Scenario]
    #: What is not measured, and why.
    skipped: list[str]


def _select(options: argparse.Namespace, programs: Programs) -> _Selection:
    known: list[Peer] = [
        Nginx(),
        Haproxy(),
        Go(programs.go_proxy),
        Relay(programs.relay),
        *(
            kind(shlex.split(options.twistd_options), options.profile)
            for kind in (Ccmproxy, CcmproxyByURL, CcmproxyReverse)
        ),
    ]
    peers, skipped = [], []
    for peer in known:
        if peer.name not in options.peers:
            continue
        if reason := peer.missing():
            skipped.append(f"{peer.name}: {reason}")
        else:
            peers.append(peer)
    scenarios = named(options.scenario)
    if programs.without_tls:
        skipped.append(f"scenarios with TLS: {programs.without_tls}")
        scenarios = [each for each in scenarios if not each.tls]
    if options.quick:
        scenarios = [shortened(each) for each in scenarios]
    return _Selection(peers, DIRECT in options.peers, scenarios, skipped)


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the selected benchmarks. Exit status: 0; 1 if nothing can be measured; 130 when interrupted."""
    options = _arguments(arguments)
    if missing := [name for name in ("setpriv", "taskset") if shutil.which(name) is None]:
        _say(f"{' and '.join(missing)} missing: install util-linux (and run this on Linux)")
        return 1
    try:
        programs = build_programs()
    except CannotBuild as error:
        _say(str(error))
        return 1
    selection = _select(options, programs)
    for line in selection.skipped:
        _say(f"skipped: {line}")
    rounds = options.rounds or (1 if options.quick else 3)
    cores = machine.assign_cores()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    began = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    measurements: list[Measurement] = []
    interrupted = False
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ccmproxy-bench-"))
        if options.keep:
            _say(f"configurations and logs: {directory}")
        else:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        bench = Bench(programs, make_certificates(directory, began), cores, directory, options.nice, _say)
        try:
            for scenario in selection.scenarios:
                measurements.extend(bench.run(scenario, selection.peers, selection.direct, rounds))
        except KeyboardInterrupt:
            interrupted = True
            _say("interrupted")
    summaries = summarize(measurements, cores.shared)
    for scenario in selection.scenarios:
        chosen = [each for each in summaries if each.scenario == scenario.name]
        if chosen:
            print(f"\n### {scenario.name}: {scenario.title}\n")
            print(
                memory_table(chosen, scenario.unit[0])
                if scenario.memory
                else work_table(chosen, *scenario.unit)
            )
    facts: dict[str, object] = {
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 1),
        "machine": machine.describe(),
        "versions": {peer.name: peer.version() for peer in selection.peers},
        "pinning": {"proxy": cores.proxy, "upstream": cores.upstream, "load": cores.load},
        "rounds": rounds,
        "quick": options.quick,
        "nice": options.nice,
        "twistd_options": options.twistd_options,
        "profiled": options.profile is not None,
        "skipped": selection.skipped,
    }
    if measurements:
        path = options.json or _RESULTS / f"{began:%Y%m%dT%H%M%SZ}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(as_document(measurements, summaries, facts), indent=1) + "\n")
        _say(f"\n{facts['seconds']} s; written to {path}")
    if interrupted:
        return 130
    return 0 if measurements else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
