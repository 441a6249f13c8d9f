"""Budgets of users and groups: who is admitted, what is reserved for a request, and what was used (spec 9.6). Pure.

A request is admitted while used + reservations of others < limit, and reserves what it is expected to cost until its
real use is known. So a lone request is never refused while anything is left, many at once cannot pass on one remaining
dollar (F71), and a limit is exceeded by the last admitted reservation at most, and by what answers cost beyond theirs.

A request counts in the period in which it was admitted, however long it takes: its reservation in that period only, and
its use too. The record of its usage must have the moment of admission as its ``started_at``; then what is known here is
what the store derives from the records after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo

from ccmproxy.policy.budget_meters import Meter, Tally
from ccmproxy.policy.budget_periods import Per
from ccmproxy.policy.budget_terms import ALL_MODELS, Action, Amount, Budget, Owner, Standing

#: What a request is told to wait that is refused only because of others' reservations (seconds, spec 12.2).
SHORT_WAIT = 5.0
#: As many sets of models are counted for one owner; of those without a budget the oldest go first.
MOST_METERS = 16


@dataclass(frozen=True, slots=True)
class Counted:
    """A sum in the store, which is one of an owner, of globs of models, and of a period named by its start.

    As a part of a Settlement, what is to be added to it; as an argument of ``restore``, what it is.
    """

    owner: Owner
    models: tuple[str, ...]
    per: Per
    start: float
    amount: Amount


@dataclass(frozen=True, slots=True)
class Reached:
    """So many percent of a budget are used, which were not before. 100 and more: it is used up."""

    standing: Standing
    percent: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What followed from an answer: sums that it counts in, and percents that it reached for the first time."""

    counted: tuple[Counted, ...] = ()
    reached: tuple[Reached, ...] = ()


@dataclass(slots=True, eq=False)
class _Place:
    """Where a request counts."""

    owner: Owner
    models: tuple[str, ...]
    meter: Meter
    per: Per
    tally: Tally


@dataclass(slots=True, eq=False)
class Reservation:
    """What is kept for a request under way. ``model``: empty if it names none. ``admitted_at``: Unix seconds."""

    owners: tuple[Owner, ...]
    model: str
    estimate: Amount
    admitted_at: float
    is_open: bool = True
    _is_settled: bool = False
    _places: list[_Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may go on. ``tightest``: the budget of which the least is left, this request included; None: there is none."""

    reservation: Reservation
    tightest: Standing | None


@dataclass(frozen=True, slots=True)
class UsedUp:
    """Refused, and trying again does not help before ``until`` (Unix seconds). Of several budgets that are used up it
    is the one that begins anew last."""

    standing: Standing

    @property
    def until(self) -> float:
        """When the budget begins anew."""
        return self.standing.period.end


@dataclass(frozen=True, slots=True)
class HeldByOthers:
    """Refused only because of the reservations of other requests, which end soon. ``wait``: what is told (seconds)."""

    standing: Standing
    wait: float = SHORT_WAIT


Admission = Admitted | UsedUp | HeldByOthers


class _Account:
    """The budgets and the sums of one owner."""

    def __init__(self, owner: Owner, zone: tzinfo) -> None:
        self.owner = owner
        self.zone = zone
        self.budgets: tuple[Budget, ...] = ()
        self.meters = {ALL_MODELS: Meter(ALL_MODELS, zone)}
        #: Requests under way, in the order of their admission.
        self.open: dict[Reservation, None] = {}

    def define(self, budgets: tuple[Budget, ...], zone: tzinfo, now: float) -> None:
        for meter in self.meters.values():
            meter.change_zone(zone, now)
        self.budgets, self.zone = budgets, zone
        for budget in budgets:
            self.meter(budget.models)
        idle = [models for models in self.meters if models not in {ALL_MODELS, *(b.models for b in budgets)}]
        for models in idle[: max(0, len(self.meters) - MOST_METERS)]:
            del self.meters[models]

    def meter(self, models: tuple[str, ...]) -> Meter:
        """The sums for these globs; new ones count the requests under way."""
        if models not in self.meters:
            self.meters[models] = Meter(models, self.zone)
            for reservation in self.open:
                self._place(reservation, models)
        return self.meters[models]

    def enter(self, reservation: Reservation) -> None:
        self.open[reservation] = None
        for models in self.meters:
            self._place(reservation, models)

    def _place(self, reservation: Reservation, models: tuple[str, ...]) -> None:
        meter = self.meters[models]
        if not meter.covers(reservation.model):
            return
        for per in Per:
            tally = meter.open(per, reservation.admitted_at)
            if reservation.is_open:
                tally.reserve(reservation.estimate)
            reservation._places.append(_Place(self.owner, models, meter, per, tally))

    def complete(self, reservation: Reservation) -> None:
        """Let a request that ends count for globs, too, that came while nothing was known to be reserved for it."""
        counted_by = {place.meter for place in reservation._places}
        for models, meter in self.meters.items():
            if meter not in counted_by:
                self._place(reservation, models)

    def has_budget(self, place: _Place) -> bool:
        """Is there a budget on the sums, which are those that are kept for these globs now?"""
        return self.meters.get(place.models) is place.meter and any(
            each.models == place.models and each.per is place.per for each in self.budgets
        )

    def standing(self, budget: Budget, now: float) -> Standing:
        meter = self.meters[budget.models]
        tally = meter.current(budget.per, now)
        used, reserved, is_marked = 0, 0, False
        if tally is not None:
            used, reserved = tally.used[budget.unit], tally.reserved[budget.unit]
            is_marked = tally.is_marked
        period = meter.period(budget.per, now)
        return Standing(self.owner, budget, self.zone, period, used, reserved, is_marked)

    def standings(self, model: str, now: float) -> Iterator[Standing]:
        """Of the budgets that are on ``model``."""
        for budget in self.budgets:
            if self.meters[budget.models].covers(model):
                yield self.standing(budget, now)

    def newly_reached(self, now: float) -> Iterator[Reached]:
        for budget in self.budgets:
            tally = self.meters[budget.models].current(budget.per, now)
            if tally is None:
                continue
            percents = tally.newly_reached(budget)
            if percents:
                standing = self.standing(budget, now)
                yield from (Reached(standing, percent) for percent in percents)


class BudgetBook:
    """The budgets of all users and groups, what is used of them, and the requests under way.

    Nothing that it does waits. ``now`` is Unix time (seconds); it may be set in either direction between two calls,
    and then ``clock_set`` is to be called, so that periods of five hours last as long as they should.
    """

    def __init__(self) -> None:
        self._accounts: dict[Owner, _Account] = {}

    def define(
        self, owner: Owner, budgets: Iterable[Budget], now: float, zone: tzinfo = UTC
    ) -> tuple[Reached, ...]:
        """Give an owner these budgets, instead of those that it had; they apply at once. Returns the percents that
        count as reached now, as of a limit that was lowered.

        Nothing is forgotten: what was used since the owner was first defined counts, of models in whose globs it was
        counted before, or which are all. What else was used before is in the store: see ``restore``. An owner without
        budgets is counted as well, so that a budget that it is given later knows. Requests under way count in new
        budgets too. If the zone changes, what was used in the current day, week and month stays theirs.
        """
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = _Account(owner, zone)
        account.define(tuple(budgets), zone, now)
        return tuple(account.newly_reached(now))

    def restore(self, sums: Iterable[Counted], now: float) -> None:
        """Count at least what the store says: after a restart, or after ``define`` with globs that are new.

        The owners must have been defined; sums of others, and for globs that no budget has, are passed over. Percents
        that are reached by it count as told before.
        """
        restored = {}
        for each in sums:
            account = self._accounts.get(each.owner)
            if account is not None and each.models in account.meters:
                account.meters[each.models].restore(each.per, each.start, each.amount)
                restored[each.owner] = account
        for account in restored.values():
            tuple(account.newly_reached(now))

    def admit(self, owners: Sequence[Owner], model: str, estimate: Amount, now: float) -> Admission:
        """Decide whether a request may go on, and if so, reserve its estimate in all budgets of its owners.

        ``owners``: its user, and the user's group; those who were never defined have no budgets. ``model``: empty if
        the request names none. The reservation must be ended by ``settle`` or ``release``, whatever happens.
        """
        accounts = [self._accounts[owner] for owner in dict.fromkeys(owners) if owner in self._accounts]
        standings = [standing for account in accounts for standing in account.standings(model, now)]
        refusing = [each for each in standings if each.budget.action is Action.REFUSE and each.is_full]
        used_up = [each for each in refusing if each.is_used_up]
        if used_up:
            return UsedUp(max(used_up, key=lambda each: each.period.end))
        if refusing:
            return HeldByOthers(max(refusing, key=lambda each: each.fullness))
        reservation = Reservation(tuple(account.owner for account in accounts), model, estimate, now)
        for account in accounts:
            account.enter(reservation)
        tightest = max(
            (standing for account in accounts for standing in account.standings(model, now)),
            key=lambda each: each.fullness,
            default=None,
        )
        return Admitted(reservation, tightest)

    def release(self, reservation: Reservation) -> None:
        """End a reservation without any use. Does nothing if it was released or settled before."""
        if not reservation.is_open:
            return
        reservation.is_open = False
        for owner in reservation.owners:
            del self._accounts[owner].open[reservation]
        for place in reservation._places:
            place.tally.give_back(reservation.estimate)

    def settle(self, reservation: Reservation, use: Amount, now: float) -> Settlement:
        """End a reservation with what the answer cost, which counts in the periods in which it was admitted.

        A second call does nothing and returns an empty Settlement; a call after ``release`` counts, because a client
        that leaves early does not make its answer free. Percents are told of periods that are current at ``now``.
        """
        self.release(reservation)
        if reservation._is_settled:
            return Settlement()
        reservation._is_settled = True
        accounts = [self._accounts[owner] for owner in reservation.owners]
        for account in accounts:
            account.complete(reservation)
        sums = []
        for place in reservation._places:
            place.tally.count(use)
            if place.per is Per.FIVE_HOURS:
                place.meter.reopen(place.tally)
            if self._accounts[place.owner].has_budget(place):
                sums.append(Counted(place.owner, place.models, place.per, place.tally.name, use))
        reached = tuple(each for account in accounts for each in account.newly_reached(now))
        return Settlement(tuple(sums), reached)

    def standings(self, owner: Owner, now: float) -> tuple[Standing, ...]:
        """Return how the owner's budgets stand, in their order; empty for one who was never defined."""
        account = self._accounts.get(owner)
        if account is None:
            return ()
        return tuple(account.standing(budget, now) for budget in account.budgets)

    def under_way(self, owner: Owner) -> int:
        """Return the number of the owner's reservations that have not ended."""
        account = self._accounts.get(owner)
        return len(account.open) if account is not None else 0

    def clock_set(self, by: float) -> None:
        """The clock was set by ``by`` seconds (negative: back)."""
        for account in self._accounts.values():
            for meter in account.meters.values():
                meter.clock_set(by)
