"""The scores that the product does not use do what their names say."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.scorings import IDEAS
from ccmproxy.policy.balancing import Candidate
from ccmproxy.state.availability import Availability, Caps, CredentialSnapshot
from ccmproxy.state.limits import Limits, Window

NOW = 1_767_571_200.0
BY_NAME = {idea.name: idea.score for idea in IDEAS}


def candidate(
    short: float = 0.0, weekly: float = 0.0, hours: float = 168.0, weight: float = 1.0, assigned: int = 0
) -> Candidate:
    """Windows in percent; the week ends in so many hours."""
    limits = Limits(Window(short, NOW + 3600.0), Window(weekly, NOW + hours * 3600.0))
    usable = Availability("usable")
    return Candidate(CredentialSnapshot("a", False, usable, limits, Caps(), weight, True, True), assigned)


class ScoringTests(SynchronousTestCase):
    """One idea each."""

    def test_everything_prefers_the_larger_and_less_used(self) -> None:
        for idea in IDEAS:
            plain = idea.score(candidate(weekly=50.0), 0, NOW)
            self.assertGreater(idea.score(candidate(weekly=20.0), 0, NOW), plain, idea.name)
            self.assertGreater(idea.score(candidate(weekly=50.0, weight=5.0), 0, NOW), plain, idea.name)
            self.assertLess(idea.score(candidate(weekly=50.0, assigned=1), 0, NOW), plain, idea.name)

    def ratio(self, name: str, better: Candidate, active: int = 0) -> float:
        """The ratio of an unused account's score to that of ``better``."""
        return BY_NAME[name](better, active, NOW) / BY_NAME[name](candidate(), 0, NOW)

    def test_urgency(self) -> None:
        soon = candidate(hours=168.0 / 16)
        self.assertAlmostEqual(self.ratio("root of urgency", soon), 4.0)
        self.assertAlmostEqual(self.ratio("shared by sessions at work", soon), 16.0)

    def test_the_short_window(self) -> None:
        half = candidate(short=49.5)
        self.assertAlmostEqual(self.ratio("times what is left of the 5-hour window", half), 0.5)
        self.assertAlmostEqual(self.ratio("both of these", half), 0.5)
        self.assertAlmostEqual(self.ratio("shared by sessions at work", half), 1.0)

    def test_sessions_at_work(self) -> None:
        self.assertAlmostEqual(self.ratio("shared by sessions at work", candidate(), 3), 0.25)
        self.assertAlmostEqual(self.ratio("shared by sessions at work", candidate(assigned=1), 3), 0.25)
        self.assertAlmostEqual(self.ratio("times what is left of the 5-hour window", candidate(), 3), 1.0)
