"""The bounded memory of sessions and issued values."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.sessions import (
    JUST_ASSIGNED,
    MOST_SESSION_MODELS,
    SESSION_LIFE,
    IssuedValues,
    RecentAssignments,
    SessionKey,
    SessionTable,
)

ALICE = SessionKey("alice", "s")


class IssuedValuesTests(SynchronousTestCase):
    """A value is valid only for the credential that issued it, in the session to which it was issued."""

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
        values.issued("s", b"w", "a", 10 * SESSION_LIFE)
        self.assertTrue(values.is_from("s", b"w", "a", 10 * SESSION_LIFE + 1))

    def test_bounded(self) -> None:
        values = IssuedValues(bound=3)
        for name in (b"a", b"b", b"c", b"d"):
            values.issued(None, name, "x", 0)
        self.assertEqual(len(values), 3)
        self.assertFalse(values.is_from(None, b"a", "x", 0))
        values.issued(None, b"b", "y", 1)
        values.issued(None, b"e", "x", 1)
        self.assertTrue(values.is_from(None, b"b", "y", 1))
        self.assertFalse(values.is_from(None, b"c", "x", 1))


class SessionTableTests(SynchronousTestCase):
    """A session stays assigned for a day after its last use."""

    def credential(self, table: SessionTable, key: SessionKey, now: float) -> str | None:
        found = table.find(key, now)
        return found.credential if found is not None else None

    def test_put_and_found(self) -> None:
        table = SessionTable()
        self.assertIsNone(table.find(ALICE, 0))
        table.assign(ALICE, "a", 0)
        self.assertEqual(self.credential(table, ALICE, 1), "a")
        table.assign(ALICE, "b", 2)
        found = table.find(ALICE, 3)
        assert found is not None
        self.assertEqual((found.credential, found.since, found.last_use), ("b", 2, 3))

    def test_users_scopes_and_agents_share_nothing(self) -> None:
        table = SessionTable()
        table.assign(ALICE, "a", 0)
        for other in (
            ALICE._replace(user="bob"),
            ALICE._replace(session="t"),
            ALICE._replace(allow_external=True),
            ALICE._replace(agent="x"),
        ):
            self.assertIsNone(table.find(other, 0))

    def test_a_use_prolongs_and_silence_forgets(self) -> None:
        table = SessionTable()
        table.assign(ALICE, "a", 0)
        self.assertEqual(self.credential(table, ALICE, SESSION_LIFE), "a")
        self.assertEqual(self.credential(table, ALICE, 2 * SESSION_LIFE), "a")
        self.assertEqual(table.of_user("alice", 3 * SESSION_LIFE + 1), [])
        self.assertIsNone(table.find(ALICE, 3 * SESSION_LIFE + 1))
        self.assertEqual(len(table), 0)

    def test_bounded(self) -> None:
        table = SessionTable(bound=3)
        for name in "abc":
            table.assign(SessionKey("u", name), "x", 0)
        table.find(SessionKey("u", "a"), 1)
        table.assign(SessionKey("u", "d"), "x", 2)
        self.assertEqual([key.session for key, _ in table.of_user("u", 2)], ["d", "a", "c"])

    def test_forgetting_is_of_credentials_and_scope(self) -> None:
        table = SessionTable()
        for number, (tag, scope) in enumerate((("a", True), ("a", False), ("b", False), ("a", False))):
            table.assign(SessionKey("u", str(number), scope), tag, 0)
        self.assertEqual(table.forget_all(("a",), False), 2)
        self.assertEqual({key.session for key, _ in table.of_user("u", 0)}, {"0", "2"})
        self.assertEqual(table.forget_all(("a", "b")), 2)
        self.assertEqual(len(table), 0)

    def test_only_ones_own(self) -> None:
        table = SessionTable()
        table.assign(ALICE, "a", 0)
        table.assign(SessionKey("bob", "s"), "b", 0)
        self.assertEqual([key.user for key, _ in table.of_user("bob", 0)], ["bob"])

    def test_models_stay_known_when_it_moves(self) -> None:
        table = SessionTable()
        assignment = table.assign(ALICE, "a", 0)
        self.assertTrue(assignment.asked_for("opus"))
        self.assertFalse(assignment.asked_for("opus"))
        self.assertFalse(assignment.asked_for(None))
        self.assertTrue(assignment.asked_for("haiku"))
        self.assertFalse(assignment.asked_for("opus"))
        self.assertEqual(assignment.models, ["haiku", "opus"])
        self.assertFalse(assignment.asked_for("opus"))
        self.assertEqual(assignment.models, ["haiku", "opus"])
        self.assertEqual(table.assign(ALICE, "b", 1).model, "opus")
        for number in range(20):
            assignment.asked_for(f"m{number}")
        self.assertEqual(len(assignment.models), MOST_SESSION_MODELS)
        self.assertEqual(assignment.model, "m19")


class RecentAssignmentsTests(SynchronousTestCase):
    """An assignment counts as recent for a minute."""

    def test_counted_and_forgotten(self) -> None:
        recent = RecentAssignments()
        recent.add("a", 0)
        recent.add("a", 1)
        recent.add("b", 1)
        self.assertEqual([recent.count(tag, 1) for tag in "abc"], [2, 1, 0])
        self.assertEqual([recent.count(tag, JUST_ASSIGNED) for tag in "ab"], [1, 1])
        self.assertEqual([recent.count(tag, JUST_ASSIGNED + 1) for tag in "ab"], [0, 0])

    def test_a_clock_set_back_keeps_nothing_for_ever(self) -> None:
        recent = RecentAssignments()
        recent.add("a", 1000)
        self.assertEqual(recent.count("a", 10), 0)
