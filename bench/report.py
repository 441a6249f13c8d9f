"""Computes medians, ratios and tables from measurements. Pure: no clock, no process, no file."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

#: Peer that the ratios refer to.
REFERENCE = "nginx"
#: Share of one core above which a process counts as saturated.
SATURATED = 0.9
#: Share of the proxy's core above which other programs have disturbed the measurement.
DISTURBED = 0.1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of one peer in one scenario. Values that do not apply are None.

    CPU is user + system time, of all processes of the peer. Shares are CPU seconds per second of the measurement.
    """

    scenario: str
    peer: str
    round: int
    #: Units of work done: requests, or events in thousands; see the scenario.
    units: float = 0.0
    seconds: float = 0.0
    proxy_cpu_seconds: float | None = None
    proxy_share: float | None = None
    load_share: float | None = None
    upstream_share: float | None = None
    #: Milliseconds: of a request from its first byte sent to its last byte received; of an event from the upstream's
    #: write to the client's read.
    p50_ms: float | None = None
    p99_ms: float | None = None
    #: Time that other programs, and the machine for other purposes, used the proxy's core, as a share of one core.
    foreign_share: float | None = None
    #: Resident set of all processes of the peer in KiB: at the end, or before and after where memory is measured.
    rss_kib: float | None = None
    rss_before_kib: float | None = None
    errors: int = 0
    #: Why there is no result, or what is unusual about it.
    note: str = ""

    @property
    def rate(self) -> float | None:
        """Units per second."""
        return self.units / self.seconds if self.seconds > 0 else None

    @property
    def cpu_ms_per_unit(self) -> float | None:
        """Milliseconds of the peer's CPU per unit of work."""
        if self.proxy_cpu_seconds is None or self.units <= 0:
            return None
        return self.proxy_cpu_seconds * 1000 / self.units

    @property
    def rss_growth_kib(self) -> float | None:
        """KiB by which the resident set grew during the measurement."""
        if self.rss_kib is None or self.rss_before_kib is None:
            return None
        return self.rss_kib - self.rss_before_kib


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of one peer over all rounds of a scenario."""

    scenario: str
    peer: str
    rounds: int
    rate: float | None
    cpu_ms_per_unit: float | None
    #: Of ``cpu_ms_per_unit`` to the reference's; where memory is measured, of ``rss_growth_kib``.
    ratio: float | None
    p50_ms: float | None
    p99_ms: float | None
    proxy_share: float | None
    load_share: float | None
    upstream_share: float | None
    rss_kib: float | None
    rss_before_kib: float | None
    rss_growth_kib: float | None
    #: Growth of the resident set per unit of work, in KiB.
    rss_kib_per_unit: float | None
    errors: int
    notes: tuple[str, ...]


def median(values: Iterable[float | None]) -> float | None:
    """The median of those values that are not None; None if all are."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def ratio(value: float | None, reference: float | None) -> float | None:
    """``value`` ÷ ``reference``; None if one is missing or the reference is not positive."""
    return value / reference if value is not None and reference is not None and reference > 0 else None


def bottleneck(measurement: Measurement, share_core: bool) -> str | None:
    """A warning if the load generator or the upstream limited the result, and not the proxy.

    ``share_core``: both run on one core, so that their sum counts.
    """
    if measurement.proxy_share is None or measurement.proxy_share > SATURATED:
        return None
    load, upstream = measurement.load_share or 0.0, measurement.upstream_share or 0.0
    limited = [name for name, share in (("load", load), ("upstream", upstream)) if share > SATURATED]
    if not limited and share_core and load + upstream > SATURATED:
        limited = ["load + upstream"]
    return f"{' and '.join(limited)} saturated, not the proxy" if limited else None


def disturbance(measurement: Measurement) -> str | None:
    """A warning if other programs used the proxy's core, which makes rates and latencies unreliable."""
    share = measurement.foreign_share
    return "the proxy's core was not its own" if share is not None and share > DISTURBED else None


def summarize(measurements: Sequence[Measurement], share_core: bool) -> list[Summary]:
    """One summary per scenario and peer, in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.scenario, measurement.peer), []).append(measurement)

    def cpu(scenario: str, peer: str) -> float | None:
        return median(each.cpu_ms_per_unit for each in groups.get((scenario, peer), ()))

    def growth(scenario: str, peer: str) -> float | None:
        return median(each.rss_growth_kib for each in groups.get((scenario, peer), ()))

    summaries = []
    for (scenario, peer), group in groups.items():
        warnings = ((each.note, bottleneck(each, share_core), disturbance(each)) for each in group)
        notes = dict.fromkeys(note for each in warnings for note in each if note)
        grown = growth(scenario, peer)
        units = median(each.units for each in group)
        measured = cpu(scenario, peer)
        relative = ratio(measured, cpu(scenario, REFERENCE))
        if grown is not None:
            relative = ratio(grown, growth(scenario, REFERENCE))
        summaries.append(
            Summary(
                scenario=scenario,
                peer=peer,
                rounds=len(group),
                rate=median(each.rate for each in group),
                cpu_ms_per_unit=measured,
                ratio=relative,
                p50_ms=median(each.p50_ms for each in group),
                p99_ms=median(each.p99_ms for each in group),
                proxy_share=median(each.proxy_share for each in group),
                load_share=median(each.load_share for each in group),
                upstream_share=median(each.upstream_share for each in group),
                rss_kib=median(each.rss_kib for each in group),
                rss_before_kib=median(each.rss_before_kib for each in group),
                rss_growth_kib=grown,
                rss_kib_per_unit=ratio(grown, units),
                errors=sum(each.errors for each in group),
                notes=tuple(notes),
            )
        )
    return summaries


def as_document(
    measurements: Sequence[Measurement], summaries: Sequence[Summary], facts: Mapping[str, object]
) -> dict[str, object]:
    """Everything as JSON: ``facts`` about machine and run, medians, and each measurement."""
    return {
        **facts,
        "summaries": [asdict(each) for each in summaries],
        "measurements": [asdict(each) for each in measurements],
    }


# Tables ---------------------------------------------------------------------------------------------------


def figure(value: float | None, suffix: str = "") -> str:
    """A number with three significant digits; a large one as an integer with thousands separators; ``-`` for None."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 1:
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}"
    return text + suffix


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right, the last to the left."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    last = len(headings) - 1

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(
        "-" * (width + 2) if index in (0, last) else "-" * (width + 1) + ":"
        for index, width in enumerate(widths)
    )
    return "\n".join([line(headings), f"|{rule}|", *map(line, rows)])


def work_table(summaries: Sequence[Summary], unit: str, plural: str) -> str:
    """The table of a scenario that measures CPU per unit of work."""
    headings = [
        "peer",
        f"{plural}/s",
        f"CPU ms per {unit}",
        f"x {REFERENCE}",
        "p50 ms",
        "p99 ms",
        "proxy core",
        "load core",
        "upstream core",
        "RSS MiB",
        "notes",
    ]
    rows = [
        [
            each.peer,
            figure(each.rate),
            figure(each.cpu_ms_per_unit),
            figure(each.ratio),
            figure(each.p50_ms),
            figure(each.p99_ms),
            percent(each.proxy_share),
            percent(each.load_share),
            percent(each.upstream_share),
            figure(mebibytes(each.rss_kib)),
            _notes(each),
        ]
        for each in summaries
    ]
    return table(headings, rows)


def memory_table(summaries: Sequence[Summary], unit: str) -> str:
    """The table of a scenario that measures the resident set before and after."""
    headings = [
        "peer",
        "RSS before MiB",
        "RSS after MiB",
        "growth KiB",
        f"KiB per {unit}",
        f"x {REFERENCE}",
        f"CPU ms per {unit}",
        "notes",
    ]
    rows = [
        [
            each.peer,
            figure(mebibytes(each.rss_before_kib)),
            figure(mebibytes(each.rss_kib)),
            figure(each.rss_growth_kib),
            figure(each.rss_kib_per_unit),
            figure(each.ratio),
            figure(each.cpu_ms_per_unit),
            _notes(each),
        ]
        for each in summaries
    ]
    return table(headings, rows)


def percent(share: float | None) -> str:
    """A share of one core as a whole percentage."""
    return "-" if share is None else f"{share * 100:.0f} %"


def mebibytes(kibibytes: float | None) -> float | None:
    """KiB → MiB."""
    return None if kibibytes is None else kibibytes / 1024


def _notes(summary: Summary) -> str:
    errors = [f"{summary.errors} errors"] if summary.errors else []
    return "; ".join([*errors, *summary.notes])
