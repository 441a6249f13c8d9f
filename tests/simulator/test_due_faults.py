"""The fault that a request meets."""

from __future__ import annotations

import random
from dataclasses import dataclass

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.due_faults import DueFaults, wish
from ccmproxy.simulator.faults import Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused, json_reply
from ccmproxy.simulator.steps import Reply


@dataclass
class Owner:
    """Whose requests they are."""

    name: str


def request(simulate: bytes | None = None) -> ReceivedRequest:
    """A request, which may ask for a fault."""
    headers = [] if simulate is None else [(b"X-Simulate", simulate)]
    return ReceivedRequest(1, 0.0, b"GET", b"/usage", headers, b"", "test")


class DueTests(SynchronousTestCase):
    """The fault comes from the plan, or from the request."""

    def setUp(self) -> None:
        self.plan = FaultPlan(random.Random(0))
        self.due = DueFaults[Owner](self.plan, self.invalid, self.replacement)
        self.answered = 0

    def invalid(self, account: Owner | None, message: str) -> Reply:
        """The 400."""
        return json_reply(400, [account and account.name, message])

    def replacement(self, request: ReceivedRequest, account: Owner | None, fault: Fault, model: str) -> Reply:
        """The response in place of the real one."""
        return json_reply(500, [account and account.name, fault.name, model])

    def real(self) -> Reply:
        """The real response, which has an effect."""
        self.answered += 1
        return json_reply(200, None)

    def test_wishes(self) -> None:
        self.assertIsNone(wish(request()))
        self.assertEqual(wish(request(), "slow"), "slow")
        self.assertEqual(wish(request(b"cut"), "slow"), "cut")

    def test_without_a_fault(self) -> None:
        received = request()
        delivery = self.due.deliver(received, Owner("a"), "usage", self.real)
        self.assertEqual((delivery.reply.head.status, delivery.fault), (200, None))
        self.assertEqual((received.endpoint, received.fault), ("usage", None))

    def test_another_answer_has_no_effect(self) -> None:
        received = request(b"server_error")
        delivery = self.due.deliver(received, Owner("a"), "usage", self.real)
        self.assertEqual(delivery.reply.body, b'["a","server_error",""]')
        self.assertEqual((received.fault, self.answered), ("server_error", 0))

    def test_the_answer_badly_delivered_has_its_effect(self) -> None:
        delivery = self.due.deliver(request(b"slow;seconds=3"), None, "usage", self.real)
        self.assertEqual((delivery.reply.head.status, self.answered), (200, 1))
        self.assertEqual(delivery.fault, Fault("slow", seconds=3.0))

    def test_what_is_queued_is_for_one_account_and_endpoint(self) -> None:
        self.plan.next("slow", endpoint="usage", account="a")
        self.assertIsNone(self.due.meet(request(), Owner("b"), "usage"))
        self.assertIsNone(self.due.meet(request(), Owner("a"), "turn"))
        self.assertEqual(self.due.meet(request(), Owner("a"), "usage"), Fault("slow"))

    def test_a_conversation_meets_it_so_often(self) -> None:
        for conversation, met in (("x", True), ("x", False), ("y", True)):
            fault = self.due.meet(request(), None, "turn", "slow;times=1", conversation)
            self.assertEqual(fault is not None, met)

    def test_a_wish_that_cannot_be_read(self) -> None:
        error = self.assertRaises(
            RequestRefused, self.due.deliver, request(b"nonsense!"), Owner("a"), "usage", self.real
        )
        assert isinstance(error, RequestRefused)
        self.assertEqual(error.reply.body, b'["a","unknown fault: nonsense!"]')
        self.assertEqual(self.answered, 0)
