"""A scripted remote instance in memory: its status endpoint by URL, and reverse connections that it opens."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.credentials.remote.external import External, RemoteSide
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.reverse import StreamClientEndpoint, YamuxProtocol
from ccmproxy.testing.pump import MemoryNetwork, Pump
from tests.credentials.fixtures import NOW
from tests.logged import everything, log_events

SECRET = "our-token-4711"
FRIEND = ("friend.test", 8080)
URL = "http://friend.test:8080/team"


class Side:
    """The server of a remote at one address. ``polls`` and ``streams``: the requests of either kind.

    ``status``: the status of answers to polls; ``hangs``: polls are not answered. ``stream_status``: the status of
    answers to requests for a stream. ``others``: all other requests, which are not answered.
    """

    def __init__(self, scene: RemoteScene) -> None:
        self.status = self.stream_status = 200
        self.headers: Headers = []
        self.hangs = False
        self.polls: list[ServerRequest] = []
        self.streams: list[ServerRequest] = []
        self.others: list[ServerRequest] = []
        self.document: dict[str, Any] = {
            "five_hour_utilization": 20,
            "five_hour_reset": NOW + 7200,
            "weekly_utilization": 40,
            "weekly_reset": NOW + 86400,
            "plan_weight": 15,
        }
        self.factory = HTTPServerFactory(self._handle, scene.clock)

    def line(self) -> bytes:
        """Return the state as it is sent."""
        return json.dumps(self.document).encode() + b"\n"

    def tell(self, **fields: Any) -> None:
        """Change the state in this way. All watchers receive it."""
        self.document |= fields
        for stream in self.streams:
            if not stream.is_over:
                stream.write(self.line())

    def _handle(self, request: ServerRequest) -> None:
        path, query = request.head.path, request.head.query
        if not path.endswith(b"/ccm/v1/status"):
            self.others.append(request)
        elif query == b"watch=true":
            self.streams.append(request)
            if self.stream_status == 200:
                request.start_response(ResponseHead(200, b"OK", []))
                request.write(self.line())
            else:
                request.respond(ResponseHead(self.stream_status, b"", []), b"")
        else:
            self.polls.append(request)
            if not self.hangs:
                request.respond(ResponseHead(self.status, b"", self.headers), self.line())


@implementer(IReverseLink)
class Reverse:
    """A reverse connection. ``side``: the remote behind it; ``closed``: how often it was closed locally."""

    def __init__(self, scene: RemoteScene) -> None:
        self.side = Side(scene)
        self.ours = YamuxProtocol(scene.clock, True)
        self.theirs = YamuxProtocol(scene.clock, False, self.side.factory)
        self.pump = Pump(self.ours, self.theirs)
        self.endpoint = StreamClientEndpoint(self.ours)
        self.closed = 0
        scene.pumps.append(self.pump)
        scene.external.attach(self)
        self.ours.when_lost().addCallback(lambda _: scene.external.detach(self))

    @property
    def is_usable(self) -> bool:
        """See IReverseLink."""
        return self.ours.is_usable

    def close(self) -> None:
        """See IReverseLink."""
        self.closed += 1
        self.ours.close(10)

    def lose(self) -> None:
        """Simulate that the network loses the connection."""
        self.pump.server.abortConnection()


class RemoteScene:
    """``friend``, as an external credential, and its remote. Checks at the end that nothing is left."""

    def __init__(self, case: SynchronousTestCase, url: str | None = URL, **options: Any) -> None:
        self.case = case
        self.clock = Clock()
        self.clock.advance(NOW)
        self.network = MemoryNetwork(self.clock)
        self.direct = Side(self)
        self.listener = self.network.listen(*FRIEND, self.direct.factory)
        self.pumps: list[Pump] = []
        self.events = log_events(case)
        self.changes = 0
        #: Seconds by which Unix time was set ahead of the clock.
        self.ahead = 0.0
        self.external = External(
            "friend",
            SECRET,
            RemoteSide("/ccm/v1/status", "ccmproxy/test"),
            self.clock,
            random.Random(1).random,
            url=url,
            endpoint=None if url is None else self.network.endpoint(*FRIEND),
            now=lambda: self.clock.seconds() + self.ahead,
            **options,
        )
        self.external.subscribe(self._changed)
        case.addCleanup(self.finish)

    def _changed(self) -> None:
        self.changes += 1

    def set_clock(self, by: float) -> None:
        """Set Unix time by ``by`` seconds."""
        self.ahead += by
        self.external.clock_set(by)
        self.settle()

    def start(self) -> None:
        """Run until nothing moves."""
        self.external.start()
        self.settle()

    def settle(self) -> None:
        """Run everything that happens without time passing."""
        for _ in range(10):
            self.network.flush()
            for pump in self.pumps:
                pump.flush()
            self.clock.advance(0)

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Step by step."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            self.settle()
            seconds -= step

    @property
    def state(self) -> tuple[str, str]:
        """Return the availability and its reason."""
        availability = self.external.snapshot(self.clock.seconds()).availability
        return availability.state, availability.reason

    @property
    def used(self) -> tuple[float | None, float | None]:
        """Return the utilization of both windows."""
        limits = self.external.state.limits
        return limits.short.utilization, limits.weekly.utilization

    def logged(self) -> str:
        """Everything logged, as text."""
        return everything(self.events)

    def finish(self) -> None:
        """Assert that after stopping nothing is requested, scheduled or open, and that no token was logged."""
        self.external.stop()
        self.settle()
        for pump in self.pumps:
            pump.server.abortConnection()
        self.direct.factory.abort_all()
        self.settle()
        self.pass_time(15)
        self.case.assertEqual(self.clock.getDelayedCalls(), [])
        self.case.assertFalse(SECRET in self.logged(), "a token was logged")
