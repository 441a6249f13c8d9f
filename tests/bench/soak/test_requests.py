"""Requests follow from the seed, and each can be found by its id."""

from __future__ import annotations

import json
import random

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.requests import CANARY, WEIGHTS, Request, Requests


def some(seed: str = "1", count: int = 600) -> list[Request]:
    """The first requests of a client."""
    requests = Requests("c1", random.Random(seed))
    return [requests.next() for _ in range(count)]


class RequestTests(SynchronousTestCase):
    def test_the_seed_decides(self) -> None:
        self.assertEqual(some(), some())
        self.assertNotEqual(some(), some("2"))

    def test_every_kind_is_made(self) -> None:
        found = some()
        self.assertEqual({request.kind for request in found}, set(WEIGHTS))
        self.assertTrue(any(request.reads_slowly for request in found))
        self.assertTrue(any(request.leaves is not None and request.sends < 1 for request in found))
        self.assertTrue(any(request.leaves is not None and request.sends == 1 for request in found))

    def test_ids(self) -> None:
        """Each id is used once, and stands in the body together with the word that no log may hold."""
        ids = []
        for request in some():
            ids.append(request.id)
            bodies = [(request.id, request.body)] if request.body else []
            bodies += [(identity, body) for identity, _, body in request.turns]
            ids += [identity for identity, _, _ in request.turns]
            for identity, body in bodies:
                self.assertIn(identity.encode() + b" " + CANARY.encode(), body)
        self.assertEqual(len(ids), len(set(ids)))

    def test_the_text_is_what_is_to_be_said(self) -> None:
        for request in some():
            if request.kind == "claude message":
                prompt = json.loads(request.body)["messages"][0]["content"]
                self.assertIn(f"[[say:{request.text}]]", prompt)
