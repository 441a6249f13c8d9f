"""Computes figures from runs, means over seeds, and tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.pool.accounts import SimulatedAccount
from bench.pool.simulation import Tally
from bench.report import table


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of one run. In percent, except ``moves`` (per session).

    ``refused``: of the requests. ``lost``: of the work, given up after refusals. ``lapsed``: of all weekly allowances.
    ``for_moves``: of the units that were spent. ``least_used``, ``most_used``: the accounts' mean week.
    """

    refused: float
    lost: float
    lapsed: float
    moves: float
    for_moves: float
    least_used: float
    most_used: float


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation. ``load`` in percent of the capacity."""

    load: float
    seed: int
    policy: str
    kind: str
    figures: Figures


def figures(tally: Tally, accounts: Iterable[SimulatedAccount]) -> Figures:
    """The figures of a finished run. At least one week must have been measured."""
    means = [statistics.fmean(tally.used[account.tag]) for account in accounts]
    weeks = [(used, account.plan.week) for account in accounts for used in tally.used[account.tag]]
    lapsed = sum(max(0.0, 1.0 - used) * week for used, week in weeks)
    return Figures(
        refused=_percent(tally.refused, tally.asked),
        lost=_percent(tally.lost, tally.done + tally.lost),
        lapsed=_percent(lapsed, sum(week for _, week in weeks)),
        moves=tally.moves / tally.sessions if tally.sessions else 0.0,
        for_moves=_percent(tally.for_moves, tally.spent),
        least_used=100.0 * min(means),
        most_used=100.0 * max(means),
    )


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample; 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


#: Columns: heading, name of the figure, digits after the point.
_COLUMNS = (
    ("requests refused %", "refused", 2),
    ("work given up %", "lost", 1),
    ("week lapsed %", "lapsed", 1),
    ("moves / session", "moves", 2),
    ("spent on moves %", "for_moves", 1),
)
#: Remark on the kind of a policy.
_NOTES = {"ccmproxy": "ccmproxy", "naive": "other proxies", "idea": "not in the product"}


def load_table(runs: Sequence[Run]) -> str:
    """One row per policy, with means over the seeds and their spread; for runs of one load."""
    rows = []
    for policy, group in _grouped(runs).items():
        cells = []
        for _, name, digits in _COLUMNS:
            mean, spread = mean_and_spread([getattr(run.figures, name) for run in group])
            cells.append(f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(group) > 1 else ""))
        least = statistics.fmean(run.figures.least_used for run in group)
        most = statistics.fmean(run.figures.most_used for run in group)
        rows.append([policy, *cells, f"{least:.0f} / {most:.0f}", _NOTES[group[0].kind]])
    headings = ["policy", *(heading for heading, _, _ in _COLUMNS), "least / most used account %", ""]
    return table(headings, rows)


def _grouped(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.policy, []).append(run)
    return groups


def plain(markdown: str) -> str:
    """The table for a terminal: columns without lines."""
    lines = [line for line in markdown.splitlines() if not line.startswith("|-")]
    return "\n".join(
        line.removeprefix("| ").removesuffix(" |").replace(" | ", "  ").rstrip() for line in lines
    )


def as_document(runs: Sequence[Run], facts: Mapping[str, object]) -> dict[str, object]:
    """Everything as JSON."""
    return {**facts, "runs": [asdict(run) for run in runs]}
