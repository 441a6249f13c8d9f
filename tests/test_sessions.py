"""Sessions are remembered within bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.sessions import SESSION_LIFE, SeenSessions


class SeenSessionsTests(SynchronousTestCase):
    """Each pair is new once, for a day."""

    def test_once_per_session_and_model(self) -> None:
        seen = SeenSessions()
        self.assertTrue(seen.is_new("a", "opus", 0))
        self.assertFalse(seen.is_new("a", "opus", 1))
        self.assertTrue(seen.is_new("a", "haiku", 1))

    def test_a_use_prolongs_and_silence_forgets(self) -> None:
        seen = SeenSessions()
        seen.is_new("a", None, 0)
        self.assertFalse(seen.is_new("a", None, SESSION_LIFE))
        self.assertFalse(seen.is_new("a", None, 2 * SESSION_LIFE))
        self.assertTrue(seen.is_new("a", None, 3 * SESSION_LIFE + 1))

    def test_bounded(self) -> None:
        seen = SeenSessions(bound=3)
        for name in "abcd":
            seen.is_new(name, None, 0)
        self.assertEqual(len(seen), 3)
        self.assertFalse(seen.is_new("d", None, 0))
        self.assertTrue(seen.is_new("a", None, 0))
