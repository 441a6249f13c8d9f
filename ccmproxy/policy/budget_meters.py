"""How much was used of one owner's budgets on one set of models: sums by period (spec 9.6). Pure.

All three units are summed for all four kinds of periods, whether a budget is on them or not. So a budget whose limit,
unit or period is changed knows what was used before, and one that is taken away and given back as well.
"""

from __future__ import annotations

from datetime import tzinfo

from ccmproxy.policy.budget_periods import FIVE_HOURS, Per, Period, period_of
from ccmproxy.policy.budget_terms import Amount, Budget, ModelGlobs, Unit

#: As many periods of a kind are remembered: the current one, the one before, and those that a clock which was set wrong
#: has led to, so that nothing begins anew when it comes back.
MOST_PERIODS = 4
#: The middle of a period of each kind, from its start (seconds). Restored sums belong where it lies, so that they are
#: found again although the time zone was changed in between.
_HALF = {Per.DAY: 12 * 3600.0, Per.WEEK: 84 * 3600.0, Per.MONTH: 15 * 86400.0}


class Tally:
    """The sums of one period.

    ``name``: its start, by which the store knows it (Unix seconds). ``period``: where it lies now; only five hours are
    ever moved away from their name, when the clock is set. ``used``, ``reserved``: by Unit, as ``counted`` has them.
    ``under_way``: number of reservations. ``has_use``: an answer was counted.
    """

    __slots__ = ("has_use", "is_marked", "name", "period", "reserved", "told", "under_way", "used")

    def __init__(self, period: Period) -> None:
        self.name = period.start
        self.period = period
        self.used = [0, 0, 0]
        self.reserved = [0, 0, 0]
        self.under_way = 0
        self.has_use = False
        self.is_marked = False
        #: What was said already: unit, limit, percent.
        self.told: set[tuple[Unit, int, int]] = set()

    def reserve(self, estimate: Amount) -> None:
        """Count a request under way."""
        self.under_way += 1
        for unit, count in enumerate(estimate.counts):
            self.reserved[unit] += count

    def give_back(self, estimate: Amount) -> None:
        """Take back what ``reserve`` counted."""
        self.under_way -= 1
        for unit, count in enumerate(estimate.counts):
            self.reserved[unit] -= count

    def count(self, use: Amount) -> None:
        """Count an answer."""
        self.has_use = True
        self.is_marked |= use.is_marked
        for unit, count in enumerate(use.counts):
            self.used[unit] += count

    def raise_to(self, known: Amount) -> None:
        """Count at least what the store says."""
        self.has_use = True
        self.is_marked |= known.is_marked
        self.used = [max(*both) for both in zip(self.used, known.counts, strict=True)]

    def newly_reached(self, budget: Budget) -> list[int]:
        """Return the percents of this limit that are reached and were not told in this period; they count as told."""
        used = self.used[budget.unit]
        found = []
        for percent in budget.percents:
            key = (budget.unit, budget.counted_limit, percent)
            if key not in self.told and budget.has_reached(percent, used):
                self.told.add(key)
                found.append(percent)
        return found

    def move(self, start: float) -> None:
        """Let five hours begin at another moment."""
        self.period = Period(start, start + FIVE_HOURS)


class Meter:
    """Sums of what one owner used of the models that some globs match."""

    def __init__(self, models: tuple[str, ...], zone: tzinfo) -> None:
        """``zone``: in which days, weeks and months are counted."""
        self._globs = ModelGlobs(models)
        self._zone = zone
        #: The last one is the one that was opened last.
        self._tallies: dict[Per, list[Tally]] = {per: [] for per in Per}

    def covers(self, model: str) -> bool:
        """Return whether requests for ``model`` count."""
        return self._globs.matches(model)

    def current(self, per: Per, now: float) -> Tally | None:
        """Return the sums of the period that ``now`` lies in; None: nothing was used or reserved in it yet."""
        tallies = self._tallies[per]
        if per is Per.FIVE_HOURS:
            return self._running(tallies, now)
        return next((tally for tally in reversed(tallies) if now in tally.period), None)

    def open(self, per: Per, at: float) -> Tally:
        """Return the sums that a request counts in which was admitted at ``at``, now or earlier.

        Five hours begin then if none run, and if none began later: what comes in late counts in those.
        """
        tallies = self._tallies[per]
        if per is Per.FIVE_HOURS and tallies and at < tallies[-1].period.start:
            return next(tally for tally in tallies if at < tally.period.end)
        tally = self.current(per, at)
        if tally is None:
            tally = Tally(period_of(per, at, self._zone))
        elif tally is not tallies[-1]:
            tallies.remove(tally)
        if not tallies or tally is not tallies[-1]:
            tallies.append(tally)
            del tallies[:-MOST_PERIODS]
        return tally

    def period(self, per: Per, now: float) -> Period:
        """Return the current period; of five hours that do not run, the one that would begin now."""
        tally = self.current(per, now)
        return tally.period if tally is not None else period_of(per, now, self._zone)

    def clock_set(self, by: float) -> None:
        """Let five hours last as long as they would have: the clock was set by ``by`` seconds (negative: back).

        Days, weeks and months begin when the local time says so, whatever the clock said before.
        """
        for tally in self._tallies[Per.FIVE_HOURS]:
            tally.move(tally.period.start + by)

    def change_zone(self, zone: tzinfo, now: float) -> None:
        """Count days, weeks and months in another zone: what was used in the current one counts in the new one."""
        current = {per: self.current(per, now) for per in _HALF}
        self._zone = zone
        for per, tally in current.items():
            if tally is not None:
                tally.period = period_of(per, now, zone)
                tally.name = tally.period.start

    def reopen(self, tally: Tally) -> None:
        """Take five hours up again that seemed not to have begun: all that was admitted in them had come back unused,
        but now the use of some of it is known."""
        tallies = self._tallies[Per.FIVE_HOURS]
        if tally not in tallies:
            tallies.append(tally)
            self._order(tallies)

    def restore(self, per: Per, start: float, known: Amount) -> None:
        """Count at least what the store says of the period named ``start``."""
        period = period_of(per, start + _HALF.get(per, 0.0), self._zone)
        tallies = self._tallies[per]
        tally = next((tally for tally in tallies if tally.name == period.start), None)
        if tally is None:
            tally = Tally(period)
            tallies.append(tally)
            self._order(tallies)
        tally.raise_to(known)

    @staticmethod
    def _order(tallies: list[Tally]) -> None:
        tallies.sort(key=lambda each: each.period.start)
        del tallies[:-MOST_PERIODS]

    def _running(self, tallies: list[Tally], now: float) -> Tally | None:
        """The five hours that run."""
        while tallies:
            tally = tallies[-1]
            if tally.has_use or tally.under_way:
                break
            # All that was admitted came back unused: so they have not begun.
            tallies.pop()
        else:
            return None
        if now < tally.period.start:
            # The clock was set back while nobody told us. They began before, and how long ago is not known; nobody
            # waits for longer than five hours, and nothing is forgotten.
            tally.move(now)
        return tally if now in tally.period else None
