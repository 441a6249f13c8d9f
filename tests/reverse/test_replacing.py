"""Tests of what becomes of sessions that may be dead, and of those that were replaced (spec 14)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.reverse.replacing import REPLACED_ANSWER, REPLACED_GRACE, abort_unless_alive, drain_replaced
from tests.reverse.sessions import SessionPair


class ReplacingTests(SynchronousTestCase):
    """Two sessions with a stream between them."""

    def setUp(self) -> None:
        self.pair = SessionPair()
        self.near, self.far = self.pair.stream()

    def hold(self) -> None:
        """From now on, nothing comes through."""
        self.pair.pump.client.held = self.pair.pump.server.held = True

    def test_one_that_answers_stays(self) -> None:
        abort_unless_alive(self.pair.server, 5)
        self.pair.wait(60)
        self.assertEqual((self.near.lost, self.far.lost), ([], []))

    def test_one_that_does_not_answer_is_aborted(self) -> None:
        self.hold()
        abort_unless_alive(self.pair.server, 5)
        self.pair.wait(4)
        self.assertEqual(self.far.lost, [])
        self.pair.wait(2)
        self.assertEqual(len(self.far.lost), 1)

    def test_one_that_is_over_already(self) -> None:
        self.pair.server.abort()
        self.pair.flush()
        abort_unless_alive(self.pair.server, 5)
        drain_replaced(self.pair.server)
        self.assertEqual(len(self.far.lost), 1)

    def test_a_replaced_one_drains(self) -> None:
        """Its streams go on, and it ends with the last of them."""
        drain_replaced(self.pair.server)
        self.pair.flush()
        self.pair.wait(600, step=10)
        self.assertFalse(self.pair.client.is_usable)
        self.near.transport.write(b"still here")
        self.pair.flush()
        self.assertEqual(self.far.received, b"still here")
        for side in (self.near, self.far):
            side.transport.loseConnection()
            self.pair.flush()
        self.assertTrue(self.pair.pump.closed)
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def test_a_replaced_one_that_is_dead(self) -> None:
        self.hold()
        drain_replaced(self.pair.server)
        self.pair.wait(REPLACED_ANSWER + 1)
        self.assertEqual(len(self.far.lost), 1)

    def test_a_replaced_one_does_not_stay_for_ever(self) -> None:
        drain_replaced(self.pair.server)
        self.pair.flush()
        self.pair.wait(REPLACED_GRACE - 10, step=10)
        self.assertEqual(self.far.lost, [])
        self.pair.wait(20, step=10)
        self.assertEqual(len(self.far.lost), 1)

    def test_the_end_of_the_program_does_not_wait_for_a_replaced_one(self) -> None:
        drain_replaced(self.pair.server)
        self.pair.wait(1)
        self.pair.server.close(20)
        self.pair.server.close(1000)
        self.pair.wait(19)
        self.assertEqual(self.far.lost, [])
        self.pair.wait(2)
        self.assertEqual(len(self.far.lost), 1)
