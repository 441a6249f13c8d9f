"""Random operations on a book of budgets: what holds whatever requests, reloads and clocks do (spec 9.6)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_meters import Tally
from ccmproxy.policy.budget_periods import Per, period_of
from ccmproxy.policy.budget_terms import ALL_MODELS, Action, Amount, Budget, Owner, Unit
from ccmproxy.policy.budgets import Admitted, BudgetBook, Counted, Reservation, Settlement, UsedUp, _Place
from tests.profiles import examples

HOUR = 3600.0
ALICE, BOB = Owner("alice"), Owner("bob")
TEAM = Owner("team", is_group=True)
OPUS, HAIKU = "claude-opus-4-5", "claude-haiku-4-5"

GLOBS = (ALL_MODELS, ("claude-*",), ("claude-opus-*", "gpt-*"))
MODELS = (OPUS, HAIKU, "gpt-5", "")
#: Which of them each of GLOBS matches.
MATCHED = dict(zip(GLOBS, ((OPUS, HAIKU, "gpt-5", ""), (OPUS, HAIKU), (OPUS, "gpt-5")), strict=True))
amounts = st.builds(
    Amount,
    st.sampled_from(["0", "1e-12", "0.01", "1", "7.77", "50", "1e9"]).map(Decimal)
    | st.decimals(min_value=0, max_value=30, allow_nan=False),
    st.sampled_from([0, 1, 10, 300, 10**9]),
    st.just(1),
)
budgets = st.builds(
    Budget,
    st.sampled_from(Per),
    st.sampled_from([0, 1, 2, 20, 100, 1000]),
    st.sampled_from(Unit),
    st.sampled_from(GLOBS),
    st.sampled_from([(80, 95), (), (50,)]),
    st.sampled_from([Action.REFUSE, Action.REFUSE, Action.REFUSE, Action.WARN]),
)
some_budgets = st.lists(budgets, min_size=1, max_size=4)
#: Days that begin late, last 23 and 25 hours, and the leap day of 2028.
BEGINNINGS = (
    ("Europe/Berlin", (2026, 3, 28, 23, 30)),
    ("America/New_York", (2026, 10, 31, 23, 30)),
    ("Australia/Lord_Howe", (2026, 4, 4, 23, 30)),
    ("Africa/Cairo", (2026, 4, 23, 23, 30)),
    ("America/Santiago", (2026, 4, 4, 23, 30)),
    ("Europe/Berlin", (2028, 2, 28, 23, 30)),
)
places = st.integers(0, 10**6)
#: What a sum is of: owner, globs, unit, kind of period, its start.
Key = tuple[Owner, tuple[str, ...], Unit, Per, float]


@lru_cache(maxsize=10_000)
def start_of(per: Per, at: float, zone: ZoneInfo) -> float:
    """When the period began that a moment lies in."""
    return period_of(per, at, zone).start


class BudgetMachine(RuleBasedStateMachine):
    """Two users and their group. What the book says of days, weeks and months is held against a list of all answers.

    A sum never exceeds the limit that was in force at the last admission by more than that reservation, and what
    answers cost beyond theirs since then.
    """

    @initialize(beginning=st.sampled_from(BEGINNINGS), alice=some_budgets, team=some_budgets)
    def begin(self, beginning: tuple[str, tuple[int, ...]], alice: list[Budget], team: list[Budget]) -> None:
        self.zone = ZoneInfo(beginning[0])
        self.now = self.latest = datetime(*beginning[1], tzinfo=self.zone).timestamp()  # type: ignore[arg-type,misc]
        self.book = BudgetBook()
        self.open: list[Reservation] = []
        self.ended: list[Reservation] = []
        self.settled: set[Reservation] = set()
        #: Answers: owners, model, moment of admission, counts.
        self.answers: list[tuple[tuple[Owner, ...], str, float, tuple[int, int, int]]] = []
        #: What the store was told of five hours.
        self.five_hours: dict[tuple[Owner, tuple[str, ...], float], tuple[int, int, int]] = {}
        #: The most that a sum may come to.
        self.bounds: dict[Key, int | None] = {}
        #: The same of five hours, whose sums only the book can tell apart.
        self.five_hour_bounds: dict[tuple[Tally, Unit], int | None] = {}
        self.told: set[tuple[Key, int, int]] = set()
        self.budgets: dict[Owner, list[Budget]] = {}
        self.define(ALICE, alice)
        self.define(BOB, [])
        self.define(TEAM, team)

    def define(self, owner: Owner, given: list[Budget]) -> None:
        """Define and restore, as the owner of a book does, who has all records in the store."""
        self.budgets[owner] = given
        self.book.define(owner, given, self.now, self.zone)
        self.restore(owner)

    def restore(self, owner: Owner) -> None:
        sums = []
        for budget in self.budgets[owner]:
            if budget.per is Per.FIVE_HOURS:
                for (whose, models, start), counts in self.five_hours.items():
                    if (whose, models) == (owner, budget.models):
                        sums.append(Counted(owner, models, budget.per, start, self.amount(counts)))
                continue
            for start in {start_of(budget.per, at, self.zone) for _, _, at, _ in self.answers}:
                counts = self.sums(owner, budget.models, budget.per, start)
                sums.append(Counted(owner, budget.models, budget.per, start, self.amount(counts)))
        self.book.restore(sums, self.now)

    @staticmethod
    def amount(counts: tuple[int, int, int]) -> Amount:
        """As the store has it."""
        return Amount(Decimal(counts[0]).scaleb(-12), counts[1], counts[2])

    def sums(self, owner: Owner, models: tuple[str, ...], per: Per, start: float) -> tuple[int, int, int]:
        found = [0, 0, 0]
        for owners, model, at, counts in self.answers:
            if owner in owners and model in MATCHED[models]:
                if start_of(per, at, self.zone) == start:
                    found = [a + b for a, b in zip(found, counts, strict=True)]
        return found[0], found[1], found[2]

    def held(self, budget: Budget, owner: Owner, start: float) -> int:
        """What requests under way have reserved."""
        return sum(
            each.estimate.counts[budget.unit]
            for each in self.open
            if owner in each.owners
            and each.model in MATCHED[budget.models]
            and start_of(budget.per, each.admitted_at, self.zone) == start
        )

    def keys(self, owners: tuple[Owner, ...], model: str, at: float) -> list[tuple[Key, Budget | None]]:
        """The sums that a request is in, each with the strictest budget on it."""
        found: list[tuple[Key, Budget | None]] = []
        for owner in owners:
            for models in GLOBS:
                if model not in MATCHED[models]:
                    continue
                for per in (Per.DAY, Per.WEEK, Per.MONTH):
                    for unit in Unit:
                        on_it = [
                            each
                            for each in self.budgets[owner]
                            if (each.models, each.per, each.unit) == (models, per, unit)
                            and each.action is Action.REFUSE
                        ]
                        start = start_of(per, at, self.zone)
                        strictest = min(on_it, key=lambda each: each.counted_limit, default=None)
                        found.append(((owner, models, unit, per, start), strictest))
        return found

    # Time ---------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([HOUR, 1.0, 600.0, 3 * HOUR, 5 * HOUR, 11 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.latest = max(self.latest, self.now)

    @rule(by=st.sampled_from([-6 * HOUR, -HOUR, -1.0, 1.0, 6 * HOUR]), is_told=st.booleans())
    def clock_is_set(self, by: float, is_told: bool) -> None:
        # Only so many periods are remembered, which a clock that runs back for days would leave.
        if self.now + by < self.latest - 20 * HOUR:
            return
        self.now += by
        self.latest = max(self.latest, self.now)
        if is_told:
            self.book.clock_set(by)

    # Requests -----------------------------------------------------------------------------------------

    @rule(
        owners=st.sampled_from([(ALICE, TEAM), (BOB, TEAM), (ALICE,)]),
        model=st.sampled_from(MODELS),
        estimate=amounts,
        number=st.sampled_from([1, 1, 1, 5]),
    )
    def requests(self, owners: tuple[Owner, ...], model: str, estimate: Amount, number: int) -> None:
        for _ in range(number):
            self.request(owners, model, estimate)

    def request(self, owners: tuple[Owner, ...], model: str, estimate: Amount) -> None:
        standings = [
            standing
            for owner in owners
            for standing in self.book.standings(owner, self.now)
            if model in MATCHED[standing.budget.models] and standing.budget.action is Action.REFUSE
        ]
        found = self.book.admit(owners, model, estimate, self.now)
        if isinstance(found, Admitted):
            assert all(
                each.used_count + each.reserved_count < each.budget.counted_limit for each in standings
            )
            self.open.append(found.reservation)
            for key, budget in self.keys(owners, model, self.now):
                count = estimate.counts[key[2]]
                self.bounds[key] = None if budget is None else budget.counted_limit + count
            for place in self.in_five_hours(found.reservation):
                for unit in Unit:
                    limits = [
                        each.budget.counted_limit
                        for each in standings
                        if (each.owner, each.budget.models, each.budget.per, each.budget.unit)
                        == (place.owner, place.models, place.per, unit)
                    ]
                    bound = min(limits) + estimate.counts[unit] if limits else None
                    self.five_hour_bounds[place.tally, unit] = bound
        else:
            assert found.standing in standings
            full = [each for each in standings if each.is_full]
            used_up = [each for each in full if each.is_used_up]
            if isinstance(found, UsedUp):
                assert found.until == max(each.period.end for each in used_up) > self.now
            else:
                assert not used_up and found.standing.reserved_count > 0
                assert found.standing.fullness == max(each.fullness for each in full)

    @precondition(lambda self: self.open)
    @rule(place=places, use=amounts | st.none())
    def settle(self, place: int, use: Amount | None) -> None:
        """An answer ends; None: with exactly what was reserved."""
        reservation = self.open.pop(place % len(self.open))
        self.ended.append(reservation)
        self.count(reservation, reservation.estimate if use is None else use)

    def count(self, reservation: Reservation, use: Amount) -> None:
        reserved = reservation.estimate.counts if reservation.is_open else (0, 0, 0)
        reserved_in = {place.tally for place in self.in_five_hours(reservation)}
        settlement = self.book.settle(reservation, use, self.now)
        self.settled.add(reservation)
        self.answers.append((reservation.owners, reservation.model, reservation.admitted_at, use.counts))
        for each in settlement.counted:
            assert each.amount == use
            if each.per is Per.FIVE_HOURS:
                key = (each.owner, each.models, each.start)
                before = self.five_hours.get(key, (0, 0, 0))
                a, b, c = (x + y for x, y in zip(before, use.counts, strict=True))
                self.five_hours[key] = (a, b, c)
            else:
                assert each.start == start_of(each.per, reservation.admitted_at, self.zone)
        for reached in settlement.reached:
            standing = reached.standing
            budget = standing.budget
            assert budget.has_reached(reached.percent, standing.used_count)
            if budget.per is not Per.FIVE_HOURS:
                told = (
                    (standing.owner, budget.models, budget.unit, budget.per, standing.period.start),
                    budget.counted_limit,
                    reached.percent,
                )
                assert told not in self.told, "it was told before"
                self.told.add(told)
        for sum_key, _ in self.keys(reservation.owners, reservation.model, reservation.admitted_at):
            bound = self.bounds.get(sum_key)
            unit = sum_key[2]
            if bound is not None:
                self.bounds[sum_key] = bound + max(0, use.counts[unit] - reserved[unit])
        for place in self.in_five_hours(reservation):
            for unit in Unit:
                bound = self.five_hour_bounds.get((place.tally, unit))
                if bound is not None:
                    held = reserved[unit] if place.tally in reserved_in else 0
                    self.five_hour_bounds[place.tally, unit] = bound + max(0, use.counts[unit] - held)

    @staticmethod
    def in_five_hours(reservation: Reservation) -> list[_Place]:
        return [place for place in reservation._places if place.per is Per.FIVE_HOURS]

    @precondition(lambda self: self.open)
    @rule(place=places)
    def release(self, place: int) -> None:
        reservation = self.open.pop(place % len(self.open))
        self.ended.append(reservation)
        self.book.release(reservation)
        assert not reservation.is_open
        self.book.release(reservation)

    @precondition(lambda self: self.ended)
    @rule(place=places, use=amounts)
    def end_again(self, place: int, use: Amount) -> None:
        """What has ended is released, and settled: the second time nothing happens."""
        reservation = self.ended[place % len(self.ended)]
        self.book.release(reservation)
        if reservation in self.settled:
            assert self.book.settle(reservation, use, self.now) == Settlement()
        else:
            # Its client left; what the answer had cost until then is known only now.
            self.count(reservation, use)

    # The operator -------------------------------------------------------------------------------------

    @rule(owner=st.sampled_from([ALICE, BOB, TEAM]), given=st.just([]) | some_budgets)
    def reload(self, owner: Owner, given: list[Budget]) -> None:
        self.define(owner, given)

    @rule(owner=st.sampled_from([ALICE, TEAM]), limit=st.sampled_from([0, 1, 5, 30, 10**6]), place=places)
    def change_a_limit(self, owner: Owner, limit: int, place: int) -> None:
        given = list(self.budgets[owner])
        if given:
            at = place % len(given)
            old = given[at]
            given[at] = Budget(old.per, limit, old.unit, old.models, old.warn_at, old.action)
            before = self.book.standings(owner, self.now)
            self.budgets[owner] = given
            self.book.define(owner, given, self.now, self.zone)
            after = self.book.standings(owner, self.now)
            assert [each.used_count for each in after] == [each.used_count for each in before]
            assert [each.reserved_count for each in after] == [each.reserved_count for each in before]

    @rule()
    def restart(self) -> None:
        """The requests under way end with the process, and nothing of them is known."""
        self.open, self.ended, self.bounds, self.five_hour_bounds = [], [], {}, {}
        self.book = BudgetBook()
        for owner, given in self.budgets.items():
            self.define(owner, given)
            assert self.book.under_way(owner) == 0

    # What always holds --------------------------------------------------------------------------------

    @invariant()
    def sums_are_those_of_the_answers(self) -> None:
        for owner, given in self.budgets.items():
            assert self.book.under_way(owner) == sum(owner in each.owners for each in self.open)
            standings = self.book.standings(owner, self.now)
            assert [each.budget for each in standings] == given
            for standing in standings:
                budget = standing.budget
                assert self.now in standing.period
                if budget.per is Per.FIVE_HOURS:
                    assert min(standing.used_count, standing.reserved_count) >= 0
                    continue
                start = start_of(budget.per, self.now, self.zone)
                assert standing.period.start == start
                assert standing.used_count == self.sums(owner, budget.models, budget.per, start)[budget.unit]
                assert standing.reserved_count == self.held(budget, owner, start)

    @invariant()
    def overshoot_is_bounded(self) -> None:
        for (owner, models, unit, per, start), bound in self.bounds.items():
            if bound is not None:
                assert self.sums(owner, models, per, start)[unit] <= bound
        for (tally, unit), bound in self.five_hour_bounds.items():
            assert bound is None or tally.used[unit] <= bound


class RandomTests(SynchronousTestCase):
    """The machine."""

    def test_random_operations(self) -> None:
        run_state_machine_as_test(BudgetMachine, settings=examples(60, stateful_step_count=50))
