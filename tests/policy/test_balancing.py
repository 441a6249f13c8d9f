"""Which credential is chosen: strategies and the rebalancing rule over made-up snapshots."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.balancing import (
    MOST_NAMED,
    Candidate,
    Choice,
    NoCredential,
    Selection,
    fallback,
    least_used,
    round_robin,
    score,
    should_rebalance,
    spread_score,
    uniform,
    urgency,
)
from ccmproxy.state.availability import EXTERNAL_CAPS, Availability, Caps, CredentialSnapshot
from ccmproxy.state.limits import Limits, Window
from tests.profiles import examples

NOW = 1_800_000_000.0
HOUR = 3600.0
WEEK = 168 * HOUR


def credential(
    tag: str = "a",
    used: float | None = 0.0,
    resets_at: float = NOW + WEEK,
    *,
    weight: float = 1.0,
    cap: float = 100.0,
) -> CredentialSnapshot:
    """A usable credential whose weekly window is ``used`` percent used."""
    return CredentialSnapshot(
        tag,
        False,
        Availability("usable"),
        Limits(weekly=Window(used, resets_at)),
        replace(EXTERNAL_CAPS, weekly=cap),
        weight,
        has_data=True,
        ever_had_data=True,
    )


def candidates(*scores: float) -> list[Candidate]:
    """Candidates a, b, … with these scores: unused, a whole week before the reset."""
    snapshots = (
        credential(tag, weight=value / 100) for tag, value in zip("abcdefghij", scores, strict=False)
    )
    return [Candidate(snapshot) for snapshot in snapshots]


SNAPSHOTS = st.builds(
    credential,
    used=st.none() | st.floats(0, 150),
    resets_at=st.just(0.0) | st.floats(NOW - 2 * WEEK, NOW + 5 * WEEK),
    weight=st.floats(0.01, 1e6),
    cap=st.floats(1, 100),
)
MANY = st.lists(st.builds(Candidate, SNAPSHOTS, st.integers(0, 20)), min_size=1, max_size=8).map(
    lambda found: [
        replace(each, snapshot=replace(each.snapshot, tag=f"c{index}")) for index, each in enumerate(found)
    ]
)


class SelectionTests(SynchronousTestCase):
    """Values."""

    def test_external_capacity_must_be_allowed(self) -> None:
        self.assertFalse(Selection().allow_external)
        self.assertEqual(Selection().excluded, frozenset())

    def test_refusal_says_why(self) -> None:
        blocked = Availability("rate_limited", "rate_limited", "all credentials rate-limited", 10.0)
        self.assertEqual(str(NoCredential(blocked)), "all credentials rate-limited")
        self.assertIs(NoCredential(blocked).availability, blocked)
        self.assertEqual(str(NoCredential(Availability("unavailable", "unavailable"))), "unavailable")


class ScoreTests(SynchronousTestCase):
    """Remaining, times weight, times urgency (spec 6.3)."""

    def test_urgency(self) -> None:
        for hours, expected in ((168, 1.0), (336, 0.5), (84, 2.0), (24, 7.0), (2, 84.0), (1, 168.0)):
            self.assertAlmostEqual(urgency(NOW + hours * HOUR, NOW), expected, msg=f"{hours} h")

    def test_a_reset_is_an_hour_away_at_least(self) -> None:
        for seconds in (3599.0, 60.0, 0.001):
            self.assertEqual(urgency(NOW + seconds, NOW), 168.0)

    def test_no_urgency_where_nothing_lapses(self) -> None:
        for resets_at in (0.0, NOW, NOW - 1, NOW - WEEK):
            self.assertEqual(urgency(resets_at, NOW), 1.0)

    def test_worked_examples(self) -> None:
        for snapshot, expected in (
            # A Pro plan with a fresh week, and one that is half through it.
            (credential(used=0), 100.0),
            (credential(used=40, resets_at=NOW + 84 * HOUR), 60 * 2.0),
            # A 20x plan, of which 1 % is kept free.
            (credential(used=90, resets_at=NOW + 42 * HOUR, weight=10, cap=99), 9 * 10 * 4.0),
            # The rest of a window is worth most an hour before its reset; after it, a whole week is available.
            (credential(used=98, resets_at=NOW + HOUR, weight=5), 2 * 5 * 168.0),
            (credential(used=98, resets_at=NOW, weight=5), 100 * 5 * 1.0),
            # Nothing is known about the window.
            (credential(used=None, resets_at=0, weight=5, cap=99), 99 * 5 * 1.0),
            (credential(used=30, resets_at=0), 70.0),
            # Beyond its cap.
            (credential(used=100, cap=80, weight=10), 0.0),
        ):
            self.assertAlmostEqual(score(snapshot, NOW), expected, msg=repr(snapshot.limits.weekly))

    def test_the_short_window_says_nothing_of_the_week(self) -> None:
        snapshot = credential(used=40)
        fuller = replace(snapshot, limits=replace(snapshot.limits, short=Window(90.0, NOW + HOUR)))
        self.assertEqual(score(fuller, NOW), score(snapshot, NOW))

    def test_the_cap_that_counts_is_the_weeks(self) -> None:
        snapshot = replace(credential(used=40), caps=Caps(short=50, weekly=90))
        self.assertEqual(score(snapshot, NOW), 50)

    @given(SNAPSHOTS, st.integers(0, 1000))
    def test_a_score_is_a_number(self, snapshot: CredentialSnapshot, assigned: int) -> None:
        value = spread_score(Candidate(snapshot, assigned), NOW)
        self.assertTrue(math.isfinite(value) and value >= 0)


class LeastUsedTests(SynchronousTestCase):
    """The highest score is chosen; simultaneous sessions are spread in proportion to the scores."""

    @given(MANY)
    def test_the_highest_score_and_of_equals_the_earlier(self, found: list[Candidate]) -> None:
        idle = [replace(each, assigned=0) for each in found]
        best = max(score(each.snapshot, NOW) for each in idle)
        chosen = least_used(idle, NOW).candidate
        self.assertIs(chosen, next(each for each in idle if score(each.snapshot, NOW) == best))

    def test_it_says_why(self) -> None:
        choice = least_used(candidates(50, 200, 100), NOW)
        self.assertEqual((choice.tag, choice.reason), ("b", "least-used, scores b 200, c 100, a 50"))
        reason = least_used(candidates(*range(1, 11)), NOW).reason
        self.assertIn("least-used, scores j 10, i 9,", reason)
        self.assertTrue(reason.endswith(f" and {10 - MOST_NAMED} more"), reason)

    def spread(self, scores: Sequence[float], sessions: int) -> list[int]:
        """How many sessions each candidate gets if ``sessions`` arrive at the same time."""
        found = candidates(*scores)
        for _ in range(sessions):
            chosen = least_used(found, NOW).candidate
            at = found.index(chosen)
            found[at] = replace(chosen, assigned=chosen.assigned + 1)
        return [each.assigned for each in found]

    def test_f8_shares_in_proportion_to_the_score(self) -> None:
        for scores, expected in (
            ((300, 100), [75, 25]),
            ((100, 300), [25, 75]),
            ((1000, 500, 500), [50, 25, 25]),
            ((100, 100, 100, 100), [25, 25, 25, 25]),
            ((100, 0), [100, 0]),
        ):
            for given_to, share in zip(self.spread(scores, 100), expected, strict=True):
                self.assertLessEqual(abs(given_to - share), 1, scores)

    @given(
        st.lists(st.floats(1, 1e4), min_size=1, max_size=6),
        st.integers(1, 60),
    )
    @examples(60)
    def test_nobody_would_be_better_off_elsewhere(self, scores: list[float], sessions: int) -> None:
        """The property of the highest-averages method: no candidate's average would be higher with one more session
        than the average that any candidate has now."""
        given_to = self.spread(scores, sessions)
        self.assertEqual(sum(given_to), sessions)
        averages = [value / count for value, count in zip(scores, given_to, strict=True) if count]
        next_ones = [value / (count + 1) for value, count in zip(scores, given_to, strict=True)]
        self.assertGreaterEqual(min(averages) * (1 + 1e-9), max(next_ones))


class RoundRobinTests(SynchronousTestCase):
    """The next candidate in the list after the last one is chosen."""

    def turns(self, tags: str, order: str, count: int, last: str | None = None) -> str:
        """The tags chosen in ``count`` turns, among the usable ``tags`` of a pool with members ``order``."""
        found = [Candidate(credential(tag)) for tag in tags]
        chosen = ""
        for _ in range(count):
            last = round_robin(found, list(order), last).tag
            chosen += last
        return chosen

    def test_in_order(self) -> None:
        self.assertEqual(self.turns("abc", "abc", 7), "abcabca")

    @given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sampled_from("abcdefgh") | st.none())
    def test_everyone_once_in_a_cycle(self, usable: set[str], last: str | None) -> None:
        """From any start, and with any members unusable, no member is chosen twice before all others were chosen."""
        tags = "".join(sorted(usable))
        turns = self.turns(tags, "abcdefgh", 2 * len(tags), last)
        self.assertEqual(sorted(turns[: len(tags)]), sorted(tags))
        self.assertEqual(turns[len(tags) :], turns[: len(tags)])

    def test_whoever_pauses_keeps_its_place(self) -> None:
        self.assertEqual(self.turns("ac", "abc", 3, last="a"), "cac")
        self.assertEqual(self.turns("abc", "abc", 3, last="c"), "abc")
        self.assertEqual(self.turns("abc", "abc", 1, last="a"), "b")

    def test_the_last_one_is_no_member_any_more(self) -> None:
        self.assertEqual(self.turns("bc", "bc", 3, last="a"), "bcb")

    def test_members_that_come_and_go(self) -> None:
        """If any of ten members may be unusable, a member that stays usable for ten turns is chosen in one of them."""
        numbers = random.Random(5)
        order = list("abcdefghij")
        last: str | None = None
        waiting: Counter[str] = Counter()
        for _ in range(2000):
            usable = [tag for tag in order if numbers.random() < 0.7] or ["a"]
            last = round_robin([Candidate(credential(tag)) for tag in usable], order, last).tag
            self.assertIn(last, usable)
            waiting = Counter({tag: waiting[tag] + 1 for tag in usable if tag != last})
            self.assertLess(max(waiting.values(), default=0), len(order))

    def test_it_says_why(self) -> None:
        found = candidates(1, 1)
        self.assertEqual(round_robin(found, ["a", "b"], None).reason, "round-robin")
        self.assertEqual(round_robin(found, ["a", "b"], "a").reason, "round-robin, after a")


class OtherStrategyTests(SynchronousTestCase):
    """The strategies random and fallback."""

    def test_random_is_uniform(self) -> None:
        """The slices of [0, 1) that belong to the candidates all have the same length."""
        found = candidates(1, 1, 1, 1, 1)
        numbers = iter([step / 1000 for step in range(1000)])
        drawn = Counter(uniform(found, lambda: next(numbers)).tag for _ in range(1000))
        self.assertEqual(drawn, dict.fromkeys("abcde", 200))

    def test_random_takes_the_ends(self) -> None:
        found = candidates(1, 1, 1)
        for number, tag in ((0.0, "a"), (0.3334, "b"), (math.nextafter(1.0, 0.0), "c"), (1.0, "c")):
            self.assertEqual(uniform(found, lambda number=number: number).tag, tag)  # type: ignore[misc]

    def test_random_does_not_mind_the_score(self) -> None:
        numbers = random.Random(3)
        drawn = Counter(uniform(candidates(1, 1000), numbers.random).tag for _ in range(2000))
        self.assertLess(abs(drawn["a"] - drawn["b"]), 200)

    def test_fallback_is_the_first(self) -> None:
        choice = fallback(candidates(1, 1000))
        self.assertEqual((choice.tag, choice.reason), ("a", "fallback, the first that can serve"))

    @given(MANY, st.floats(0, 1, exclude_max=True), st.sampled_from(["c0", "c3", "gone"]) | st.none())
    def test_nobody_is_chosen_who_is_no_candidate(
        self, found: list[Candidate], number: float, last: str | None
    ) -> None:
        order = [f"c{index}" for index in range(9)]
        choices: list[Choice] = [
            least_used(found, NOW),
            round_robin(found, order, last),
            round_robin(found, [], last),
            uniform(found, lambda: number),
            fallback(found),
        ]
        for choice in choices:
            self.assertTrue(any(choice.candidate is each for each in found))
            self.assertEqual(choice.tag, choice.candidate.snapshot.tag)
            self.assertTrue(choice.reason)


class RebalancingTests(SynchronousTestCase):
    """One percent of a large plan is a lot (spec 6.5)."""

    def test_the_threshold_shrinks_with_the_plan(self) -> None:
        """A threshold of 20 is 2 % on a 20x plan, 4 % on a 5x plan, and 20 % on a Pro plan; it must be exceeded."""
        better = credential("b", 30.0)
        for weight, difference in ((10.0, 2.0), (5.0, 4.0), (1.0, 20.0)):
            for used, expected in (
                (30.0 + difference, False),
                (30.0 + difference + 0.01, True),
                (30.0 + difference - 0.01, False),
                (29.0, False),
            ):
                held = credential("a", used, weight=weight)
                self.assertEqual(should_rebalance(held, better, 20.0, NOW), expected, (weight, used))

    def test_the_weight_of_the_better_one_does_not_matter(self) -> None:
        for weight in (1.0, 10.0):
            self.assertFalse(
                should_rebalance(credential("a", 45.0), credential("b", 30.0, weight=weight), 20.0, NOW)
            )

    def test_off(self) -> None:
        for threshold in (0.0, -1.0):
            self.assertFalse(should_rebalance(credential("a", 99.0), credential("b", 0.0), threshold, NOW))

    def test_never_to_itself(self) -> None:
        self.assertFalse(should_rebalance(credential("a", 99.0), credential("a", 0.0), 1.0, NOW))

    def test_an_expired_window_is_empty(self) -> None:
        full, passed = credential("a", 90.0), credential("b", 90.0, NOW)
        self.assertTrue(should_rebalance(full, passed, 20.0, NOW))
        self.assertFalse(should_rebalance(passed, full, 20.0, NOW))

    @given(SNAPSHOTS, SNAPSHOTS, st.floats(0, 1000))
    def test_never_both_ways(
        self, one: CredentialSnapshot, other: CredentialSnapshot, threshold: float
    ) -> None:
        other = replace(other, tag="b")
        self.assertFalse(
            should_rebalance(one, other, threshold, NOW) and should_rebalance(other, one, threshold, NOW)
        )
