"""What all proxied requests of one service share: dialect, rules, the wheel that looks after running streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from os import urandom

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ccmproxy.dialects.base import Dialect
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, first_value
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.credentials import ICredential, IProvider
from ccmproxy.policy.sessions import IssuedValues
from ccmproxy.proxy.attempt import Attempt
from ccmproxy.proxy.exchange import Exchange
from ccmproxy.proxy.websocket.opening import WebSocketExchange
from ccmproxy.proxy.websocket.relay import WebSocketRelay
from ccmproxy.state.aggregate import Aggregate, aggregate, counts
from ccmproxy.state.availability import CredentialSnapshot
from ccmproxy.websocket.handshake import wants_websocket


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the user's name (empty without users), what they are routed to, and what they may use.

    ``own_remote``: the credential that this user is, being another instance of ours: it is not told of its own share.
    """

    name: str
    provider: IProvider
    allow_external: bool = False
    own_remote: ICredential | None = None

    def shown(self) -> list[ICredential]:
        """The credentials whose state this user is shown (spec 8.1)."""
        return [c for c in self.provider.credentials(self.allow_external) if c is not self.own_remote]

    def can_be_served(self, now: float, model: str | None, without: Container[str]) -> bool:
        """Is there a credential that can serve ``model`` now, besides those with the tags ``without``?"""
        return any(
            credential.tag not in without and credential.snapshot(now, model).availability.usable
            for credential in self.provider.credentials(self.allow_external)
        )


@dataclass(frozen=True, slots=True)
class ForwarderOptions:
    """``max_body``: bytes. ``overrides``: the service's ``headers``. Times in seconds; ``keep_alive`` 0 = off.

    ``stalled_client``: a client that has not read a byte for so long is disconnected. ``max_per_user``: requests of
    one user that may be under way at a time, an open WebSocket being one; None = no limit.
    """

    max_body: int = 64 * 1024 * 1024
    overrides: Mapping[str, Sequence[str]] | None = None
    keep_alive: float = 0.0
    stalled_client: float = 600.0
    max_per_user: int | None = None


class Forwarder:
    """Takes authenticated requests and answers each from the upstream of a credential (spec 4.4, 4.5)."""

    log = Logger()

    def __init__(
        self,
        dialect: Dialect,
        clock: IReactorTime,
        now: Callable[[], float],
        options: ForwarderOptions = ForwarderOptions(),
        entropy: Callable[[int], bytes] = urandom,
    ) -> None:
        """``now``: Unix seconds. ``entropy``: as many random bytes as asked for, which nobody can foresee."""
        self.dialect = dialect
        self.clock = clock
        self.now = now
        self.options = options
        self.entropy = entropy
        #: Exchanges that have not been answered in full.
        self.active: set[Exchange] = set()
        #: The number of them by user.
        self.under_way: Counter[str] = Counter()
        self._relays: set[Attempt] = set()
        self._issued = IssuedValues()
        #: Open WebSockets, until both of their sides are gone.
        self.websockets: set[WebSocketRelay] = set()
        #: Providers whose credentials were looked at for old state, and in which second.
        self._looked_at: set[IProvider] = set()
        self._looked_in = 0
        #: No WebSocket is opened any more.
        self.is_closing = False
        #: What was summed up last, in which second, and the sum: answers come faster than states change.
        self._last_aggregate: tuple[list[CredentialSnapshot], int, Aggregate | None] = ([], 0, None)
        self._wheel = LoopingCall(self._tick)
        self._wheel.clock = clock

    def start(self) -> None:
        """Begin to look after running streams."""
        self._wheel.start(1.0, now=False)

    def stop(self) -> None:
        """Stop looking after them; does not end any."""
        if self._wheel.running:
            self._wheel.stop()

    def forward(self, request: ServerRequest, caller: Caller, request_id: str) -> None:
        """Answer ``request``. Returns at once."""
        limit = self.options.max_per_user
        if limit is not None and self.under_way[caller.name] >= limit:
            self._refuse_one_more(request, caller, limit, request_id)
            return
        frames = self.dialect.frames
        if frames is not None and wants_websocket(request.head) and frames.serves(request.head.path):
            exchange: Exchange = WebSocketExchange(self, request, caller, request_id, frames)
        else:
            exchange = Exchange(self, request, caller, request_id)
        self.active.add(exchange)
        self.under_way[caller.name] += 1
        exchange.start()

    def _refuse_one_more(self, request: ServerRequest, caller: Caller, limit: int, request_id: str) -> None:
        """Never silently (F41): the client is told when to try again, the operator reads why."""
        self.log.info(
            "{request_id} {user} refused: {limit} requests are under way already",
            request_id=request_id,
            user=caller.name or "-",
            limit=limit,
        )
        head, body = self.dialect.traffic.error(
            429,
            "too_many_requests",
            f"{limit} requests of this user are under way already; try again when one has ended",
            request_id,
            ((b"Retry-After", b"1"),),
        )
        request.respond(head, body)

    def finished(self, exchange: Exchange, caller: Caller) -> None:
        """``exchange``, which was ``caller``'s, has been answered in full, or will never be. Once for each."""
        self.active.discard(exchange)
        self.under_way[caller.name] -= 1
        if not self.under_way[caller.name]:
            del self.under_way[caller.name]

    def poll_stale(self, provider: IProvider, credentials: Sequence[ICredential]) -> None:
        """Let those of a provider's credentials be polled whose state is old; looked at once a second."""
        second = int(self.now())
        if second != self._looked_in:
            self._looked_in = second
            self._looked_at.clear()
        if provider not in self._looked_at:
            self._looked_at.add(provider)
            for credential in credentials:
                credential.poll_if_stale()

    def aggregate_for(self, caller: Caller) -> Aggregate | None:
        """The state that this caller may see, or None while no credential's figures count.

        The figures of none are those of a pool that is used up: beside an answer that was served all the same, by an
        API key say, clients would take them for its state.
        """
        now = self.now()
        snapshots = [credential.snapshot(now) for credential in caller.shown()]
        known, second, found = self._last_aggregate
        if second == int(now) and len(known) == len(snapshots) and all(map(is_, known, snapshots)):
            return found
        found = aggregate(snapshots, now) if any(map(counts, snapshots)) else None
        self._last_aggregate = (snapshots, int(now), found)
        return found

    def close_websockets(self, grace: float) -> None:
        """Open no more; close the open ones, those in the middle of a turn at its end or after ``grace`` seconds."""
        self.is_closing = True
        for websocket in tuple(self.websockets):
            websocket.shut_down(grace)

    def leave(self, tags: Collection[str], callers: Iterable[Caller]) -> None:
        """The credentials ``tags`` are no longer there, and of callers only these very ones are: WebSockets that lack
        either are to end, which may be after a turn."""
        known = {id(caller) for caller in callers}
        for exchange in tuple(self.active):
            if exchange.credential in tags or id(exchange.caller) not in known:
                exchange.leave()

    def abort_websockets(self) -> None:
        """Drop what is left of them."""
        for websocket in tuple(self.websockets):
            websocket.abort("shutdown")

    def is_bound(self, head: RequestHead, session: str | None, tag: str) -> bool:
        """Does the request carry a value that the credential ``tag`` has issued to this session (spec 3.6)?"""
        value = self._bound_value(head.headers)
        return value is not None and self._issued.is_from(session, value, tag, self.now())

    def bind(self, head: ResponseHead, session: str | None, tag: str) -> None:
        """Remember who issued such a value, if the answer has one."""
        value = self._bound_value(head.headers)
        if value is not None:
            self._issued.issued(session, value, tag, self.now())

    def _bound_value(self, headers: Headers) -> bytes | None:
        name = self.dialect.bound_header
        return first_value(headers, name) if name else None

    def relay_began(self, attempt: Attempt) -> None:
        """``attempt`` passes a body on from now."""
        self._relays.add(attempt)

    def relay_ended(self, attempt: Attempt) -> None:
        """And no longer."""
        self._relays.discard(attempt)

    def _tick(self) -> None:
        """Once a second for all streams together: keep-alives, and clients that no longer read."""
        keep_alive = self.options.keep_alive
        for attempt in tuple(self._relays):
            attempt.quiet_ticks += 1
            if attempt.paused_ticks:
                attempt.paused_ticks += 1
                if attempt.paused_ticks > self.options.stalled_client:
                    attempt.drop_client()
            elif keep_alive and attempt.quiet_ticks >= keep_alive:
                attempt.quiet_ticks = 0
                attempt.keep_alive(self.dialect.keep_alive)
        for websocket in tuple(self.websockets):
            websocket.tick(keep_alive, self.options.stalled_client)
