"""A value is sent back only to the credential that issued it (spec 3.6)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.bound_values import BoundValues

STATE = [(b"X-Turn-State", b"abc")]


class BoundValuesTests(SynchronousTestCase):
    """Values in the field ``x-turn-state``."""

    def test_issued(self) -> None:
        values = BoundValues(b"x-turn-state", lambda: 5.0)
        self.assertFalse(values.is_bound(STATE, "s", "a"))
        values.bind(STATE, "s", "a")
        self.assertTrue(values.is_bound(STATE, "s", "a"))
        self.assertFalse(values.is_bound(STATE, "s", "b"))
        self.assertFalse(values.is_bound(STATE, "other", "a"))
        self.assertFalse(values.is_bound([], "s", "a"))

    def test_an_answer_without_one_changes_nothing(self) -> None:
        values = BoundValues(b"x-turn-state", lambda: 5.0)
        values.bind(STATE, "s", "a")
        values.bind([(b"X-Other", b"abc")], "s", "b")
        self.assertTrue(values.is_bound(STATE, "s", "a"))

    def test_a_dialect_without_such_a_field(self) -> None:
        values = BoundValues(b"", lambda: 5.0)
        values.bind([(b"", b"abc")], "s", "a")
        self.assertFalse(values.is_bound([(b"", b"abc")], "s", "a"))
