"""Windows: what may enter one, and how answers are merged."""

from __future__ import annotations

import math
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.limits import (
    EMPTY,
    LATEST_TIME,
    MOST_MODELS,
    RESET_JITTER,
    SHORT_WINDOW,
    Credits,
    Limits,
    LimitsUpdate,
    NamedLimit,
    Window,
    current_reset,
    current_utilization,
    is_expired,
    make_window,
    merge_observed,
    merge_polled,
    parse_unix_time,
    remaining,
)

NOW = 1_800_000_000.0
RESET = NOW + 7200

utilizations = st.floats(0, 120)
windows = st.builds(
    Window, utilizations, st.sampled_from([0.0]) | st.floats(NOW - 9000, NOW + 9000), st.just(SHORT_WINDOW)
)


def observe(*said: tuple[float, float], known: Window = EMPTY, now: float = NOW) -> Window:
    """The short window after responses that reported these pairs of utilization and reset."""
    limits = Limits(short=known)
    for utilization, resets_at in said:
        update = LimitsUpdate(short=make_window(utilization, resets_at, SHORT_WINDOW))
        limits = merge_observed(limits, update, now)
    return limits.short


class MakeWindowTests(SynchronousTestCase):
    """An upstream's values become a window, or None."""

    def test_sense(self) -> None:
        self.assertEqual(make_window(41, RESET, SHORT_WINDOW), Window(41.0, RESET, SHORT_WINDOW))
        self.assertEqual(make_window(0), Window(0.0))
        self.assertEqual(make_window(103.5, 0, 0), Window(103.5))

    def test_nonsense_makes_no_window(self) -> None:
        for utilization in (
            None,
            math.nan,
            math.inf,
            -math.inf,
            -1,
            1e9,
            10**400,
            True,
            False,
            "41",
            b"41",
            [41],
        ):
            self.assertIsNone(make_window(utilization, RESET), repr(utilization)[:20])

    def test_nonsensical_resets_are_unknown(self) -> None:
        for resets_at in (None, math.nan, math.inf, -1, LATEST_TIME * 1000, 10**400, True, "soon"):
            self.assertEqual(make_window(41, resets_at), Window(41.0), repr(resets_at)[:20])

    def test_nonsensical_lengths_are_unknown(self) -> None:
        for length in (math.nan, math.inf, -1, 1e12, True, "week"):
            self.assertEqual(make_window(41, RESET, length), Window(41.0, RESET), repr(length))

    @given(*[st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)] * 3)
    def test_no_nonsense_ever_enters(self, utilization: object, resets_at: object, length: object) -> None:
        window = make_window(utilization, resets_at, length)
        if window is not None:
            for number in (window.utilization, window.resets_at, window.length):
                self.assertIs(type(number), float)
                assert number is not None
                self.assertTrue(0 <= number <= LATEST_TIME)


class ExpiryTests(SynchronousTestCase):
    """A window whose reset has passed counts as empty."""

    def test_expired_at_its_reset(self) -> None:
        window = Window(80.0, RESET)
        for now, expired in ((RESET - 1, False), (RESET, True), (RESET + 1, True)):
            self.assertIs(is_expired(window, now), expired)
            self.assertEqual(current_utilization(window, now), 0 if expired else 80)
            self.assertEqual(remaining(window, 99.0, now), 99 if expired else 19)
            self.assertEqual(current_reset(window, now), 0 if expired else RESET)

    def test_without_a_reset_never(self) -> None:
        self.assertFalse(is_expired(Window(80.0), LATEST_TIME))

    def test_unknown_and_overfull(self) -> None:
        self.assertEqual(remaining(EMPTY, 99.0, NOW), 99)
        self.assertEqual(remaining(Window(100.0, RESET), 99.0, NOW), 0)


class ObservedTests(SynchronousTestCase):
    """Merging response headers, which may arrive out of order."""

    def test_never_down_within_one_window(self) -> None:
        """F38: a late response does not lower the known utilization."""
        self.assertEqual(observe((40, RESET), (50, RESET), (45, RESET)), Window(50.0, RESET, SHORT_WINDOW))

    def test_down_with_a_later_reset(self) -> None:
        later = RESET + SHORT_WINDOW
        self.assertEqual(observe((80, RESET), (3, later)), Window(3.0, later, SHORT_WINDOW))

    def test_jitter_is_no_later_reset(self) -> None:
        for jitter in (-RESET_JITTER, -1, 1, RESET_JITTER):
            self.assertEqual(observe((80, RESET), (3, RESET + jitter)), Window(80.0, RESET, SHORT_WINDOW))

    def test_creeping_reset_is_noticed(self) -> None:
        creeping = [(80 - at, RESET + at * RESET_JITTER / 2) for at in range(4)]
        self.assertEqual(observe(*creeping), Window(77.0, RESET + 90, SHORT_WINDOW))

    def test_earlier_reset_keeps_the_latest(self) -> None:
        """Otherwise a fluctuating reset would lower the utilization within one window."""
        self.assertEqual(
            observe((80, RESET), (50, RESET - 900), (40, RESET)), Window(80.0, RESET, SHORT_WINDOW)
        )
        self.assertEqual(observe((80, RESET), (90, RESET - 900)), Window(90.0, RESET, SHORT_WINDOW))

    def test_unknown_reset_is_filled_in(self) -> None:
        self.assertEqual(observe((80, 0), (50, RESET)), Window(80.0, RESET, SHORT_WINDOW))
        self.assertEqual(observe((80, RESET), (50, 0)), Window(80.0, RESET, SHORT_WINDOW))

    def test_expired_window_accepts_lower_values(self) -> None:
        after = RESET + 1
        for resets_at in (0.0, RESET + 30, RESET + SHORT_WINDOW):
            known = Window(80.0, RESET, SHORT_WINDOW)
            self.assertEqual(
                observe((5, resets_at), known=known, now=after), Window(5.0, resets_at, SHORT_WINDOW)
            )

    def test_expired_answer_is_ignored(self) -> None:
        """F38: a late response about the previous window does not fill the current one."""
        self.assertEqual(observe((3, RESET), (95, NOW - 5)), Window(3.0, RESET, SHORT_WINDOW))
        self.assertEqual(observe((95, NOW - 5)), Window(95.0, NOW - 5, SHORT_WINDOW))

    def test_windows_not_mentioned_stay(self) -> None:
        limits = Limits(Window(1.0, RESET), Window(2.0, RESET), {"opus": Window(3.0, RESET)})
        self.assertIs(merge_observed(limits, LimitsUpdate(), NOW), limits)
        changed = merge_observed(limits, LimitsUpdate(weekly=Window(4.0, RESET)), NOW)
        self.assertEqual(changed, Limits(limits.short, Window(4.0, RESET), limits.models))

    def test_nothing_new_is_the_same_object(self) -> None:
        limits = Limits(Window(1.0, RESET), Window(2.0, RESET), {"opus": Window(3.0, RESET)})
        update = LimitsUpdate(Window(1.0, RESET + 5), Window(0.0, RESET), {"opus": Window(3.0, RESET)})
        self.assertIs(merge_observed(limits, update, NOW), limits)

    def test_models(self) -> None:
        limits = merge_observed(Limits(), LimitsUpdate(models={"opus": Window(30.0, RESET)}), NOW)
        limits = merge_observed(limits, LimitsUpdate(models={"oi": Window(5.0, RESET)}), NOW)
        limits = merge_observed(limits, LimitsUpdate(models={"opus": Window(20.0, RESET)}), NOW)
        self.assertEqual(dict(limits.models), {"opus": Window(30.0, RESET), "oi": Window(5.0, RESET)})

    def test_models_are_bounded(self) -> None:
        """F23: the number of windows is bounded, because the upstream chooses their names."""
        limits = Limits()
        for number in range(MOST_MODELS * 3):
            window = Window(1.0, RESET + number)
            limits = merge_observed(limits, LimitsUpdate(models={f"m{number}": window}), NOW)
        self.assertEqual(len(limits.models), MOST_MODELS)
        self.assertIn(f"m{MOST_MODELS * 3 - 1}", limits.models)

    @given(windows, st.lists(windows, max_size=8), st.floats(NOW - 9000, NOW + 9000))
    def test_monotone_within_a_window(self, known: Window, said: list[Window], now: float) -> None:
        limits = Limits(short=known)
        for window in said:
            before, limits = limits.short, merge_observed(limits, LimitsUpdate(short=window), now)
            after = limits.short
            assert before.utilization is not None and after.utilization is not None
            if after.utilization < before.utilization:
                self.assertTrue(
                    is_expired(before, now) or after.resets_at > before.resets_at + RESET_JITTER,
                    (before, window, after),
                )
            if before.resets_at and not is_expired(before, now):
                self.assertGreaterEqual(after.resets_at, before.resets_at)

    @given(st.lists(st.tuples(utilizations, st.floats(0, RESET_JITTER)), min_size=1, max_size=4))
    def test_order_does_not_matter_within_a_window(self, said: list[tuple[float, float]]) -> None:
        answers = [(utilization, RESET + jitter) for utilization, jitter in said]
        results = {observe(*order).utilization for order in permutations(answers)}
        self.assertEqual(results, {max(utilization for utilization, _ in answers)})


class PolledTests(SynchronousTestCase):
    """Merging the usage endpoint's report, which replaces the known values even by lower ones."""

    def test_replaces(self) -> None:
        known = Limits(Window(80.0, RESET, SHORT_WINDOW), Window(50.0, RESET))
        polled = merge_polled(known, LimitsUpdate(short=Window(10.0, RESET)))
        self.assertEqual(polled, Limits(Window(10.0, RESET, SHORT_WINDOW), Window(50.0, RESET)))
        self.assertEqual(merge_polled(known, LimitsUpdate(short=Window(0.0))).short.resets_at, 0)

    def test_models_not_mentioned_stay(self) -> None:
        known = Limits(models={"opus": Window(80.0, RESET), "oi": Window(5.0, RESET)})
        polled = merge_polled(known, LimitsUpdate(models={"opus": Window(10.0, RESET)}))
        self.assertEqual(dict(polled.models), {"opus": Window(10.0, RESET), "oi": Window(5.0, RESET)})
        self.assertEqual(known.models["opus"].utilization, 80)

    @given(windows, windows)
    def test_what_was_said_last_counts(self, known: Window, said: Window) -> None:
        limits = merge_polled(Limits(weekly=known), LimitsUpdate(weekly=said))
        self.assertEqual(limits.weekly, said)
        self.assertIs(merge_polled(limits, LimitsUpdate(weekly=said)), limits)


class UnixTimeTests(SynchronousTestCase):
    """Times in header fields."""

    def test_only_this_century(self) -> None:
        self.assertEqual(parse_unix_time("1795000000"), 1_795_000_000)
        self.assertEqual(parse_unix_time(" 1795000000.5 "), 1_795_000_000.5)
        for bad in (None, "", "soon", "nan", "inf", "-5", "0", "1795000000000", "1e400", "\u0661795000000"):
            self.assertEqual(parse_unix_time(bad), 0, bad)


class NamedLimitTests(SynchronousTestCase):
    """Additional limits of an account, and credits."""

    def test_merged_like_the_accounts_windows(self) -> None:
        first = LimitsUpdate(named={"spark": NamedLimit("Spark", Window(50, 2000, 300), Window(9, 9000))})
        limits = merge_observed(Limits(), first, 1000)
        self.assertEqual(limits.named["spark"].short, Window(50, 2000, 300))
        late = LimitsUpdate(named={"spark": NamedLimit("", Window(40, 2000, 300))})
        self.assertIs(merge_observed(limits, late, 1000), limits)
        polled = merge_polled(limits, late)
        self.assertEqual(polled.named["spark"], NamedLimit("Spark", Window(40, 2000, 300), Window(9, 9000)))
        self.assertEqual(polled.short, EMPTY)
        self.assertTrue(first.has_data)

    def test_bounded(self) -> None:
        limits = Limits()
        for number in range(MOST_MODELS + 5):
            named = {f"limit{number}": NamedLimit("", Window(1, 1000 + number))}
            limits = merge_observed(limits, LimitsUpdate(named=named), 0)
        self.assertEqual(len(limits.named), MOST_MODELS)
        self.assertNotIn("limit0", limits.named)

    def test_credits_stay_until_said_otherwise(self) -> None:
        limits = merge_polled(Limits(), LimitsUpdate(credits=Credits(True, False, "5.00")))
        self.assertIs(merge_observed(limits, LimitsUpdate(), 0), limits)
        self.assertEqual(limits.credits, Credits(True, False, "5.00"))
        self.assertFalse(LimitsUpdate(credits=limits.credits).has_data)
