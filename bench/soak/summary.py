"""The table at the end of a run: what was counted, and whether it is what it must be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bench.soak.judging import Judgement
from bench.soak.logs import LogFindings
from bench.soak.outcomes import Outcome
from bench.soak.slopes import Bound, Trend

#: Figure → its unit, and how fast it may grow in an hour, or within a run that is too short to tell a trend.
BOUNDS: Mapping[str, tuple[str, Bound]] = {
    "resident memory": ("MiB", Bound(per_hour=16.0, noise=12.0)),
    "open descriptors": ("", Bound(per_hour=10.0, noise=15.0)),
    "threads": ("", Bound(per_hour=1.0, noise=2.0)),
}

#: Problems with a request, and what the table calls them.
PROBLEMS: Mapping[str, str] = {
    "lost": "lost",
    "doubled": "doubled",
    "hung": "hung",
    "running": "still answered after their end",
    "turned away": "turned away while there was room",
}
#: As many findings of each kind are shown.
_MOST_SHOWN = 12


@dataclass(slots=True)
class Tally:
    """Counts judged requests. ``findings``: problem → what is wrong, one line for each request."""

    requests: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    repeats: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in PROBLEMS})

    def add(self, outcome: Outcome, judgement: Judgement, at: float) -> str:
        """Count one, and return what is wrong with it, empty if nothing is. ``at``: seconds since the beginning of the
        run, at which it began."""
        self.requests[outcome.kind] += 1
        self.shapes[outcome.shape] += 1
        self.repeats.update(judgement.repeats)
        if judgement.problem:
            found = f"{at:7.1f} s  {outcome.id} ({outcome.kind} of {outcome.user}): {judgement.why}"
            self.findings[judgement.problem].append(found)
            return found
        if judgement.why not in ("served", "answered here", "the client left"):
            self.explained[judgement.why] += 1
        return ""

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``bad``: it is not what it must be. ``details``: lines below the table."""

    name: str
    figure: str
    bad: bool = False
    details: Sequence[str] = ()


def rows(
    tally: Tally,
    logs: LogFindings,
    trends: Mapping[str, Trend | None],
    events: Mapping[str, str],
    failures: Sequence[str],
) -> list[Row]:
    """Return the lines of the table.

    ``trends``: by the names of BOUNDS; None: too few samples. ``events``: name → how often, or why not at all.
    ``failures``: sentences about what the daemons did not do, such as a reload that was not confirmed.
    """
    found = [Row("requests", f"{tally.total:,}", bad=tally.total == 0)]
    found += [_zero(title, tally.findings[name]) for name, title in PROBLEMS.items()]
    found += [_zero("secrets in logs", logs.secrets), _zero("tracebacks in logs", logs.tracebacks)]
    found.append(_zero("failures of the daemons", failures))
    for name, (unit, bound) in BOUNDS.items():
        found.append(_trend_row(name, unit, bound, trends.get(name)))
    found += [Row(name, figure) for name, figure in events.items()]
    return found


def _zero(title: str, findings: Sequence[str]) -> Row:
    return Row(title, str(len(findings)), bool(findings), findings)


def _trend_row(name: str, unit: str, bound: Bound, found: Trend | None) -> Row:
    title = f"{name}{', ' + unit if unit else ''}, slope per hour"
    if found is None:
        return Row(title, "too few samples")
    figure = (
        f"{found.per_hour:+.1f} (from {found.first:,.0f} to {found.last:,.0f}; may be {bound.per_hour:g})"
    )
    return Row(title, figure, found.exceeds(bound))


def table(found: Sequence[Row]) -> str:
    """Return the table as Markdown; what is bad is in bold."""
    lines = ["| | |", "|---|--:|"]
    lines += [f"| {row.name} | {f'**{row.figure}**' if row.bad else row.figure} |" for row in found]
    return "\n".join(lines)


def details(found: Sequence[Row]) -> str:
    """Return the findings behind the figures, some of each kind."""
    lines = []
    for row in found:
        if row.bad and row.details:
            lines.append(f"{row.name}:")
            lines += [f"  {line}" for line in row.details[:_MOST_SHOWN]]
            if (more := len(row.details) - _MOST_SHOWN) > 0:
                lines.append(f"  … and {more} more")
    return "\n".join(lines)


def counts(tally: Tally) -> str:
    """Return further tables: kinds of requests, what their clients got, and by which rules they were repeated."""
    parts = []
    for title, counter in (
        ("kind of request", tally.requests),
        ("what the client got", tally.shapes),
        ("not served, explained by", tally.explained),
        ("sent again by the rule", tally.repeats),
    ):
        lines = [f"| {title} | |", "|---|--:|"]
        lines += [f"| {name} | {count:,} |" for name, count in counter.most_common()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def document(found: Sequence[Row], tally: Tally, facts: Mapping[str, object]) -> dict[str, object]:
    """Return everything as a JSON object."""
    return {
        "facts": dict(facts),
        "rows": [asdict(row) for row in found],
        "requests": dict(tally.requests),
        "shapes": dict(tally.shapes),
        "explained": dict(tally.explained),
        "repeats": dict(tally.repeats),
    }
