"""Who is admitted, what is reserved, what was used (spec 9.6, F71)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_periods import Per
from ccmproxy.policy.budget_terms import ALL_MODELS, Action, Amount, Budget, Owner, Unit
from ccmproxy.policy.budgets import (
    MOST_METERS,
    SHORT_WAIT,
    Admission,
    Admitted,
    BudgetBook,
    Counted,
    HeldByOthers,
    Reservation,
    Settlement,
    UsedUp,
)

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
DAY = 24 * HOUR
#: A Wednesday, at noon.
NOON = datetime(2026, 5, 6, 12, tzinfo=BERLIN).timestamp()
MIDNIGHT = NOON + 12 * HOUR
ALICE, BOB = Owner("alice"), Owner("bob")
TEAM = Owner("team", is_group=True)
OPUS, HAIKU = "claude-opus-4-5", "claude-haiku-4-5"


def usd(value: str) -> Amount:
    return Amount(Decimal(value))


def tokens(number: int) -> Amount:
    return Amount(tokens=number)


class BookTests(SynchronousTestCase):
    """A book with budgets of Alice."""

    def setUp(self) -> None:
        self.book = BudgetBook()
        self.now = NOON

    def define(self, *budgets: Budget, owner: Owner = ALICE) -> list[int]:
        """Give these budgets; returns the percents that count as reached."""
        return [each.percent for each in self.book.define(owner, budgets, self.now, BERLIN)]

    def admit(self, estimate: Amount, model: str = OPUS, owners: tuple[Owner, ...] = (ALICE,)) -> Admission:
        return self.book.admit(owners, model, estimate, self.now)

    def admitted(
        self, estimate: Amount, model: str = OPUS, owners: tuple[Owner, ...] = (ALICE,)
    ) -> Reservation:
        found = self.admit(estimate, model, owners)
        assert isinstance(found, Admitted), found
        return found.reservation

    def use(self, amount: Amount, model: str = OPUS, owners: tuple[Owner, ...] = (ALICE,)) -> Settlement:
        """One request from its beginning to its end."""
        return self.book.settle(self.admitted(amount, model, owners), amount, self.now)

    def used(self, owner: Owner = ALICE) -> list[Decimal]:
        return [each.used for each in self.book.standings(owner, self.now)]

    def reserved(self, owner: Owner = ALICE) -> list[Decimal]:
        return [each.reserved for each in self.book.standings(owner, self.now)]


class AdmissionTests(BookTests):
    """Used + reservations of others < limit."""

    def test_a_lone_request_is_never_refused_while_anything_is_left(self) -> None:
        for used, estimate in (("0", "1e11"), ("19.999999999999", "1000"), ("19", "0")):
            self.book = BudgetBook()
            self.define(Budget(Per.DAY, 20))
            self.use(usd(used))
            self.assertIsInstance(self.admit(usd(estimate)), Admitted, used)

    def test_used_up_until_the_period_ends(self) -> None:
        for per, ends in (
            (Per.FIVE_HOURS, NOON + 5 * HOUR),
            (Per.DAY, MIDNIGHT),
            (Per.WEEK, MIDNIGHT + 4 * DAY),
            (Per.MONTH, MIDNIGHT + 25 * DAY),
        ):
            self.book, self.now = BudgetBook(), NOON
            self.define(Budget(per, 20))
            self.use(usd("20"))
            found = self.admit(usd("0"))
            assert isinstance(found, UsedUp), found
            self.assertEqual(found.until, ends)
            self.now = ends - 0.1
            self.assertIsInstance(self.admit(usd("0")), UsedUp)
            self.now = ends
            self.assertIsInstance(self.admit(usd("0")), Admitted, per)

    def test_refused_only_because_of_others(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("19"))
        other = self.admitted(usd("1"))
        found = self.admit(usd("0.01"))
        assert isinstance(found, HeldByOthers), found
        self.assertEqual(found.wait, SHORT_WAIT)
        self.assertEqual((found.standing.used, found.standing.reserved), (19, 1))
        self.book.release(other)
        self.assertIsInstance(self.admit(usd("0.01")), Admitted)

    def test_a_hundred_at_once_on_the_last_dollar(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("19"))
        found = [self.admit(usd("0.05")) for _ in range(100)]
        reservations = [each.reservation for each in found if isinstance(each, Admitted)]
        self.assertEqual(len(reservations), 20)
        self.assertTrue(all(isinstance(each, HeldByOthers) for each in found[20:]))
        for reservation in reservations:
            self.book.settle(reservation, usd("0.05"), self.now)
        self.assertEqual((self.used(), self.reserved()), ([20], [0]))
        self.assertIsInstance(self.admit(usd("0.05")), UsedUp)

    def test_a_hundred_that_cost_less_than_reserved_all_pass_in_time(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("19"))
        served = 0
        while served < 100:
            reservations = []
            while isinstance(found := self.admit(usd("0.05")), Admitted):
                reservations.append(found.reservation)
            self.assertIsInstance(found, HeldByOthers)
            for reservation in reservations[: 100 - served]:
                self.book.settle(reservation, usd("0.001"), self.now)
                served += 1
            for reservation in reservations:
                self.book.release(reservation)
        self.assertEqual(self.used(), [Decimal("19.1")])

    def test_tokens_and_requests(self) -> None:
        for budget, estimate in (
            (Budget(Per.DAY, 100, Unit.TOKENS), tokens(50)),
            (Budget(Per.DAY, 2, Unit.REQUESTS), usd("0")),
        ):
            self.book = BudgetBook()
            self.define(budget)
            first, second = self.admitted(estimate), self.admitted(estimate)
            self.assertIsInstance(self.admit(estimate), HeldByOthers)
            self.book.settle(first, estimate, self.now)
            self.book.settle(second, estimate, self.now)
            self.assertIsInstance(self.admit(estimate), UsedUp)

    def test_a_limit_of_nothing(self) -> None:
        self.define(Budget(Per.FIVE_HOURS, 0))
        found = self.admit(usd("0"))
        assert isinstance(found, UsedUp), found
        self.assertEqual(found.until, NOON + 5 * HOUR)

    def test_a_refused_request_reserves_nothing(self) -> None:
        self.define(Budget(Per.DAY, 20), owner=TEAM)
        self.define(Budget(Per.DAY, 0))
        self.assertIsInstance(self.admit(usd("1"), owners=(ALICE, TEAM)), UsedUp)
        self.assertEqual((self.reserved(TEAM), self.book.under_way(TEAM)), ([0], 0))

    def test_only_warned(self) -> None:
        self.define(Budget(Per.DAY, 20, action=Action.WARN))
        settlement = self.use(usd("30"))
        self.assertEqual([each.percent for each in settlement.reached], [80, 95, 100])
        found = self.admit(usd("1e10"))
        assert isinstance(found, Admitted) and found.tightest is not None
        self.assertTrue(found.tightest.is_used_up)

    def test_who_has_no_budget(self) -> None:
        found = self.admit(usd("1e10"))
        assert isinstance(found, Admitted)
        self.assertIs(found.tightest, None)
        self.assertEqual(self.book.settle(found.reservation, usd("1"), self.now), Settlement())
        self.assertEqual((self.book.standings(ALICE, self.now), self.book.under_way(ALICE)), ((), 0))

    def test_models(self) -> None:
        self.define(Budget(Per.DAY, 20, models=("claude-opus-*",)))
        self.use(usd("20"))
        self.assertIsInstance(self.admit(usd("1")), UsedUp)
        for model in (HAIKU, ""):
            self.use(usd("100"), model)
        self.assertEqual(self.used(), [20])

    def test_users_are_apart(self) -> None:
        for owner in (ALICE, BOB, Owner("alice", is_group=True)):
            self.define(Budget(Per.DAY, 20), owner=owner)
        self.use(usd("20"))
        self.assertIsInstance(self.admit(usd("1"), owners=(BOB,)), Admitted)
        self.assertIsInstance(self.admit(usd("1"), owners=(Owner("alice", is_group=True),)), Admitted)


class SeveralTests(BookTests):
    """Several budgets at once: the tightest decides, and is named."""

    def test_the_one_that_begins_anew_last(self) -> None:
        day, week, month = (Budget(per, 20) for per in (Per.DAY, Per.WEEK, Per.MONTH))
        larger = Budget(Per.MONTH, 1000)
        for budgets, expected in (
            ((day, week, larger), week),
            ((week, day), week),
            ((day, month, week), month),
            ((larger, day), day),
        ):
            self.book = BudgetBook()
            self.define(*budgets)
            self.use(usd("20"))
            found = self.admit(usd("1"))
            assert isinstance(found, UsedUp), found
            self.assertEqual(found.standing.budget, expected)

    def test_what_is_used_up_decides_over_what_is_reserved(self) -> None:
        month, day = Budget(Per.MONTH, 20), Budget(Per.DAY, 10)
        self.define(month, day)
        other = self.admitted(usd("100"))
        self.book.settle(self.admitted_before(other), usd("10"), self.now)
        found = self.admit(usd("1"))
        assert isinstance(found, UsedUp), found
        self.assertEqual(found.standing.budget, day)

    def admitted_before(self, other: Reservation) -> Reservation:
        """A reservation beside one that holds everything."""
        self.book.release(other)
        mine = self.admitted(usd("1"))
        self.admitted(usd("100"))
        return mine

    def test_the_fullest_one_is_held(self) -> None:
        day, week = Budget(Per.DAY, 20), Budget(Per.WEEK, 10)
        self.define(day, week)
        self.admitted(usd("30"))
        found = self.admit(usd("1"))
        assert isinstance(found, HeldByOthers), found
        self.assertEqual(found.standing.budget, week)

    def test_the_tightest_of_an_admitted_request(self) -> None:
        for budgets, expected in (
            ((Budget(Per.DAY, 20), Budget(Per.MONTH, 400)), Per.DAY),
            ((Budget(Per.DAY, 20), Budget(Per.MONTH, 10)), Per.MONTH),
            ((Budget(Per.DAY, 20), Budget(Per.WEEK, 1, models=("claude-haiku-*",))), Per.DAY),
        ):
            self.book = BudgetBook()
            self.define(*budgets)
            found = self.admit(usd("1"))
            assert isinstance(found, Admitted) and found.tightest is not None
            self.assertEqual(found.tightest.budget.per, expected)
            self.assertEqual(found.tightest.reserved, 1, "this request included")

    def test_a_user_and_his_group(self) -> None:
        self.define(Budget(Per.DAY, 20), owner=ALICE)
        self.define(Budget(Per.DAY, 20), owner=BOB)
        self.define(Budget(Per.DAY, 30), owner=TEAM)
        self.use(usd("15"), owners=(ALICE, TEAM))
        self.use(usd("15"), owners=(BOB, TEAM))
        found = self.admit(usd("1"), owners=(ALICE, TEAM))
        assert isinstance(found, UsedUp), found
        self.assertEqual(found.standing.owner, TEAM)
        self.assertEqual((self.used(ALICE), self.used(BOB), self.used(TEAM)), ([15], [15], [30]))

    def test_an_owner_that_is_named_twice(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("1"), owners=(ALICE, ALICE))
        self.assertEqual((self.used(), self.reserved()), ([1], [0]))


class EndTests(BookTests):
    """A reservation ends with its request, whatever happens."""

    def test_settled_and_released_only_once(self) -> None:
        self.define(Budget(Per.DAY, 20))
        reservation = self.admitted(usd("5"))
        self.assertEqual((self.reserved(), self.book.under_way(ALICE)), ([5], 1))
        first = self.book.settle(reservation, usd("2"), self.now)
        self.assertEqual(len(first.counted), 1)
        for _ in range(2):
            self.assertEqual(self.book.settle(reservation, usd("2"), self.now), Settlement())
            self.book.release(reservation)
            self.assertEqual((self.used(), self.reserved()), ([2], [0]))
        self.assertEqual(self.book.under_way(ALICE), 0)

    def test_released(self) -> None:
        self.define(Budget(Per.DAY, 20), Budget(Per.DAY, 5, Unit.REQUESTS))
        reservation = self.admitted(usd("5"))
        self.book.release(reservation)
        self.book.release(reservation)
        self.assertEqual((self.used(), self.reserved(), self.book.under_way(ALICE)), ([0, 0], [0, 0], 0))

    def test_an_answer_whose_client_left_is_not_free(self) -> None:
        self.define(Budget(Per.DAY, 20))
        reservation = self.admitted(usd("5"))
        self.book.release(reservation)
        self.assertEqual(len(self.book.settle(reservation, usd("2"), self.now).counted), 1)
        self.assertEqual(self.book.settle(reservation, usd("2"), self.now), Settlement())
        self.assertEqual((self.used(), self.reserved()), ([2], [0]))

    def test_late_use_in_globs_that_came_meanwhile(self) -> None:
        self.define(Budget(Per.DAY, 20))
        reservation = self.admitted(usd("5"))
        self.book.release(reservation)
        self.define(Budget(Per.DAY, 20, models=("claude-*",)), Budget(Per.DAY, 20, models=("gpt-*",)))
        self.assertEqual(len(self.book.settle(reservation, usd("2"), self.now).counted), 1)
        self.assertEqual((self.used(), self.reserved()), ([2, 0], [0, 0]))

    def test_late_use_in_five_hours(self) -> None:
        self.define(Budget(Per.FIVE_HOURS, 20))
        reservation = self.admitted(usd("5"))
        self.book.release(reservation)
        self.now += HOUR
        self.assertEqual(self.used(), [0], "they have not begun")
        self.book.settle(reservation, usd("2"), self.now)
        (standing,) = self.book.standings(ALICE, self.now)
        self.assertEqual((standing.used, standing.period.start), (2, NOON))

    def test_late_use_does_not_end_five_hours_that_run(self) -> None:
        self.define()
        reservation = self.admitted(usd("5"))
        self.book.release(reservation)
        self.now += 6 * HOUR
        self.define(Budget(Per.FIVE_HOURS, 20, models=("claude-*",)))
        self.use(usd("1"))
        self.book.settle(reservation, usd("2"), self.now)
        self.assertEqual(self.used(), [3])

    def test_globs_that_were_forgotten_while_a_request_ran(self) -> None:
        budget = Budget(Per.DAY, 20, models=("claude-opus-*",))
        self.define(budget)
        reservation = self.admitted(usd("5"))
        for number in range(MOST_METERS + 1):
            self.define(Budget(Per.DAY, 20, models=(f"gpt-{number}",)))
        self.define(budget)
        self.assertEqual(self.reserved(), [5])
        self.assertEqual(len(self.book.settle(reservation, usd("2"), self.now).counted), 1)
        self.assertEqual((self.used(), self.reserved()), ([2], [0]))

    def test_counts_when_it_was_admitted(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.now = MIDNIGHT - 60
        reservation = self.admitted(usd("20"))
        self.now = MIDNIGHT + 60
        self.assertEqual(self.reserved(), [0], "it does not hold the next day")
        self.use(usd("3"))
        settlement = self.book.settle(reservation, usd("20"), self.now)
        (counted_in,) = settlement.counted
        self.assertEqual(counted_in.start, MIDNIGHT - DAY)
        self.assertEqual(settlement.reached, (), "yesterday's percents are of no interest")
        self.assertEqual(self.used(), [3])
        self.now = MIDNIGHT - 1
        self.assertEqual(self.used(), [20])

    def test_what_is_counted_for_the_store(self) -> None:
        self.define(Budget(Per.DAY, 20), Budget(Per.MONTH, 9, Unit.TOKENS), Budget(Per.DAY, 9, Unit.REQUESTS))
        self.define(Budget(Per.FIVE_HOURS, 20, models=("claude-*",)), owner=TEAM)
        amount = Amount(Decimal(1), 5, is_marked=True)
        found = self.use(amount, owners=(ALICE, TEAM)).counted
        expected = {
            Counted(ALICE, ALL_MODELS, Per.DAY, MIDNIGHT - DAY, amount),
            Counted(ALICE, ALL_MODELS, Per.MONTH, MIDNIGHT - 6 * DAY, amount),
            Counted(TEAM, ("claude-*",), Per.FIVE_HOURS, NOON, amount),
        }
        self.assertEqual((set(found), len(found)), (expected, 3))

    def test_a_model_without_a_price_is_marked(self) -> None:
        self.define(Budget(Per.DAY, 20), Budget(Per.DAY, 20, models=("claude-haiku-*",)))
        self.use(Amount(Decimal(1), is_marked=True))
        self.use(usd("1"))
        self.assertEqual([each.is_marked for each in self.book.standings(ALICE, self.now)], [True, False])

    def test_huge_and_tiny_beside_each_other(self) -> None:
        self.define(Budget(Per.DAY, 20, action=Action.WARN))
        tiny = self.admitted(usd("0.000000000001"))
        huge = [self.admitted(Amount(Decimal("1e9999"), 10**40)) for _ in range(3)]
        for reservation in huge:
            self.book.release(reservation)
        self.assertEqual(self.reserved(), [Decimal("1e-12")])
        self.book.settle(tiny, usd("0.000000000001"), self.now)
        self.assertEqual((self.used(), self.reserved()), ([Decimal("1e-12")], [0]))


class WarningTests(BookTests):
    """Each percent once in a period."""

    def percents(self, value: str) -> list[int]:
        return [each.percent for each in self.use(usd(value)).reached]

    def test_each_once(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.assertEqual(
            [self.percents(value) for value in ("15.9", "0.1", "1", "2", "0.5", "5")][:-1],
            [[], [80], [], [95], []],
        )

    def test_anew_in_the_next_period(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.assertEqual(self.percents("16"), [80])
        self.now += DAY
        self.assertEqual(self.percents("19"), [80, 95])
        self.now -= DAY
        self.assertEqual(self.percents("1"), [], "the clock was set back")

    def test_of_the_group_too(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.define(Budget(Per.DAY, 10, warn_at=(50,)), owner=TEAM)
        (reached,) = self.use(usd("5"), owners=(ALICE, TEAM)).reached
        self.assertEqual((reached.standing.owner, reached.percent, reached.standing.used), (TEAM, 50, 5))

    def test_not_by_reservations(self) -> None:
        self.define(Budget(Per.DAY, 20))
        reservation = self.admitted(usd("19"))
        self.assertEqual(self.book.settle(reservation, usd("1"), self.now).reached, ())


class ReloadTests(BookTests):
    """Changing a budget applies at once and forgets nothing."""

    def test_limit_lowered(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("9"))
        reservation = self.admitted(usd("5"))
        self.assertEqual(self.define(Budget(Per.DAY, 10)), [80])
        self.assertEqual((self.used(), self.reserved()), ([9], [5]))
        self.assertIsInstance(self.admit(usd("0")), HeldByOthers)
        settlement = self.book.settle(reservation, usd("5"), self.now)
        self.assertEqual([each.percent for each in settlement.reached], [95, 100])
        self.assertIsInstance(self.admit(usd("0")), UsedUp)

    def test_limit_raised(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("20"))
        self.assertEqual(self.define(Budget(Per.DAY, 30)), [])
        self.assertEqual(self.used(), [20])
        self.assertEqual([each.percent for each in self.use(usd("4")).reached], [80])

    def test_the_same_again_says_nothing(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("17"))
        self.assertEqual(self.define(Budget(Per.DAY, 20)), [])

    def test_another_period(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.now = MIDNIGHT - DAY - 1
        self.use(usd("3"))
        self.now = NOON
        self.use(usd("4"))
        for per, expected in ((Per.WEEK, 7), (Per.MONTH, 7), (Per.FIVE_HOURS, 4), (Per.DAY, 4)):
            self.define(Budget(per, 20))
            self.assertEqual(self.used(), [expected], per)

    def test_another_unit(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(Amount(Decimal(1), 500))
        self.define(Budget(Per.DAY, 1000, Unit.TOKENS), Budget(Per.DAY, 9, Unit.REQUESTS))
        self.assertEqual(self.used(), [500, 1])

    def test_taken_away_and_given_back(self) -> None:
        for models in (ALL_MODELS, ("claude-*",)):
            self.book = BudgetBook()
            self.define(Budget(Per.DAY, 20, models=models))
            self.use(usd("3"))
            reservation = self.admitted(usd("2"))
            self.define()
            self.assertIsInstance(self.admit(usd("0")), Admitted)
            self.use(usd("4"))
            self.define(Budget(Per.DAY, 20, models=models))
            self.assertEqual((self.used(), self.reserved()), ([7], [2]))
            self.book.settle(reservation, usd("1"), self.now)
            self.assertEqual((self.used(), self.reserved()), ([8], [0]))

    def test_given_to_one_who_had_none(self) -> None:
        self.define()
        self.use(usd("3"))
        self.define(Budget(Per.DAY, 20))
        self.assertEqual(self.used(), [3])

    def test_other_models(self) -> None:
        self.define(Budget(Per.DAY, 20, models=("claude-haiku-*",)))
        self.use(usd("3"), HAIKU)
        under_way, other = self.admitted(usd("5")), self.admitted(usd("7"), HAIKU)
        opus = Budget(Per.DAY, 20, models=("claude-opus-*",))
        self.define(opus, Budget(Per.DAY, 20))
        self.assertEqual((self.used(), self.reserved()), ([0, 3], [5, 12]), "requests under way count")
        self.book.restore([Counted(ALICE, opus.models, Per.DAY, MIDNIGHT - DAY, usd("6"))], self.now)
        self.book.settle(under_way, usd("4"), self.now)
        self.book.release(other)
        self.assertEqual((self.used(), self.reserved()), ([10, 7], [0, 0]))

    def test_another_zone(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.use(usd("20"))
        self.book.define(ALICE, [Budget(Per.DAY, 20)], self.now, ZoneInfo("America/New_York"))
        found = self.admit(usd("1"))
        assert isinstance(found, UsedUp), found
        self.assertEqual(found.until, NOON + 18 * HOUR)

    def test_globs_that_nobody_uses_any_more_are_forgotten_in_the_end(self) -> None:
        for number in range(MOST_METERS + 1):
            self.define(Budget(Per.DAY, 20, models=(f"claude-{number}",)))
            self.use(usd("1"), f"claude-{number}")
        for number, expected in ((MOST_METERS, 1), (MOST_METERS - 2, 1), (0, 0)):
            self.define(Budget(Per.DAY, 20, models=(f"claude-{number}",)))
            self.assertEqual(self.used(), [expected], number)

    def test_as_many_globs_as_there_are_budgets(self) -> None:
        budgets = [Budget(Per.DAY, 20, models=(f"claude-{number}",)) for number in range(2 * MOST_METERS)]
        self.define(*budgets)
        self.use(usd("1"), "claude-0")
        self.assertEqual(sum(self.used()), 1)


class RestartTests(BookTests):
    """Counters are what the store says, and nothing is reserved."""

    def test_restored(self) -> None:
        self.define(Budget(Per.DAY, 20), Budget(Per.FIVE_HOURS, 100, Unit.TOKENS, ("claude-*",)))
        sums: dict[tuple[tuple[str, ...], Per, float], list[int | Decimal]] = {}
        for _ in range(3):
            for each in self.use(Amount(Decimal("5.5"), 20)).counted:
                kept = sums.setdefault((each.models, each.per, each.start), [Decimal(0), 0, 0])
                kept[0] += each.amount.usd
                kept[1] += each.amount.tokens
                kept[2] += each.amount.requests
        self.admitted(Amount(Decimal("100"), 100))
        before = self.book.standings(ALICE, self.now)

        self.book = BudgetBook()
        self.now += HOUR
        self.define(Budget(Per.DAY, 20), Budget(Per.FIVE_HOURS, 100, Unit.TOKENS, ("claude-*",)))
        self.book.restore(
            [
                Counted(ALICE, models, per, start, Amount(Decimal(kept[0]), int(kept[1]), int(kept[2])))
                for (models, per, start), kept in sums.items()
            ],
            self.now,
        )
        after = self.book.standings(ALICE, self.now)
        self.assertEqual(self.used(), [Decimal("16.5"), 60])
        self.assertEqual(self.reserved(), [0, 0])
        self.assertEqual([each.period for each in after], [each.period for each in before])
        self.assertEqual(
            [each.percent for each in self.use(Amount(Decimal("2.5"), 20)).reached], [95, 80],
            "80 % of the dollars were told before the restart",
        )  # fmt: skip

    def test_marks_are_restored(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.book.restore(
            [Counted(ALICE, ALL_MODELS, Per.DAY, MIDNIGHT - DAY, Amount(Decimal(1), is_marked=True))],
            self.now,
        )
        (standing,) = self.book.standings(ALICE, self.now)
        self.assertTrue(standing.is_marked)

    def test_what_nobody_asks_for_is_passed_over(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.book.restore(
            [
                Counted(BOB, ALL_MODELS, Per.DAY, MIDNIGHT - DAY, usd("1")),
                Counted(ALICE, ("gone-*",), Per.DAY, MIDNIGHT - DAY, usd("1")),
                Counted(ALICE, ALL_MODELS, Per.DAY, MIDNIGHT - 2 * DAY, usd("1")),
            ],
            self.now,
        )
        self.assertEqual((self.used(), self.book.standings(BOB, self.now)), ([0], ()))


class ClockTests(BookTests):
    """The machine's clock is set."""

    def test_over_midnight_and_back(self) -> None:
        self.define(Budget(Per.DAY, 20))
        self.now = MIDNIGHT - 60
        self.use(usd("20"))
        under_way = 0
        for by in (3600.0, -3600.0, 3600.0, -3600.0):
            self.now += by
            self.book.clock_set(by)
            found = self.admit(usd("2"))
            if by > 0:
                assert isinstance(found, Admitted), found
                self.book.settle(found.reservation, usd("2"), self.now - 3600.0)
                under_way += 2
                self.assertEqual(self.used(), [under_way], "it is another day")
            else:
                self.assertIsInstance(found, UsedUp, "this day is used up still")

    def test_five_hours_are_five_hours(self) -> None:
        for by in (3 * HOUR, -3 * HOUR):
            self.book, self.now = BudgetBook(), NOON
            self.define(Budget(Per.FIVE_HOURS, 20))
            self.use(usd("20"))
            self.now += HOUR + by
            self.book.clock_set(by)
            found = self.admit(usd("1"))
            assert isinstance(found, UsedUp), found
            self.assertEqual(found.until, self.now + 4 * HOUR)
