"""The record finds every request by its id, and knows the secrets that it has seen."""

from __future__ import annotations

import random
from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bench.soak.judging import BUSY, REFRESH_REFUSED, UNAUTHORIZED
from bench.soak.requests import Requests
from bench.soak.upstream import ById, consequences, make_upstream
from ccmproxy.simulator.record import ReceivedRequest
from tests.bench.soak.scene import sent


def received(
    body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = (), peer: str = "a"
) -> ReceivedRequest:
    """A request as it arrives."""
    return ReceivedRequest(1, 0.0, b"POST", b"/v1/messages", list(headers), body, peer)


class RecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.record = ById(self.clock.seconds)

    def test_by_the_prompt_and_by_the_field(self) -> None:
        self.record.append(received(b'"soak-c1-7 please"'))
        self.record.append(received(headers=[(b"x-soak-id", b"soak-c1-8")]))
        self.assertEqual(self.record.left, ["soak-c1-7", "soak-c1-8"])
        self.assertEqual(len(self.record.take("soak-c1-7")), 1)
        self.assertEqual(self.record.take("soak-c1-7"), [])
        self.assertEqual(self.record.left, ["soak-c1-8"])

    def test_every_request_of_a_run(self) -> None:
        requests = Requests("c1", random.Random(1))
        for _ in range(200):
            request = requests.next()
            for identity, body in [(request.id, request.body), *((i, body) for i, _, body in request.turns)]:
                if body:
                    self.record.append(received(body))
                    self.assertEqual(len(self.record.take(identity)), 1)

    def test_repetitions_in_order(self) -> None:
        """What became of a request is known only later."""
        first = received(b"soak-c1-1")
        self.record.append(first)
        self.clock.advance(2)
        self.record.append(received(b"soak-c1-1"))
        first.fault, first.state, first.status = "cut", "broken", 200
        tries = self.record.take("soak-c1-1")
        self.assertEqual(
            [(found.at, found.fault, found.reused) for found in tries],
            [(0.0, "cut", False), (2.0, None, True)],
        )

    def test_secrets(self) -> None:
        self.record.append(received(b"soak-c1-1", [(b"authorization", b"Bearer an-access-token")]))
        self.record.append(received(b'{"refresh_token": "a-refresh-token"}'))
        self.assertEqual(self.record.secrets, {"an-access-token", "a-refresh-token"})

    def test_refreshes_that_were_refused(self) -> None:
        refused, granted = (received(b'{"refresh_token": "a-refresh-token"}') for _ in range(2))
        self.clock.advance(5)
        self.record.append(refused)
        self.record.append(granted)
        refused.fault = "unavailable"
        self.assertEqual(
            [(event.name, event.began) for event in self.record.take_refusals()], [(REFRESH_REFUSED, 5.0)]
        )
        self.assertEqual(self.record.take_refusals(), [])


class UpstreamTests(SynchronousTestCase):
    def test_secrets_of_all_accounts(self) -> None:
        upstream = make_upstream(Clock(), 1, lambda: 0.0)
        found = upstream.secrets()
        self.assertEqual(len(upstream.accounts), 7)
        for account in upstream.accounts:
            self.assertIn(account.access_token, found)
            account.log_in()
            self.assertIn(account.refresh_token, upstream.secrets())

    def test_consequences(self) -> None:
        tries = [sent(status=429, at=3.0), sent(), sent(status=401, at=4.0), sent(status=529)]
        events = consequences("claude", tries)
        self.assertEqual(
            [(event.name, event.began, event.service) for event in events],
            [(BUSY, 3.0, "claude"), (UNAUTHORIZED, 4.0, "claude")],
        )
