"""When a remote instance is polled out of the usual rhythm (spec 5.5, 14)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.remote.status_poller import REJECTED_POLL_INTERVAL, UNKNOWN_POLL_INTERVAL
from tests.credentials.remote.scene import RemoteScene, Side

#: What a remote of ccmproxy says before the first poll of its own accounts.
UNKNOWN = {
    "five_hour_utilization": None,
    "five_hour_reset": None,
    "weekly_utilization": None,
    "weekly_reset": None,
    "known": False,
    "plan_weight": 20,
    "availability": {"state": "usable", "reason": "", "reset_at": 0},
}


class StatusPollerTests(SynchronousTestCase):
    """A remote without a stream, so that polls alone tell of it."""

    def setUp(self) -> None:
        self.scene = RemoteScene(self)
        self.external = self.scene.external
        self.direct: Side = self.scene.direct
        self.direct.stream_status = 404

    def polls(self) -> int:
        """How often the remote was polled since the last call."""
        self.scene.settle()
        count = len(self.direct.polls)
        self.direct.polls.clear()
        return count

    def test_a_rejected_one_is_asked_every_five_minutes(self) -> None:
        self.scene.start()
        self.polls()
        self.direct.status = 500
        self.external.reject()
        self.scene.pass_time(REJECTED_POLL_INTERVAL - 2, step=2)
        self.assertEqual(self.polls(), 0)
        self.scene.pass_time(3000, step=10)
        self.assertIn(self.polls(), range(10, 15), "failed polls are repeated a little earlier at first")
        self.assertFalse(self.external.is_usable())

    def test_a_poll_that_succeeds_ends_the_rejection(self) -> None:
        self.scene.start()
        self.polls()
        self.external.reject()
        self.scene.pass_time(REJECTED_POLL_INTERVAL - 2, step=2)
        self.assertEqual((self.polls(), self.external.is_usable()), (0, False))
        self.scene.pass_time(4, step=2)
        self.assertEqual((self.polls(), self.external.is_usable()), (1, True))
        self.scene.pass_time(3000, step=50)
        self.assertEqual(self.polls(), 0, "then the usual rhythm goes on")

    def test_a_start_that_fails_is_tried_again_within_seconds(self) -> None:
        self.direct.status = 500
        self.scene.start()
        self.assertEqual(self.polls(), 1)
        self.direct.status = 200
        self.scene.pass_time(3, step=1)
        self.assertEqual((self.polls(), self.external.is_usable()), (1, True))

    def test_a_remote_that_knows_nothing_yet(self) -> None:
        """Its figures are unknown here as well; it is usable, and asked again soon."""
        known = dict(self.direct.document)
        self.direct.document = dict(UNKNOWN)
        self.scene.start()
        self.assertEqual(self.polls(), 1)
        snapshot = self.external.snapshot(self.scene.clock.seconds())
        self.assertTrue(snapshot.availability.usable)
        self.assertFalse(snapshot.has_data)
        self.assertEqual(snapshot.plan_weight, 20)
        self.direct.document = known
        self.scene.pass_time(UNKNOWN_POLL_INTERVAL - 2, step=1)
        self.assertEqual(self.polls(), 0)
        self.scene.pass_time(3, step=1)
        self.assertEqual(self.polls(), 1)
        snapshot = self.external.snapshot(self.scene.clock.seconds())
        self.assertEqual((snapshot.has_data, snapshot.limits.short.utilization), (True, 20))
        self.scene.pass_time(3000, step=50)
        self.assertEqual(self.polls(), 0)

    def test_a_remote_that_never_knows_anything(self) -> None:
        """It has API keys alone: it is asked ever more rarely."""
        self.direct.document = dict(UNKNOWN)
        self.scene.start()
        self.scene.pass_time(3600, step=5)
        self.assertIn(self.polls(), range(8, 11))
        self.scene.pass_time(3600 * 4, step=60)
        self.assertLessEqual(self.polls(), 6)
