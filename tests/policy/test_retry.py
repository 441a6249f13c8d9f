"""The next step after an attempt."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.answers import AnswerKind
from ccmproxy.policy.retry import (
    STALE_TIME,
    UNREACHABLE_TIME,
    Failure,
    Progress,
    Step,
    after_answer,
    after_failure,
    failure_of_loss,
)

ALL_PROGRESS = [Progress(*flags) for flags in product((False, True), repeat=3)]


class RetryTests(SynchronousTestCase):
    """Spec 4.4, case by case; together the tables are exhaustive."""

    def test_answers_that_are_the_clients_business_are_relayed(self) -> None:
        for kind, progress in product(
            (AnswerKind.OK, AnswerKind.CLIENT_ERROR, AnswerKind.OTHER), ALL_PROGRESS
        ):
            self.assertIs(after_answer(kind, progress), Step.RELAY)

    def test_any_429_moves_on(self) -> None:
        kinds = (AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED, AnswerKind.BUSY)
        for kind, progress in product(kinds, ALL_PROGRESS):
            self.assertIs(after_answer(kind, progress), Step.NEXT)

    def test_f13_a_stream_that_begins_with_its_failure_moves_on(self) -> None:
        for progress in ALL_PROGRESS:
            self.assertIs(after_answer(AnswerKind.STREAM_FAILED, progress), Step.NEXT)

    def test_an_error_of_a_remote_itself_moves_on(self) -> None:
        """Spec 4.4: the remote has not acted on the request, so another credential is tried."""
        for kind, progress in product((AnswerKind.REMOTE_REJECTED, AnswerKind.REMOTE_BUSY), ALL_PROGRESS):
            self.assertIs(after_answer(kind, progress), Step.NEXT)

    def test_a_refused_token_is_recovered_once(self) -> None:
        self.assertIs(after_answer(AnswerKind.AUTH_FAILED, Progress()), Step.RECOVER)
        self.assertIs(after_answer(AnswerKind.AUTH_FAILED, Progress(recovered=True)), Step.NEXT)

    def test_an_unsent_request_gets_one_fresh_connection(self) -> None:
        self.assertIs(after_failure(Failure.NOT_SENT, Progress()), Step.AGAIN)
        self.assertIs(after_failure(Failure.NOT_SENT, Progress(reconnected=True)), Step.NEXT)

    def test_what_a_reverse_connection_took_with_it_is_tried_once_by_another_way(self) -> None:
        """Spec 7.4: requests in flight fail over if possible, however long they have been in progress."""
        for elapsed in (0.0, 10 * UNREACHABLE_TIME):
            self.assertIs(after_failure(Failure.CARRIER_LOST, Progress(), elapsed), Step.AGAIN)
            self.assertIs(after_failure(Failure.CARRIER_LOST, Progress(reconnected=True), elapsed), Step.NEXT)

    def test_nobody_waits_for_ever_for_a_connection(self) -> None:
        """Each credential may use up the connect time-out, and clients give up before the last of many is tried."""
        for progress in ALL_PROGRESS:
            before = after_failure(Failure.NOT_SENT, progress, UNREACHABLE_TIME - 0.001)
            self.assertIn(before, (Step.AGAIN, Step.NEXT))
            self.assertIs(after_failure(Failure.NOT_SENT, progress, UNREACHABLE_TIME), Step.GIVE_UP)

    def test_without_a_token_or_interrupted_it_moves_on_at_any_time(self) -> None:
        """Nothing was sent, or the request was cancelled before its response began."""
        for failure, progress in product((Failure.NO_TOKEN, Failure.INTERRUPTED), ALL_PROGRESS):
            self.assertIs(after_failure(failure, progress, 10 * UNREACHABLE_TIME), Step.NEXT)

    def test_what_may_have_been_acted_on_is_never_repeated(self) -> None:
        """F14: a second run of the same turn could run a tool twice."""
        for failure, progress in product((Failure.LOST, Failure.TIMED_OUT, Failure.GARBLED), ALL_PROGRESS):
            self.assertIs(after_failure(failure, progress), Step.GIVE_UP)

    def test_only_a_reused_connection_that_was_lost_at_once_was_stale(self) -> None:
        """Spec 12.3, F67: reused, within 1 s of sending, before any byte of an answer."""
        for was_reused, seconds, has_begun, expected in (
            (True, 0.0, False, Failure.STALE),
            (True, STALE_TIME, False, Failure.STALE),
            (True, STALE_TIME + 0.001, False, Failure.LOST),
            (True, 9.9, False, Failure.LOST),
            (True, -3600.0, False, Failure.LOST),  # a clock that was set back says nothing
            (True, 0.0, True, Failure.LOST),
            (False, 0.0, False, Failure.LOST),
            (False, 0.0, True, Failure.LOST),
        ):
            failure = failure_of_loss(was_reused, seconds, has_begun)
            self.assertIs(failure, expected, (was_reused, seconds, has_begun))

    def test_the_loss_of_a_stale_connection_is_made_up_for_once(self) -> None:
        """Spec 12.3: once for the request, whatever else was tried on this credential."""
        for progress in ALL_PROGRESS:
            expected = Step.GIVE_UP if progress.repeated else Step.AGAIN
            self.assertIs(after_failure(Failure.STALE, progress, 10 * UNREACHABLE_TIME), expected)

    def test_every_case_is_decided(self) -> None:
        for kind, progress in product(AnswerKind, ALL_PROGRESS):
            self.assertIsInstance(after_answer(kind, progress), Step)
        for failure, progress in product(Failure, ALL_PROGRESS):
            self.assertIsInstance(after_failure(failure, progress), Step)
