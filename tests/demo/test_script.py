"""The script's verdicts: a failure is reported, and does not stop the script.

That everything succeeds is tested with the whole program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Response
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ccmproxy.demo import script
from ccmproxy.demo.stage import Demo


class Unhappy(Demo):
    """Every request gets a response, but not the expected one."""

    body = b"<html>"

    async def ask(self, prompt: str, **options: Any) -> tuple[IResponse, bytes, bool]:
        """The same, whatever it is."""
        response = Response((b"HTTP", 1, 1), 502, b"Bad Gateway", Headers(), None)
        return response, self.body, False


class JudgementTests(SynchronousTestCase):
    """Steps that ask for messages."""

    def test_what_goes_wrong_is_told(self) -> None:
        for body in (b"<html>", b"", b"[]", b'{"error": "x"}', b'{"error": {"type": "t", "message": "m"}}'):
            for step in (
                script.a_turn,
                script.a_streamed_turn,
                script.an_expired_token,
                script.an_overloaded_upstream,
                script.a_cut,
                script.a_used_up_account,
                script.an_account_that_runs_out,
                script.an_unknown_token,
            ):
                demo = Unhappy(Clock(), Path("unused"), 1)
                demo.body = body
                outcome = self.successResultOf(Deferred.fromCoroutine(step(demo)))
                self.assertFalse(outcome.went_well, (outcome, body))

    def test_the_words_of_an_error_are_shown(self) -> None:
        demo = Unhappy(Clock(), Path("unused"), 1)
        demo.body = b'{"error": {"type": "api_error", "message": "lost"}}'
        outcome = self.successResultOf(Deferred.fromCoroutine(script.an_unknown_token(demo)))
        self.assertEqual(outcome.observed, "502 api_error")
        outcome = self.successResultOf(Deferred.fromCoroutine(script.a_turn(demo)))
        self.assertEqual(outcome.observed, "502, broken: lost")

    def test_every_step_is_told_apart(self) -> None:
        names = [step.__name__ for step in script.SCRIPT]
        self.assertEqual(len(set(names)), len(names))
