"""The aggregate of many credentials."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.aggregate import (
    Aggregate,
    aggregate,
    distinct,
    overall_availability,
    share_windows,
    status_object,
    with_countdown,
)
from ccmproxy.state.availability import EXTERNAL_CAPS, Availability, Caps, CredentialSnapshot
from ccmproxy.state.limits import RESET_JITTER, Limits, Window

NOW = 1_800_000_000.0
HOUR = 3600.0
SHORT = Window(20.0, NOW + HOUR)
WEEKLY = Window(40.0, NOW + 150 * HOUR)
USABLE = Availability("usable")
LIMITED = Availability("rate_limited", "rate_limited", "rate-limited until then", NOW + 2 * HOUR)
REJECTED = Availability("temporarily_blocked", "rejected", "rejected by the upstream", NOW + HOUR)
UNAVAILABLE = Availability("unavailable", "unavailable", "no such file")


def member(
    tag: str = "a",
    short: Window = SHORT,
    weekly: Window = WEEKLY,
    *,
    availability: Availability = USABLE,
    weight: float = 1.0,
    caps: Caps = EXTERNAL_CAPS,
    has_data: bool = True,
    organization: str = "",
) -> CredentialSnapshot:
    """One credential's snapshot."""
    return CredentialSnapshot(
        tag, False, availability, Limits(short, weekly), caps, weight, has_data, has_data, organization
    )


class AggregateTests(SynchronousTestCase):
    """Spec 8.1."""

    def test_one_is_itself(self) -> None:
        self.assertEqual(
            aggregate([member(weight=5.0)], NOW),
            Aggregate(20.0, int(NOW + HOUR), 40.0, int(NOW + 150 * HOUR), 5.0, USABLE),
        )

    def test_weighted(self) -> None:
        total = aggregate(
            [
                member("a", Window(20.0, NOW + HOUR), weight=10.0),
                member("b", Window(80.0, NOW + 5 * HOUR), weight=5.0),
                member("c", Window(50.0), weight=1.0),
            ],
            NOW,
        )
        self.assertAlmostEqual(total.short_utilization, 100 - (80 * 10 + 20 * 5 + 50) / 16, places=5)
        self.assertEqual(total.short_reset, int(NOW + (1 * 10 + 5 * 5) / 15 * HOUR))
        self.assertEqual(total.plan_weight, 16)

    def test_passed_resets_are_left_out_of_the_mean(self) -> None:
        """A window whose reset has passed is empty, so its reset does not count."""
        total = aggregate(
            [
                member("a", Window(20.0, NOW + 3 * HOUR), Window(40.0, NOW - HOUR), weight=10.0),
                member("b", Window(80.0, NOW - HOUR), Window(60.0, NOW + 30 * HOUR), weight=5.0),
            ],
            NOW,
        )
        self.assertEqual((total.short_reset, total.weekly_reset), (int(NOW + 3 * HOUR), int(NOW + 30 * HOUR)))
        self.assertAlmostEqual(total.short_utilization, 20 * 10 / 15, places=5)
        self.assertAlmostEqual(total.weekly_utilization, 60 * 5 / 15, places=5)

    def test_caps_of_each_are_its_own(self) -> None:
        total = aggregate(
            [
                member("a", Window(20.0), caps=Caps(50.0, 99.0), weight=10.0),
                member("b", Window(20.0), caps=Caps(10.0, 99.0), weight=5.0),
            ],
            NOW,
        )
        self.assertAlmostEqual(total.short_utilization, 100 - (30 * 10 + 0 * 5) / 15, places=5)

    def test_reserves_count_as_used(self) -> None:
        self.assertEqual(aggregate([member(caps=Caps(90.0, 50.0))], NOW).short_utilization, 30)
        self.assertEqual(aggregate([member(caps=Caps(90.0, 30.0))], NOW).weekly_utilization, 100)

    def test_expired_window_is_empty(self) -> None:
        total = aggregate([member(short=Window(80.0, NOW))], NOW)
        self.assertEqual((total.short_utilization, total.short_reset), (0.0, 0))

    def test_rate_limited_ones_count(self) -> None:
        total = aggregate([member("a"), member("b", Window(100.0, NOW + HOUR), availability=LIMITED)], NOW)
        self.assertEqual((total.short_utilization, total.plan_weight), (60, 2))

    def test_unavailable_rejected_and_blocked_ones_do_not(self) -> None:
        others = [
            member(availability=availability, short=Window(100.0)) for availability in (REJECTED, UNAVAILABLE)
        ]
        total = aggregate([*others, member(), member("d", Window(90.0), has_data=False)], NOW)
        self.assertEqual((total.short_utilization, total.plan_weight), (20, 1))

    def test_none_that_counts(self) -> None:
        for snapshots, weight in (
            ([], 0),
            ([member(availability=UNAVAILABLE, has_data=False, weight=5.0)], 0),
            (
                [member(availability=UNAVAILABLE, weight=5.0), member(availability=REJECTED, has_data=False)],
                5,
            ),
        ):
            total = aggregate(snapshots, NOW)
            self.assertTrue(total.is_known)
            figures = (
                total.short_utilization,
                total.short_reset,
                total.weekly_utilization,
                total.weekly_reset,
            )
            self.assertEqual((*figures, total.plan_weight), (100, 0, 100, 0, weight))

    def test_unknown(self) -> None:
        """Spec 14: who would be sent a request and was never heard of is not used up. What counts is known."""
        failed = Availability("temporarily_blocked", "poll_failed", "asking for its usage failed once")
        new = member(has_data=False, weight=5.0)
        for snapshots in (
            [new],
            [member(availability=failed, has_data=False, weight=5.0)],
            [new, member(availability=UNAVAILABLE, weight=7.0)],
        ):
            total = aggregate(snapshots, NOW)
            self.assertFalse(total.is_known)
            self.assertEqual(
                (total.short_utilization, total.weekly_utilization, total.plan_weight), (0, 0, 5)
            )
            figures = ("five_hour_utilization", "five_hour_reset", "weekly_utilization", "weekly_reset")
            for reads_null, expected in ((True, None), (False, 0)):
                document = status_object(total, reads_null)
                self.assertEqual([document[name] for name in figures], [expected] * 4)
                self.assertEqual((document["known"], document["plan_weight"]), (False, 5))
        known = aggregate([new, member()], NOW)
        self.assertTrue(known.is_known)
        self.assertNotIn("known", status_object(known, True))

    def test_time_alone_changes_nothing(self) -> None:
        """A status stream must not send a line because the last digits of a mean moved."""
        members = [member(str(n), Window(33.3, NOW + HOUR / 3 * n), weight=n) for n in range(1, 8)]
        results = {json.dumps(status_object(aggregate(members, NOW + second / 7))) for second in range(500)}
        self.assertEqual(len(results), 1)

    @given(
        st.lists(
            st.builds(
                member,
                short=st.builds(Window, st.none() | st.floats(0, 200), st.floats(0, 2 * NOW)),
                weekly=st.builds(Window, st.none() | st.floats(0, 200), st.floats(0, 2 * NOW)),
                availability=st.sampled_from([USABLE, LIMITED, REJECTED, UNAVAILABLE]),
                weight=st.floats(0.001, 1e6),
                caps=st.builds(Caps, st.floats(1, 100), st.floats(1, 100)),
                has_data=st.booleans(),
            ),
            max_size=6,
        )
    )
    def test_bounded(self, members: list[CredentialSnapshot]) -> None:
        total = aggregate(members, NOW)
        for utilization in (total.short_utilization, total.weekly_utilization):
            self.assertTrue(0 <= utilization <= 100)
        for reset in (total.short_reset, total.weekly_reset):
            self.assertTrue(reset == 0 or NOW <= reset <= 2 * NOW)
        self.assertGreaterEqual(total.plan_weight, 0)
        self.assertEqual(total.availability.usable, any(m.availability.usable for m in members))
        json.dumps(status_object(total), allow_nan=False)
        total.view(NOW)


class SharedWindowTests(SynchronousTestCase):
    """F33: accounts of one organization may share the same windows, and are then counted once."""

    def one(
        self,
        tag: str,
        used: float = 40.0,
        short_reset: float = NOW + HOUR,
        weekly_reset: float = NOW + 150 * HOUR,
        *,
        organization: str = "org",
        short_used: float = 20.0,
        weight: float = 5.0,
    ) -> CredentialSnapshot:
        """An account of an organization."""
        return member(
            tag,
            Window(short_used, short_reset),
            Window(used, weekly_reset),
            organization=organization,
            weight=weight,
        )

    def test_the_same_resets(self) -> None:
        twins = [self.one("a"), self.one("b")]
        self.assertEqual(aggregate(twins, NOW), aggregate(twins[:1], NOW))
        self.assertEqual(aggregate([*twins, self.one("c", organization="other")], NOW).plan_weight, 10)

    def test_nobody_knows_of_an_organization(self) -> None:
        self.assertEqual(
            aggregate([self.one("a", organization=""), self.one("b", organization="")], NOW).plan_weight, 10
        )

    def test_each_member_may_have_windows_of_its_own(self) -> None:
        one = self.one("a")
        for other in (
            self.one("b", short_reset=NOW + 2 * HOUR),
            self.one("b", weekly_reset=NOW + 100 * HOUR),
            self.one("b", organization="other"),
            self.one("b", short_reset=NOW + HOUR + RESET_JITTER + 1),
            self.one("b", short_reset=NOW + HOUR - RESET_JITTER - 1),
        ):
            self.assertFalse(share_windows(one, other, NOW))
            self.assertEqual(aggregate([one, other], NOW).plan_weight, 10)

    def test_resets_that_flicker_are_the_same(self) -> None:
        one = self.one("a")
        for difference in (RESET_JITTER, -RESET_JITTER, 0.5):
            other = self.one("b", short_reset=NOW + HOUR + difference)
            self.assertTrue(share_windows(one, other, NOW) and share_windows(other, one, NOW))

    def test_one_known_reset_that_agrees_is_enough(self) -> None:
        self.assertTrue(share_windows(self.one("a"), self.one("b", short_reset=0), NOW))
        self.assertTrue(share_windows(self.one("a"), self.one("b", weekly_reset=0), NOW))
        self.assertFalse(share_windows(self.one("a"), self.one("b", weekly_reset=0, short_reset=NOW), NOW))

    def test_unknown_resets_say_nothing(self) -> None:
        one, other = self.one("a", short_reset=0), self.one("b", weekly_reset=0)
        self.assertFalse(share_windows(one, other, NOW))
        unknown = self.one("a", short_reset=0, weekly_reset=0)
        self.assertFalse(share_windows(unknown, unknown, NOW))

    def test_a_reset_that_has_passed_says_nothing(self) -> None:
        """One of the two accounts knows of the window that began after that reset, the other does not yet."""
        late = self.one("b", 40.0, short_reset=NOW - 5)
        self.assertTrue(share_windows(self.one("a"), late, NOW))
        self.assertEqual(aggregate([self.one("a"), late], NOW).plan_weight, 5)

    def test_the_fuller_one_counts(self) -> None:
        """The higher figure is the more recent one; the week decides, then the short window, then the list."""
        for members, tag in (
            ([self.one("a", 40.0), self.one("b", 50.0)], "b"),
            ([self.one("a", 50.0), self.one("b", 40.0, short_used=90.0)], "a"),
            ([self.one("a", short_used=20.0), self.one("b", short_used=21.0)], "b"),
            ([self.one("a"), self.one("b")], "a"),
        ):
            self.assertEqual([each.tag for each in distinct(members, NOW)], [tag])

    def test_one_that_does_not_count_hides_nobody(self) -> None:
        gone = replace(self.one("a", 90.0), availability=UNAVAILABLE)
        total = aggregate([gone, self.one("b")], NOW)
        self.assertEqual((total.weekly_utilization, total.plan_weight), (40.0, 5))

    def test_order_and_all_the_others_are_kept(self) -> None:
        members = [
            self.one("a", organization="x"),
            self.one("b", organization=""),
            self.one("c", 50.0, organization="x"),
            self.one("d", organization="y"),
            self.one("e", organization=""),
        ]
        self.assertEqual([each.tag for each in distinct(members, NOW)], ["c", "b", "d", "e"])


class AvailabilityTests(SynchronousTestCase):
    """The availability of all credentials together: the best that any of them has."""

    def of(self, *availabilities: Availability) -> Availability:
        """The availability of credentials a, b, c together, in these states."""
        pairs = zip("abc", availabilities, strict=False)
        return aggregate([member(tag, availability=each) for tag, each in pairs], NOW).availability

    def test_order(self) -> None:
        self.assertEqual(self.of(UNAVAILABLE, LIMITED, USABLE), USABLE)
        self.assertEqual(self.of(UNAVAILABLE, REJECTED, LIMITED).state, "rate_limited")
        self.assertEqual(self.of(UNAVAILABLE, REJECTED).state, "temporarily_blocked")
        self.assertEqual(self.of(UNAVAILABLE).state, "unavailable")
        self.assertEqual(self.of().state, "unavailable")

    def test_whether_it_has_figures_does_not_matter(self) -> None:
        """An API key has no windows, and is usable anyway."""
        self.assertEqual(overall_availability([member(has_data=False)], NOW), USABLE)
        self.assertEqual(overall_availability([], NOW).message, "no credential may serve this user")

    def test_a_block_ends_with_the_first(self) -> None:
        later = Availability("temporarily_blocked", "connection_limit", "connection limit", NOW + 2 * HOUR)
        failed = Availability("temporarily_blocked", "poll_failed", "asking failed")
        self.assertEqual(self.of(failed, later, REJECTED).reset_at, NOW + HOUR)
        self.assertEqual(self.of(failed, later).reason, "poll_failed")
        self.assertEqual(self.of(failed).reset_at, 0)

    def test_earliest_reset(self) -> None:
        week = Availability("rate_limited", "weekly_window", "…", NOW + 90 * HOUR)
        unknown = Availability("rate_limited", "short_window", "…", 0.0)
        soon = Availability("rate_limited", "short_window", "…", NOW + 2 * HOUR + 13 * 60)
        whole = self.of(week, unknown, soon)
        self.assertEqual(whole.reset_at, soon.reset_at)
        self.assertEqual(whole.message, "all credentials rate-limited, earliest reset in 2h13m")
        self.assertEqual(self.of(unknown).message, "all credentials rate-limited")

    def test_a_login_that_is_back_soon(self) -> None:
        """It is named before one that somebody has to make."""
        soon = Availability("unavailable", "unavailable", "disk full", NOW + 5, is_passing=True)
        whole = self.of(UNAVAILABLE, soon)
        self.assertEqual(whole.message, "credential b is unavailable: disk full (and 1 more)")
        self.assertEqual((whole.state, whole.reset_at, whole.is_passing), ("unavailable", NOW + 5, True))
        self.assertFalse(self.of(UNAVAILABLE).is_passing)

    def test_messages_name_a_credential(self) -> None:
        self.assertEqual(self.of(UNAVAILABLE).message, "credential a is unavailable: no such file")
        self.assertEqual(
            self.of(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE).message,
            "credential a is unavailable: no such file (and 2 more)",
        )
        blocked = self.of(UNAVAILABLE, REJECTED)
        self.assertEqual(blocked.message, "credential b is temporarily blocked: rejected by the upstream")
        self.assertEqual((blocked.reason, blocked.reset_at), ("rejected", NOW + HOUR))


class StatusObjectTests(SynchronousTestCase):
    """Spec 8.2."""

    def test_fields(self) -> None:
        self.assertEqual(
            status_object(aggregate([member(weight=5.0, availability=LIMITED)], NOW)),
            {
                "five_hour_utilization": 20.0,
                "five_hour_reset": int(NOW + HOUR),
                "weekly_utilization": 40.0,
                "weekly_reset": int(NOW + 150 * HOUR),
                "plan_weight": 5.0,
                "availability": {
                    "state": "rate_limited",
                    "reason": "rate_limited",
                    "reset_at": int(NOW + 2 * HOUR),
                },
            },
        )

    def test_countdown(self) -> None:
        """For instances whose clock differs from ours."""
        for later, left in ((0.0, 7200), (0.5, 7200), (1.0, 7199), (7200.0, 0), (1e6, 0)):
            status = status_object(aggregate([member(availability=LIMITED)], NOW))
            told = with_countdown(status, NOW + later)
            self.assertEqual(told["availability"].pop("reset_in"), left)
            self.assertEqual(told, status)
        status = status_object(aggregate([member()], NOW))
        self.assertEqual(with_countdown(status, NOW)["availability"]["reset_in"], 0)


class ViewTests(SynchronousTestCase):
    """The aggregate in the terms of one account's headers (spec 8.3)."""

    def test_allowed(self) -> None:
        view = aggregate([member()], NOW).view(NOW)
        self.assertEqual((view.status, view.claim), ("allowed", "weekly"))
        self.assertFalse(view.short_surpassed or view.weekly_surpassed)

    def test_warning(self) -> None:
        view = aggregate([member(short=Window(95.0, NOW + HOUR))], NOW).view(NOW)
        self.assertEqual((view.status, view.claim), ("allowed_warning", "short"))
        self.assertTrue(view.short_surpassed)
        self.assertFalse(view.weekly_surpassed)

    def test_rejected(self) -> None:
        full = aggregate([member(weekly=Window(100.0, NOW + HOUR))], NOW).view(NOW)
        self.assertEqual((full.status, full.claim, full.weekly_surpassed), ("rejected", "weekly", True))
        limited = aggregate([member(availability=LIMITED)], NOW).view(NOW)
        self.assertEqual((limited.status, limited.weekly_surpassed), ("rejected", False))
