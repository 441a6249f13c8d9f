"""A client of Codex's WebSocket: opens it, makes some turns, closes it, and tells what came of each; with autobahn."""

from __future__ import annotations

import json
from typing import Any, cast

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger

from bench.soak.answers import read_events
from bench.soak.http_client import PATIENCE, new_outcome
from bench.soak.outcomes import End, Outcome
from bench.soak.requests import Request

_ENDS = frozenset({"response.completed", "response.failed", "error"})


class Socket(WebSocketClientProtocol):
    """One WebSocket. ``events``: of the turn in progress. ``code``: with which it was closed."""

    log = make_logger("error")

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.is_up = False
        self.is_lost = False
        self.code = 0
        self.head = b""
        self._waiting: Deferred[None] | None = None

    def wait(self) -> Deferred[None]:
        """Fires when the handshake or the turn is over, or the connection is lost."""
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        if self.is_lost or self.is_up:
            self._fire()
        return waiting

    def ask(self, message: bytes) -> Deferred[None]:
        """Begin a turn."""
        self.events = []
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        if self.is_lost:
            self._fire()
        else:
            self.sendMessage(message)
        return waiting

    def dataReceived(self, data: bytes) -> None:
        if not self.is_up and len(self.head) < 8192:
            self.head += data
        super().dataReceived(data)

    def onOpen(self) -> None:
        self.is_up = True
        self._fire()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            event = json.loads(payload)
        except ValueError:
            return
        self.events.append(event)
        if event.get("type") in _ENDS:
            self._fire()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.is_lost = True
        self.code = code or 0
        self._fire()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.is_lost = True
        self._fire()

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def abandon(self) -> None:
        """Drop the connection at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and ``X-CCM-Error`` of the answer that refused the handshake; 0 and nothing if there was none."""
        head, _, _ = self.head.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        is_status = len(words) > 1 and words[1].isdigit()
        return (int(words[1]) if is_status else 0), fields.get("x-ccm-error", "")


async def converse(reactor: Any, now: Any, port: int, token: str, request: Request) -> list[Outcome]:
    """Open a WebSocket and make the turns of ``request``. Returns the outcome of the handshake, and of each turn.

    ``now``: returns seconds of a monotonic clock.
    """
    opening = new_outcome(request, now())
    opening.kind = "websocket opening"
    factory = WebSocketClientFactory(
        f"ws://127.0.0.1:{port}{request.path}",
        headers={"Authorization": f"Bearer {token}", "X-Soak-Id": request.id},
        useragent=None,
        reactor=reactor,
    )
    factory.protocol = Socket
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
    try:
        connected = await TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=10).connect(factory)
    except Exception:
        opening.end, opening.ended = End.BROKEN, now()
        return [opening]
    client = cast(Socket, connected)
    is_late = await _within(reactor, client, client.wait())
    opening.ended = now()
    opening.status, opening.error = (101, "") if client.is_up else client.refusal
    opening.is_right = client.is_up
    opening.end = End.HUNG if is_late else (End.WHOLE if opening.status else End.BROKEN)
    outcomes = [opening]
    if client.is_up:
        for identity, text, message in request.turns:
            if client.is_lost:
                break  # closed between two turns, as it may be (spec 10)
            turn = new_outcome(request, now())
            turn.id, turn.kind, turn.expected, turn.status = identity, "websocket turn", 200, 200
            is_late = await _within(reactor, client, client.ask(message))
            turn.ended = now()
            reading = read_events("codex", client.events)
            turn.is_right = reading.is_complete and reading.text == text
            turn.failed = reading.failed
            turn.closed = client.code
            over = reading.is_complete or reading.failed
            turn.end = End.HUNG if is_late else (End.WHOLE if over else End.BROKEN)
            outcomes.append(turn)
    if not client.is_lost:
        client.sendClose(1000)
        reactor.callLater(5.0, client.abandon)
    return outcomes


async def _within(reactor: Any, client: Socket, waiting: Deferred[None]) -> bool:
    """Wait for the client's patience at most; whether it was not enough."""
    late = [False]

    def give_up() -> None:
        late[0] = True
        client.abandon()

    timer = reactor.callLater(PATIENCE, give_up)
    await waiting
    if timer.active():
        timer.cancel()
    return late[0]
