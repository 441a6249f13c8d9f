"""Which endpoint a request is for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused, json_reply
from ccmproxy.simulator.routing import Routing
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.upstream import Delivery


def exact(request: ReceivedRequest) -> Delivery:
    """One endpoint."""
    return Delivery(json_reply(200, "exact"))


def below(request: ReceivedRequest) -> Delivery:
    """All endpoints below a path."""
    return Delivery(json_reply(200, "below"))


def refusing(request: ReceivedRequest) -> Delivery:
    """An endpoint that nobody is let in to."""
    raise RequestRefused(json_reply(403, "refused"))


def not_allowed(request: ReceivedRequest) -> Reply:
    """The 405."""
    return json_reply(405, "not allowed")


class RoutingTests(SynchronousTestCase):
    """By method and path."""

    def setUp(self) -> None:
        self.routing = Routing(
            {(b"POST", b"/a"): exact, (b"GET", b"/a/b"): exact, (b"GET", b"/no"): refusing},
            {(b"GET", b"/a/"): below},
            not_allowed,
        )

    def ask(self, method: bytes, target: bytes) -> tuple[int, bytes] | None:
        """Status and body of the answer; None: somebody else's path."""
        answer = self.routing.answer(ReceivedRequest(1, 0.0, method, target, [], b"", "test"))
        return None if answer is None else (answer.reply.head.status, answer.reply.body)

    def test_table(self) -> None:
        for method, target, expected in (
            (b"POST", b"/a?x=1", (200, b'"exact"')),
            (b"GET", b"/a/b", (200, b'"exact"')),
            (b"GET", b"/a/c", (200, b'"below"')),
            (b"GET", b"/no", (403, b'"refused"')),
            (b"GET", b"/a", (405, b'"not allowed"')),
            (b"PUT", b"/a/b", (405, b'"not allowed"')),
            (b"POST", b"/a/c", None),
            (b"GET", b"/other", None),
        ):
            self.assertEqual(self.ask(method, target), expected, (method, target))
        self.assertEqual(self.routing.paths, {b"/a", b"/a/b", b"/no"})
