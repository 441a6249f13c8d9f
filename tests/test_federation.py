"""Instances that lend each other capacity, from a client's bytes to the upstream's (spec 7)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.federated import Federation, external, user


class NormalTests(SynchronousTestCase):
    """B borrows from A, whom it can dial."""

    def setUp(self) -> None:
        self.federation = Federation(self)
        self.a = self.federation.add(8081, [self.federation.account("a1")], [user("b", "a1")])
        self.b = self.federation.add(
            8082,
            [external("friend", "b", url="http://127.0.0.1:8081")],
            [user("alice", "friend", allow_external_usage=True)],
            more="    headers: {X-Team: ours}",
        )

    def test_a_turn(self) -> None:
        response = self.b.answer("[[say:lent]]")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json()["content"][0]["text"], "lent")
        self.assertEqual(self.federation.served_by(), "a1")


class ReverseTests(SynchronousTestCase):
    """B borrows from A, which cannot be dialled: A dials B, and serves it over that."""

    def setUp(self) -> None:
        self.federation = federation = Federation(self)
        self.b = federation.add(
            8082, [external("friend", "b")], [user("alice", "friend", allow_external_usage=True)]
        )
        self.a = federation.add(
            8081,
            [
                federation.account("a1"),
                external("b", "b", url="http://127.0.0.1:8082", reverse=True),
            ],
            [user("b", "a1")],
        )

    def test_a_turn(self) -> None:
        response = self.b.answer("[[say:lent]]")
        self.assertEqual(response.status, 200, response.body)
        self.assertEqual(response.json()["content"][0]["text"], "lent")
        self.assertEqual(self.federation.served_by(), "a1")
