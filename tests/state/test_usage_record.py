"""Tests for :mod:`ccmproxy.state.usage_record`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.usage_record import UsageRecord


class UsageRecordTests(SynchronousTestCase):
    """Its key, and what counts as input."""

    def test_key(self) -> None:
        first = UsageRecord(started_at=1.5, request_id="req_1", output=5)
        again = UsageRecord(started_at=1.5, request_id="req_1", output=7, is_incomplete=True)
        self.assertEqual(first.key, again.key)
        for other in (
            UsageRecord(started_at=1.5, request_id="req_2"),
            UsageRecord(started_at=1.5, request_id="req_1", turn=1),
            UsageRecord(started_at=2.5, request_id="req_1"),
        ):
            self.assertNotEqual(first.key, other.key)

    def test_all_that_was_read(self) -> None:
        record = UsageRecord(
            started_at=0.0, request_id="", input=1, cache_read=20, cache_creation=300, output=9
        )
        self.assertEqual(record.total_input, 321)
