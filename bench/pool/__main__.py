"""``python -m bench.pool``: simulate, print a table per load."""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.pool.accounts import LARGE_WEEK, POOL, AccountPlan, known_plan, make_accounts
from bench.pool.demand import Session, invent, thinned
from bench.pool.policies import CONTENDERS, Contender
from bench.pool.simulation import BEGIN, WARM_UP, Simulation
from bench.pool.tables import Run, as_document, figures, load_table, plain
from ccmproxy.simulator.claude.simulated_account import PLANS

#: Team's work in percent of the capacity: a comfortable load, about all of the capacity, more than the capacity.
LOADS = (60.0, 100.0, 140.0)
#: A small pool, which few requests fill.
QUICK_POOL = ("pro", "team")


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.pool", description="Simulate a team's weeks on a pool of accounts."
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per row: seeds 1 to N (3)")
    parser.add_argument(
        "--weeks", type=int, default=4, metavar="N", help="weeks that are measured, after one more (4)"
    )
    parser.add_argument(
        "--loads",
        default=",".join(f"{load:g}" for load in LOADS),
        metavar="LIST",
        help="percent of the capacity",
    )
    parser.add_argument(
        "--pool", default=",".join(POOL), metavar="LIST", help=f"plans, of {', '.join(PLANS)}"
    )
    parser.add_argument(
        "--large-week",
        type=float,
        default=LARGE_WEEK,
        metavar="SIZE",
        help=f"week of the 20x plan relative to the Pro plan's ({LARGE_WEEK:g})",
    )
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, one week, a small pool: a few seconds"
    )
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every run there")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.seeds, parsed.weeks, parsed.pool = 1, 1, ",".join(QUICK_POOL)
    try:
        parsed.loads = [float(load) for load in parsed.loads.split(",")]
    except ValueError:
        parser.error("--loads takes numbers, separated by commas")
    if min(parsed.seeds, parsed.weeks, parsed.large_week, *parsed.loads) <= 0:
        parser.error("seeds, weeks, loads and sizes are above zero")
    parsed.plans = []
    for name in parsed.pool.split(","):
        if name not in PLANS:
            parser.error(f"unknown plan {name!r}: known are {', '.join(PLANS)}")
        parsed.plans.append(known_plan(name, parsed.large_week))
    names = [contender.name for contender in CONTENDERS]
    for name in parsed.policy:
        if name not in names:
            parser.error(f"unknown policy {name!r}: known are {'; '.join(names)}")
    return parsed


def run(
    contender: Contender,
    plans: Sequence[AccountPlan],
    sessions: Sequence[Session],
    load: float,
    seed: int,
    weeks: int,
) -> Run:
    """One simulation. The same arguments give the same figures."""
    accounts = make_accounts(plans, BEGIN, random.Random(f"{seed} accounts"))
    simulation = Simulation(accounts, sessions, contender.make, weeks, random.Random(f"{seed} choices"))
    tally = simulation.run()
    return Run(load, seed, contender.name, contender.kind, figures(tally, accounts))


def run_all(
    plans: Sequence[AccountPlan],
    contenders: Sequence[Contender],
    loads: Sequence[float],
    seeds: int,
    weeks: int,
) -> list[Run]:
    """Every policy with every load and seed. All runs of one seed meet the same accounts and the same work."""
    runs = []
    capacity = sum(plan.week for plan in plans) * (weeks + WARM_UP) / 100.0
    for seed in range(1, seeds + 1):
        possible = invent(f"{seed} work", BEGIN, weeks + WARM_UP, capacity * max(loads))
        gc.freeze()  # never changes: the collector can skip it
        for load in loads:
            sessions = thinned(possible, capacity * load)
            for contender in contenders:
                runs.append(run(contender, plans, sessions, load, seed, weeks))
                gc.collect()
            print(f"seed {seed}, load {load:g} %: done", file=sys.stderr, flush=True)
    return runs


def main(arguments: Sequence[str]) -> int:
    """Run the simulations that the arguments select. Exit status 0."""
    options = _arguments(arguments)
    contenders = [each for each in CONTENDERS if not options.policy or each.name in options.policy]
    clock = time.monotonic()
    # Objects live as long as their run: collecting garbage during a run only takes time.
    gc.disable()
    runs = run_all(options.plans, contenders, options.loads, options.seeds, options.weeks)
    gc.enable()
    pool = ", ".join(plan.name for plan in options.plans)
    print(f"{options.weeks} weeks, {options.seeds} seeds, accounts: {pool}")
    for load in options.loads:
        text = load_table([run for run in runs if run.load == load])
        print(f"\n### Load {load:g} %\n\n{text if options.markdown else plain(text)}")
    print(f"{time.monotonic() - clock:.0f} s", file=sys.stderr)
    if options.json is not None:
        facts = {
            "weeks": options.weeks,
            "seeds": options.seeds,
            "pool": pool,
            "large_week": options.large_week,
        }
        options.json.write_text(json.dumps(as_document(runs, facts), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
