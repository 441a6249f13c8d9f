"""A request is answered once and logged once, even if several answers are attempted."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from ccmproxy.dialects.claude import CLAUDE
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.usage import MeterReading, Tokens
from ccmproxy.http.message import ResponseHead
from ccmproxy.policy.refusals import Refusal
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.forwarder import Forwarder
from ccmproxy.proxy.proxied_request import LOGGED_PATH, ProxiedRequest
from tests.effort import Effort
from tests.http.conversation import Client, ServerTestCase
from tests.proxy.parts import ShownCredential, ShownProvider

GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


class ProxiedRequestTests(ServerTestCase):
    """Requests on an in-memory connection."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.free = ShownCredential("free", 10.0)
        self.full = ShownCredential("full", 100.0)
        self.ends = 0

    def ask(self, raw: bytes = GET) -> tuple[Client, ProxiedRequest]:
        """A request that waits for its answer."""
        client = self.connect()
        client.send(raw)
        clock = Clock()
        clock.advance(1000)
        caller = Caller("alice", ShownProvider(self.full, self.free))
        context = Forwarder(CLAUDE, clock, clock.seconds).context
        asked = ProxiedRequest(context, self.requests.pop(), caller, "req_1")
        asked.on_concluded = self.concluded
        return client, asked

    def concluded(self) -> None:
        """Count the calls."""
        self.ends += 1

    def lines(self) -> list[tuple[object, object]]:
        """Status and result of every request that was logged."""
        return [(event["status"], event["result"]) for event in self.events if "result" in event]

    def test_what_is_remembered_of_betas_is_short(self) -> None:
        """F63: combinations are remembered, and a client may name as many betas as a head holds."""
        _, asked = self.ask()
        with Effort(memory=True) as effort:
            for number in range(20):
                asked.facts = RequestFacts(features=tuple(f"{number}-{each}" for each in range(5_000)))
                asked._combination = None
                self.assertLessEqual(len(asked.combination.betas), 1000)
        self.assertLess(effort.peak, 2_000_000)

    def test_a_refusal(self) -> None:
        client, asked = self.ask()
        self.assertFalse(asked.is_over)
        asked.refuse(Refusal(503, "busy", "not now", retry_after=7), [(b"X-More", b"1")])
        self.flush()
        for field in (b"HTTP/1.1 503", b"Retry-After: 7\r\n", b"X-More: 1\r\n", b"X-CCM-Error: busy\r\n"):
            self.assertIn(field, client.received)
        self.assertTrue(asked.is_over)
        self.assertEqual((self.lines(), self.ends), ([(503, "busy")], 1))

    def test_only_the_first_end_counts(self) -> None:
        client, asked = self.ask()
        asked.conclude(200, "served")
        asked.conclude(499, "client_gone")
        self.assertEqual((self.lines(), self.ends), ([(200, "served")], 1))
        asked.request.respond(ResponseHead(200, b"OK", []), b"")
        self.flush()
        self.assertIn(b"200 OK", client.received)

    def test_nobody_is_there_to_be_told(self) -> None:
        client, asked = self.ask()
        asked.is_gone = True
        asked.refuse(Refusal(502, "upstream_lost", "gone"))
        self.flush()
        self.assertEqual(client.received, b"")
        self.assertEqual(self.lines(), [(502, "upstream_lost")])
        asked.request.respond(ResponseHead(200, b"OK", []), b"")

    def test_what_the_log_says(self) -> None:
        _client, asked = self.ask(GET.replace(b"models", b"x" * 500))
        asked.facts = RequestFacts(model="m-1", session="s-1")
        asked.credential = "free"
        asked.tries = 2
        asked.begin_answer()
        self.assertTrue(asked.has_begun)
        reading = MeterReading(Tokens(input=3, output=4), "m-2", None, True, "", True)
        asked.conclude(200, "served", reading)
        (event,) = (event for event in self.events if "result" in event)
        self.assertEqual(
            [event[name] for name in ("user", "credential", "model", "session", "tries", "first_byte")],
            ["alice", "free", "m-2", "s-1", 2, 0.0],
        )
        self.assertEqual((event["tokens"], len(str(event["path"]))), (reading.tokens, LOGGED_PATH))
        asked.request.respond(ResponseHead(200, b"OK", []), b"")

    def test_one_too_many_is_no_request_under_way(self) -> None:
        client, asked = self.ask()
        asked.refuse_one_more(4)
        self.flush()
        self.assertIn(b"HTTP/1.1 429", client.received)
        self.assertIn(b"4 requests of this user are under way already", client.received)
        self.assertEqual((self.lines(), self.ends), ([], 0))

    def test_who_else_can(self) -> None:
        _client, asked = self.ask()
        asked.facts = RequestFacts(model="m-1", session="s-1", agent="x")
        self.assertTrue(asked.another_can("full"))
        self.assertFalse(asked.another_can("free"))
        asked.excluded = {"free"}
        self.assertFalse(asked.another_can("full"))
        selection = asked.selection()
        self.assertEqual(
            (selection.user, selection.session, selection.model, selection.agent, selection.excluded),
            ("alice", "s-1", "m-1", "x", frozenset({"free"})),
        )
        asked.request.respond(ResponseHead(200, b"OK", []), b"")
