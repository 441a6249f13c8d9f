"""Tests of :mod:`ccmproxy.credentials.single_flight`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.single_flight import SingleFlight
from ccmproxy.interfaces.credentials import CredentialUnavailable


class SingleFlightTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.attempts: list[Deferred[int]] = []
        self.failures: list[BaseException] = []
        self.flight: SingleFlight[int] = SingleFlight(self.failures.append)

    async def attempt(self) -> int:
        self.attempts.append(Deferred())
        return await self.attempts[-1]

    def join(self) -> Deferred[int]:
        return self.flight.join(self.attempt)

    def test_shared(self) -> None:
        waiting = [self.join() for _ in range(3)]
        self.assertEqual(len(self.attempts), 1)
        self.assertTrue(self.flight.active)
        self.attempts[0].callback(7)
        self.assertEqual([self.successResultOf(each) for each in waiting], [7, 7, 7])
        self.assertFalse(self.flight.active)
        self.join()
        self.assertEqual(len(self.attempts), 2)

    def test_failure_is_told_once_and_given_to_each_its_own(self) -> None:
        waiting = [self.join() for _ in range(3)]
        self.attempts[0].errback(CredentialUnavailable("gone", hard=True))
        errors = [self.failureResultOf(each, CredentialUnavailable).value for each in waiting]
        self.assertEqual(len(self.failures), 1)
        self.assertEqual(len({id(error) for error in errors}), 3)
        self.assertEqual({(str(error), error.hard) for error in errors}, {("gone", True)})

    def test_who_stops_waiting_does_not_end_it(self) -> None:
        first, second = self.join(), self.join()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.attempts[0].callback(7)
        self.assertEqual(self.successResultOf(second), 7)
        self.assertEqual(self.failures, [])

    def test_all_stop_waiting(self) -> None:
        self.join().addErrback(lambda _: None).cancel()
        self.assertTrue(self.flight.active)
        self.attempts[0].callback(7)
        self.assertFalse(self.flight.active)

    def test_one_who_is_told_cancels_another(self) -> None:
        first, second = self.join(), self.join()
        first.addCallback(lambda _: second.cancel())
        self.attempts[0].callback(7)
        self.failureResultOf(second, CancelledError)

    def test_one_who_is_told_begins_another(self) -> None:
        again: list[Deferred[int]] = []
        first, second = self.join(), self.join()
        first.addCallback(lambda _: again.append(self.join()))
        self.attempts[0].callback(7)
        self.assertEqual(self.successResultOf(second), 7)
        self.assertNoResult(again[0])
        self.attempts[1].callback(8)
        self.assertEqual(self.successResultOf(again[0]), 8)

    def test_done_at_once(self) -> None:
        async def attempt() -> int:
            self.assertTrue(self.flight.active)
            return 7

        self.assertEqual(self.successResultOf(self.flight.join(attempt)), 7)
        self.assertFalse(self.flight.active)

    def test_cancelled_itself(self) -> None:
        waiting = self.join()
        self.flight.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.flight.cancel()
