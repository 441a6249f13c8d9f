"""The answers to requests that were not served: outcome and state determine status, reason and message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge, NoRoomForBody
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.refusals import Refusal, of_body, of_failure, of_nobody
from ccmproxy.policy.retry import Failure
from ccmproxy.state.availability import Availability

USABLE = Availability("usable")
LIMITED = Availability("rate_limited", "rate_limited", "all of them", 100.0)
REJECTED = Availability("temporarily_blocked", "rejected", "rejected until later", 100.0)
GONE = Availability("unavailable", "unavailable", "credential a is unavailable: no file")


class NobodyTests(SynchronousTestCase):
    """No credential is left."""

    def word(
        self, availability: Availability, outcome: Failure | Verdict | None = None
    ) -> Refusal | Availability:
        return of_nobody(availability, outcome, "no token, for this reason", 503)

    def told(
        self, availability: Availability, outcome: Failure | Verdict | None = None
    ) -> tuple[int, str, str]:
        word = self.word(availability, outcome)
        assert isinstance(word, Refusal)
        return word.status, word.reason, word.message

    def test_by_the_state_of_all(self) -> None:
        self.assertIs(self.word(LIMITED), LIMITED)
        self.assertEqual(self.told(GONE), (400, "credential_unavailable", GONE.message))
        self.assertEqual(self.told(REJECTED), (400, "credential_unavailable", REJECTED.message))

    def test_by_the_last_outcome(self) -> None:
        for outcome, status, reason in (
            (Failure.NOT_SENT, 502, "upstream_unreachable"),
            (Failure.LOST, 502, "upstream_lost"),
            (Failure.CARRIER_LOST, 502, "upstream_lost"),
            (Failure.TIMED_OUT, 504, "upstream_timeout"),
            (Failure.GARBLED, 502, "upstream_malformed"),
        ):
            for availability in (USABLE, LIMITED, GONE):
                self.assertEqual(self.told(availability, outcome)[:2], (status, reason))

    def test_no_token(self) -> None:
        self.assertEqual(self.told(GONE, Failure.NO_TOKEN)[2], "no token, for this reason")
        self.assertIs(self.word(LIMITED, Failure.NO_TOKEN), LIMITED)

    def test_no_token_for_a_passing_cause(self) -> None:
        """The client is told to come back, whatever the others answered: one that is used up for hours is no reason to
        give up where another is back within a minute (spec 12.4)."""
        outcomes = (
            Failure.NO_TOKEN,
            None,
            Verdict(AnswerKind.AUTH_FAILED),
            Verdict(AnswerKind.RATE_LIMITED, 50.0),
        )
        for availability in (GONE, LIMITED, REJECTED, USABLE):
            for outcome in outcomes:
                word = of_nobody(availability, outcome, "no token, for now", 429, 7)
                assert isinstance(word, Refusal)
                self.assertEqual((word.status, word.reason, word.retry_after), (503, "credential_delayed", 7))
                self.assertEqual(word.message, "no token, for now")
        word = of_nobody(GONE, None, "", 429, 7)
        assert isinstance(word, Refusal)
        self.assertEqual(word.message, GONE.message)
        for outcome, status in ((Failure.LOST, 502), (Verdict(AnswerKind.NO_MORE_SOCKETS), 426)):
            word = of_nobody(GONE, outcome, "", 429, 7)
            assert isinstance(word, Refusal)
            self.assertEqual(word.status, status)

    def test_interrupted_while_another_could(self) -> None:
        """The client is told to retry after a second, which reaches the other credential (spec 4.2)."""
        word = self.word(USABLE, Failure.INTERRUPTED)
        assert isinstance(word, Refusal)
        self.assertEqual((word.status, word.retry_after), (503, 1))
        self.assertIn("retry the request", word.message)
        self.assertIs(self.word(LIMITED, Failure.INTERRUPTED), LIMITED)

    def test_a_token_that_was_refused(self) -> None:
        """The status is never 401."""
        refused = Verdict(AnswerKind.AUTH_FAILED)
        self.assertEqual(self.told(USABLE, refused)[:2], (502, "upstream_auth"))
        self.assertEqual(self.told(GONE, refused)[0], 400)
        # It is never told as a passing trouble where the others are used up or refused (spec 12.3).
        self.assertIs(self.word(LIMITED, refused), LIMITED)
        self.assertEqual(self.told(REJECTED, refused)[:2], (400, "credential_unavailable"))

    def test_a_limit_of_which_nothing_is_known(self) -> None:
        """If the limit has an unknown name or no end, the client is told about the limit that it met."""
        for kind in (AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED):
            word = self.word(USABLE, Verdict(kind, 50.0))
            assert isinstance(word, Availability)
            self.assertEqual((word.state, word.reset_at), ("rate_limited", 50.0))

    def test_what_is_no_limit_is_not_told_as_one(self) -> None:
        for kind in (AnswerKind.REMOTE_REJECTED, AnswerKind.REMOTE_BUSY, AnswerKind.STREAM_FAILED):
            self.assertIsInstance(self.word(USABLE, Verdict(kind, 50.0)), Refusal)

    def test_a_remote_that_refuses_is_not_used_up(self) -> None:
        self.assertEqual(self.told(REJECTED, Verdict(AnswerKind.REMOTE_REJECTED))[0], 400)

    @given(
        st.sampled_from([USABLE, LIMITED, REJECTED, GONE]),
        st.one_of(st.none(), st.sampled_from(list(Failure)), st.sampled_from(list(AnswerKind)).map(Verdict)),
    )
    def test_there_is_always_a_word(
        self, availability: Availability, outcome: Failure | Verdict | None
    ) -> None:
        word = self.word(availability, outcome)
        if isinstance(word, Refusal):
            self.assertTrue(word.status >= 400 and word.status != 401 and word.reason and word.message)
        else:
            self.assertEqual(word.state, "rate_limited")


class OtherTests(SynchronousTestCase):
    """Bodies that were not received, and attempts that may not be repeated."""

    def test_bodies(self) -> None:
        for error, status in (
            (BodyTooLarge(5), 413),
            (NoRoomForBody(5), 503),
            (BodyTimeout(), 408),
            (BodyMalformed(), 400),
            (ValueError(), 400),
        ):
            self.assertEqual(of_body(error).status, status)

    def test_failures(self) -> None:
        self.assertEqual(of_failure(Failure.TIMED_OUT).status, 504)
        self.assertEqual(of_failure(None).reason, "upstream_lost")
        self.assertEqual(of_failure(Verdict(AnswerKind.OK)).reason, "upstream_lost")
