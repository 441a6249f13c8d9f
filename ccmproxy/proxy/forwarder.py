"""Receiving the authenticated requests of one service, and supervising those in progress."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from os import urandom
from random import SystemRandom

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ccmproxy.dialects.base import Dialect
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.work_queue import IWorkQueue
from ccmproxy.proxy.answering import Answering, HTTPAnswering
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyContext, ProxyOptions
from ccmproxy.proxy.exchange import Exchange
from ccmproxy.proxy.inspection import WorkAtOnce
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.proxy.registry import Registry
from ccmproxy.proxy.websocket.opening import WebSocketOpening
from ccmproxy.websocket.handshake import wants_websocket


class Forwarder:
    """Forwards each request to the upstream of a credential (spec 4.4, 4.5).

    ``context``: the environment of requests from now on.
    """

    log = Logger()

    def __init__(
        self,
        dialect: Dialect,
        clock: IReactorTime,
        now: Callable[[], float],
        options: ProxyOptions = ProxyOptions(),  # noqa: B008 - frozen
        entropy: Callable[[int], bytes] = urandom,
        random: Callable[[], float] = SystemRandom().random,  # noqa: B008 - without state
        work: IWorkQueue = WorkAtOnce(),  # noqa: B008 - without state
    ) -> None:
        """``now``: returns Unix seconds. ``entropy``: returns the given number of cryptographically random bytes.
        ``work``: does what would keep the reactor too long."""
        self.context = ProxyContext.of_service(dialect, clock, now, options, entropy, random, work)
        self._wheel = LoopingCall(self._tick)
        self._wheel.clock = clock

    @property
    def registry(self) -> Registry:
        """The requests, streams and WebSockets in progress."""
        return self.context.registry

    @property
    def options(self) -> ProxyOptions:
        """The rules for requests from now on; requests in progress keep the rules with which they began."""
        return self.context.options

    @options.setter
    def options(self, options: ProxyOptions) -> None:
        self.context = replace(self.context, options=options)

    def start(self) -> None:
        """Start the tick that supervises streams and WebSockets."""
        self._wheel.start(1.0, now=False)

    def stop(self) -> None:
        """Stop the tick. Streams and WebSockets go on."""
        if self._wheel.running:
            self._wheel.stop()

    def forward(
        self, request: ServerRequest, caller: Caller, request_id: str, from_instance: bool = False
    ) -> None:
        """Begin to answer ``request``, and return at once. ``from_instance``: it shows that another instance sent
        it."""
        context = self.context
        asked = ProxiedRequest(context, request, caller, request_id, from_instance or caller.is_instance)
        limit = caller.max_connections
        if limit is None:
            limit = context.options.max_per_user
        if limit is not None and context.registry.under_way[caller.name] >= limit:
            asked.refuse_one_more(limit)
            return
        frames = context.dialect.frames
        answering: Answering = HTTPAnswering(asked)
        if frames is not None and wants_websocket(request.head) and frames.serves(request.head.path):
            answering = WebSocketOpening(asked, frames, answering)
        Exchange(asked, answering).start()

    def close_websockets(self, grace: float) -> None:
        """Open no further WebSockets, and close the open ones: at the end of the current turn, if there is one, at the
        latest after ``grace`` seconds."""
        self.registry.is_closing = True
        for websocket in tuple(self.registry.websockets):
            websocket.shut_down(grace)

    def leave(self, tags: Collection[str], callers: Iterable[Caller]) -> None:
        """End WebSockets, after their current turn, whose credential is in ``tags`` or whose caller is not in
        ``callers`` (compared by identity), as a reload has removed the credential or the caller."""
        known = {id(caller) for caller in callers}
        for exchange in tuple(self.registry.exchanges):
            if exchange.credential in tags or id(exchange.caller) not in known:
                exchange.leave()

    def abort_websockets(self) -> None:
        """Drop the WebSockets that are still open."""
        for websocket in tuple(self.registry.websockets):
            websocket.abort("shutdown")

    def _tick(self) -> None:
        """Tick all streams and WebSockets. Called once a second."""
        keep_alive = self.options.keep_alive
        sign_of_life = self.context.dialect.keep_alive
        for stream in tuple(self.registry.streams):
            stream.tick(keep_alive, sign_of_life)
        for websocket in tuple(self.registry.websockets):
            websocket.tick()
