"""The status endpoint: the state that a user may see, once or as a stream (spec 8.2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.dialects.base import Dialect
from ccmproxy.http.message import Headers, ResponseHead, first_value
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.rate import TokenBucket
from ccmproxy.proxy.caller import Caller
from ccmproxy.state.aggregate import aggregate, status_object, with_countdown
from ccmproxy.surfaces.own_endpoints import answer_get

#: Time after which a watcher that does not read is disconnected (seconds, spec 8.2).
STALLED_WATCHER = 60.0
#: Token bucket of each stream: burst size and seconds per further state; excess states collapse into the newest.
#: Without it, two instances that use each other as remotes could update each other endlessly, because each state of one
#: changes the state of the other.
BURST = 10
APART = 0.2
#: How the User-Agent of readers begins to whom null says that a figure is unknown (spec 14).
_READS_NULL = b"ccmproxy/"
#: Interval at which streams are checked for resets of windows that have passed (seconds).
LOOK_AGAIN = 30.0


class StatusEndpoint:
    """Answers ``GET …/status`` and keeps the streams of ``?watch=true`` up to date."""

    log = Logger()

    def __init__(self, dialect: Dialect, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._dialect = dialect
        self._clock = clock
        self._now = now
        self.watchers: set[Watcher] = set()

    def handle(self, request: ServerRequest, caller: Caller, request_id: str) -> None:
        """Answer an authenticated request."""

        def answer(headers: Headers) -> None:
            if _wants_stream(request.head.query):
                Watcher(self, request, caller, self._clock).start(headers)
            else:
                line = self.render(self.state(request, caller))
                request.respond(ResponseHead(200, b"OK", headers), line)

        answer_get(self._dialect, request, request_id, answer)

    def state(self, request: ServerRequest, caller: Caller) -> dict[str, Any]:
        """Return the object with the state that the caller may see, in the form for whoever sent ``request``."""
        now = self._now()
        user_agent = first_value(request.head.headers, b"user-agent") or b""
        return status_object(
            aggregate(caller.shown_snapshots(now), now), reads_null=user_agent.startswith(_READS_NULL)
        )

    def render(self, state: dict[str, Any]) -> bytes:
        """Return a state as it is sent now, as one line of JSON."""
        return json.dumps(with_countdown(state, self._now())).encode() + b"\n"

    def close(self) -> None:
        """End every stream regularly."""
        for watcher in tuple(self.watchers):
            watcher.close()


@implementer(IPushProducer)
class Watcher:
    """The status stream of one client. A slow client receives the latest state instead of every state."""

    def __init__(
        self, endpoint: StatusEndpoint, request: ServerRequest, caller: Caller, clock: IReactorTime
    ) -> None:
        self._endpoint = endpoint
        self._request = request
        self._caller = caller
        self._clock = clock
        self._sent: dict[str, Any] = {}
        self._rate = TokenBucket(BURST, APART)
        self._paused = False
        self._soon: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self, headers: Headers) -> None:
        """Send the head and the first state, and subscribe to changes."""
        self._endpoint.watchers.add(self)
        self._request.on_gone(self._stop)
        self._request.stall_timeout = STALLED_WATCHER
        # Otherwise an nginx in front would buffer the lines (F17).
        head = ResponseHead(200, b"OK", [*headers, (b"X-Accel-Buffering", b"no")])
        self._request.start_response(head)
        self._request.register_producer(self)
        self._unsubscribe = self._caller.provider.subscribe(self._changed)
        self._send()
        self._look_again()

    def close(self) -> None:
        """End the stream."""
        self._stop()
        self._request.unregister_producer()
        self._request.finish()

    def _changed(self) -> None:
        """Schedule a state. Changes within one turn of the reactor, or faster than the rate limit, are sent as one."""
        if self._soon is None:
            self._soon = self._clock.callLater(self._rate.delay(self._clock.seconds()), self._send)

    def _send(self) -> None:
        if self._soon is not None and self._soon.active():
            self._soon.cancel()
        self._soon = None
        if self._paused:
            return
        state = self._endpoint.state(self._request, self._caller)
        if state != self._sent:
            self._sent = state
            self._rate.take(self._clock.seconds())
            self._request.write(self._endpoint.render(state))

    def _look_again(self) -> None:
        """Send a changed state periodically, since listeners are not called when the reset of a window passes."""
        self._look = self._clock.callLater(LOOK_AGAIN, self._look_again)
        self._send()

    def _stop(self) -> None:
        self._endpoint.watchers.discard(self)
        for timer in (self._soon, self._look):
            if timer is not None and timer.active():
                timer.cancel()
        self._soon = self._look = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    # IPushProducer --------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Send nothing while the client does not read. The server disconnects it after STALLED_WATCHER."""
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._send()

    def stopProducing(self) -> None:
        """Do nothing: the request reports by itself that the connection is lost."""


def _wants_stream(query: bytes) -> bool:
    values = parse_qs(query.decode("latin-1")).get("watch", [])
    return bool(values) and values[-1].lower() in ("true", "1")
