"""Sessions are remembered within bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.sessions import SESSION_LIFE, IssuedValues, SeenSessions


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


class IssuedValuesTests(SynchronousTestCase):
    """A value means something only to the credential that issued it, in the session that it was issued to."""

    def test_the_issuer_is_remembered(self) -> None:
        values = IssuedValues()
        values.issued("s", b"v", "a", 0)
        self.assertTrue(values.is_from("s", b"v", "a", SESSION_LIFE))
        for session, value, tag, now in (
            ("s", b"v", "b", 0.0),
            ("t", b"v", "a", 0.0),
            (None, b"v", "a", 0.0),
            ("s", b"w", "a", 0.0),
            ("s", b"v", "a", SESSION_LIFE + 1),
        ):
            self.assertFalse(values.is_from(session, value, tag, now))
        values.issued("s", b"v", "b", 1)
        self.assertFalse(values.is_from("s", b"v", "a", 1))

    def test_bounded(self) -> None:
        values = IssuedValues(bound=3)
        for name in (b"a", b"b", b"c", b"d"):
            values.issued(None, name, "x", 0)
        self.assertEqual(len(values), 3)
        self.assertFalse(values.is_from(None, b"a", "x", 0))
