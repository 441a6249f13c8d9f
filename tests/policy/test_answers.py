"""Tests of :mod:`ccmproxy.policy.answers`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.answers import AnswerKind, Verdict


class WithoutKnownWordsTests(SynchronousTestCase):
    """Words that may be the client's own prove nothing of an account (spec 12.1)."""

    def test_what_known_words_say_of_an_account(self) -> None:
        for kind in AnswerKind:
            verdict = Verdict(kind, sentence="no", is_final=True)
            is_known = kind in (AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED)
            expected = Verdict(AnswerKind.DENIED, sentence="no", is_final=True) if is_known else verdict
            self.assertEqual(verdict.without_known_words(), expected)
