"""How a figure changes in the long run: the slope of samples over time, robust against outliers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

#: At most so many samples are compared in pairs; of more, every second, third … one is taken.
_MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Bound:
    """What a slope may be: ``per_hour``, in the figure's unit; or less than ``noise`` over the whole run."""

    per_hour: float
    noise: float


@dataclass(frozen=True, slots=True)
class Trend:
    """``per_hour``: the slope. ``first`` and ``last``: medians of the first and last tenth. ``hours``: the span."""

    per_hour: float
    first: float
    last: float
    hours: float

    def exceeds(self, bound: Bound) -> bool:
        """Whether the figure grows faster than it may, and by more than noise."""
        return self.per_hour > bound.per_hour and self.per_hour * self.hours > bound.noise


def trend(samples: Sequence[tuple[float, float]], leave_out: float) -> Trend | None:
    """Return the trend of (seconds, figure) by the Theil-Sen estimator: the median of the slopes of all pairs.

    ``leave_out``: seconds at the beginning that do not count. None if fewer than five samples are left.
    """
    if not samples:
        return None
    kept = [sample for sample in samples if sample[0] - samples[0][0] >= leave_out]
    if len(kept) < 5:
        return None
    step = -(-len(kept) // _MOST_SAMPLES)
    points = kept[::step]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
        if later[0] > earlier[0]
    ]
    tenth = max(1, len(kept) // 10)
    return Trend(
        median(slopes) * 3600.0,
        median(figure for _, figure in kept[:tenth]),
        median(figure for _, figure in kept[-tenth:]),
        (kept[-1][0] - kept[0][0]) / 3600.0,
    )
