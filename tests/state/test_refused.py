"""Tests of :mod:`ccmproxy.state.refused`: when a refused account is asked again, and who may find out (spec 12.3)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.refused import GOOD_TIME, INTERVALS, LastRefused, Refused, polled, refused, sent
from tests.states import NOW


class RefusedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = refused(None, None, "disabled", NOW)

    def test_the_first_time(self) -> None:
        self.assertEqual(self.known, Refused("disabled", NOW, NOW + 60, NOW + 60, 0, False))

    def test_polled_after_1_2_5_10_then_every_30_minutes(self) -> None:
        known, now, intervals = self.known, NOW, []
        for _ in range(7):
            intervals.append(known.next_at - now)
            now = known.next_at
            known = polled(known, now, is_good=False)
        self.assertEqual([each / 60 for each in intervals], [1, 2, 5, 10, 30, 30, 30])

    def test_a_poll_out_of_turn_changes_no_interval(self) -> None:
        self.assertEqual(polled(self.known, NOW + 30, is_good=False), self.known)

    def test_after_a_good_poll_one_request(self) -> None:
        known = polled(self.known, NOW + 60, is_good=True)
        self.assertTrue(known.is_open)
        known = sent(known, NOW + 70)
        self.assertFalse(known.is_open)
        self.assertEqual(known.next_at, NOW + 70 + 120)
        again = refused(known, None, "", NOW + 71)
        self.assertEqual((again.step, again.next_at, again.is_open), (1, NOW + 71 + 120, False))
        self.assertEqual((again.sentence, again.since), ("disabled", NOW))
        self.assertEqual(refused(known, None, "closed", NOW + 71).sentence, "closed")

    def test_a_bad_poll_after_a_good_one_closes_it(self) -> None:
        for now in (NOW + 50, NOW + 60):
            known = polled(polled(self.known, NOW + 40, is_good=True), now, is_good=False)
            self.assertFalse(known.is_open)

    def test_refused_again_before_anybody_found_out(self) -> None:
        """A request that was under way when the poll was good."""
        known = refused(polled(self.known, NOW + 60, is_good=True), None, "disabled", NOW + 61)
        self.assertEqual((known.is_open, known.step, known.next_at), (False, 1, NOW + 61 + 120))

    def test_requests_that_were_under_way_take_no_step(self) -> None:
        """Several answers that say the same are one refusal."""
        known = refused(refused(self.known, None, "disabled", NOW + 1), None, "disabled", NOW + 2)
        self.assertEqual((known.step, known.next_at), (0, NOW + 62))

    def test_refused_polls_do_not_put_off_the_request_that_finds_out(self) -> None:
        """Where nobody else can serve, one request per interval is let through, whenever it comes."""
        known = polled(self.known, NOW + 60, is_good=False)
        self.assertEqual((known.next_at, known.request_at), (NOW + 180, NOW + 60))
        known = sent(known, NOW + 100)
        self.assertEqual(known.request_at, NOW + 100 + 300)

    def test_the_schedule_begins_anew_after_ten_minutes_of_serving(self) -> None:
        for seconds, step in ((0, 3), (GOOD_TIME - 1, 3), (GOOD_TIME, 0), (-1, 0)):
            again = refused(None, LastRefused(2, NOW), "disabled", NOW + seconds)
            self.assertEqual((again.step, again.next_at), (step, NOW + seconds + INTERVALS[step]), seconds)
        again = refused(None, LastRefused(len(INTERVALS) - 1, NOW), "disabled", NOW)
        self.assertEqual(again.step, len(INTERVALS) - 1)
