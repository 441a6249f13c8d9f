"""What a client got, in words."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.outcomes import End
from tests.bench.soak.scene import broken, outcome, refused, sent


class ShapeTests(SynchronousTestCase):
    def test_each(self) -> None:
        for expected, found in (
            ("served", outcome()),
            ("other content", outcome(is_right=False)),
            ("failure in the stream", outcome(is_right=False, failed=True)),
            ("refused: 529", refused(529)),
            ("refused here: busy", refused(429, "busy")),
            ("broken off", broken()),
            ("no answer", broken(status=0)),
            ("hung", outcome(end=End.HUNG)),
            ("left", outcome(end=End.LEFT)),
        ):
            self.assertEqual(found.shape, expected)

    def test_served_by_the_simulator(self) -> None:
        self.assertTrue(sent().is_served)
        self.assertTrue(sent(fault="pings").is_served)
        self.assertFalse(sent(fault="cut", state="broken").is_served)
        self.assertFalse(sent(status=529, fault="overloaded").is_served)
        self.assertFalse(sent(state="gone").is_served)
