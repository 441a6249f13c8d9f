"""Limiting the rate of updates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.rate import TokenBucket

START = 1000.0


class TokenBucketTests(SynchronousTestCase):
    """A burst of updates may pass at once, then one update per interval."""

    def taken_at_once(self, bucket: TokenBucket, now: float) -> int:
        """How many updates pass at ``now`` before one has to wait."""
        for number in range(100):
            if bucket.delay(now):
                return number
            bucket.take(now)
        self.fail("the bucket never gets empty")

    def test_burst_then_one_per_interval(self) -> None:
        bucket = TokenBucket(10, 0.5)
        self.assertEqual(self.taken_at_once(bucket, START), 10)
        self.assertEqual(bucket.delay(START), 0.5)
        self.assertEqual(bucket.delay(START + 0.25), 0.25)
        self.assertEqual(self.taken_at_once(bucket, START + 0.5), 1)
        self.assertEqual(self.taken_at_once(bucket, START + 2.25), 3)
        self.assertEqual(bucket.delay(START + 2.25), 0.25)

    def test_no_more_than_the_burst_is_saved(self) -> None:
        bucket = TokenBucket(3, 0.5)
        for now in (0.0, 1e9, 2e9):
            self.assertEqual(self.taken_at_once(bucket, now), 3)

    def test_asking_takes_nothing(self) -> None:
        bucket = TokenBucket(1, 0.5)
        self.assertEqual([bucket.delay(START) for _ in range(3)], [0, 0, 0])

    def test_what_should_have_waited_delays_the_next(self) -> None:
        bucket = TokenBucket(2, 0.5)
        for _ in range(4):
            bucket.take(START)
        self.assertEqual(bucket.delay(START), 1.5)

    @given(
        st.integers(1, 20),
        st.floats(0.01, 10),
        st.lists(st.floats(0, 5), max_size=200),
    )
    def test_never_more_than_the_rate(self, burst: int, interval: float, pauses: list[float]) -> None:
        """In any period, no more updates pass than the burst plus one per interval."""
        bucket = TokenBucket(burst, interval)
        now = START
        passed: list[float] = []
        for pause in pauses:
            now += pause
            if not bucket.delay(now):
                bucket.take(now)
                passed.append(now)
        for first, begin in enumerate(passed):
            for count, end in enumerate(passed[first:], start=1):
                self.assertLessEqual(count, burst + (end - begin) / interval + 1e-6)
