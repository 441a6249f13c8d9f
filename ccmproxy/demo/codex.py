"""The Codex side of the demo's script: turns over HTTP and over a WebSocket."""

from __future__ import annotations

import json
from typing import Any, cast
from typing import Protocol as Interface

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse
from txaio.tx import make_logger

from ccmproxy.demo.outcome import Outcome

MODEL = "gpt-5.4"
#: How long a turn may take (seconds).
TURN_TIME = 10.0


class CodexSide(Interface):
    """What the steps need of the demo."""

    reactor: Any
    #: Of a user.
    token: str
    #: Of the service.
    codex_port: int

    async def post(self, path: str, body: dict[str, Any]) -> tuple[IResponse, bytes, bool]:
        """A request: the answer, its body as far as it came, and whether it came whole."""


def _turn(prompt: str) -> dict[str, Any]:
    """The body of a request, as Codex CLI makes it."""
    content = [{"type": "input_text", "text": prompt}]
    return {
        "model": MODEL,
        "stream": True,
        "store": False,
        "input": [{"type": "message", "role": "user", "content": content}],
    }


class Socket(WebSocketClientProtocol):
    """A WebSocket client that asks for one turn at a time.

    ``opened`` fires with None when the handshake is done, or fails: with ConnectionError where it was refused, with
    the connection's reason where that ended before.
    """

    # The steps tell how they ended; autobahn's own account of it, above an error, is noise.
    log = make_logger("error")

    def __init__(self) -> None:
        super().__init__()
        self._turn: Deferred[list[dict[str, Any]]] | None = None
        self._events: list[dict[str, Any]] = []
        self.opened: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def failHandshake(self, reason: str) -> None:
        """autobahn does not take the answer: told as it is, and the connection is dropped."""
        self.opened.errback(ConnectionError(reason))
        super().failHandshake(reason)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        self._events.append(message)
        if message["type"] in ("response.completed", "error") and self._turn is not None:
            turn, self._turn = self._turn, None
            events, self._events = self._events, []
            turn.callback(events)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        for waiting in (self._turn, self.opened):
            if waiting is not None and not waiting.called:
                waiting.errback(reason)

    def ask(self, prompt: str) -> Deferred[list[dict[str, Any]]]:
        """One turn: every event up to its end."""
        self._turn = Deferred()
        self.sendMessage(json.dumps({"type": "response.create", **_turn(prompt)}).encode())
        return self._turn


def socket_factory(reactor: Any, host: str, token: str) -> WebSocketClientFactory:
    """Makes sockets to the service at ``host``, for the user whose ``token`` it is.

    Without autobahn's timers, which ask for the process's reactor: every step has its own time-outs.
    """
    headers = {"Authorization": f"Bearer {token}"}
    factory = WebSocketClientFactory(
        f"ws://{host}/v1/responses", headers=headers, useragent=None, reactor=reactor
    )
    factory.protocol = Socket
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
    return factory


async def a_codex_turn(demo: CodexSide) -> Outcome:
    """Codex over HTTP: an event stream."""
    response, body, whole = await demo.post("/v1/responses", _turn("[[say:It works.]]"))
    said = "It works." if b"It works." in body else "something else"
    end = "with its end" if whole and b"response.completed" in body else "without its end"
    return Outcome("a Codex turn", "200, with its end: It works.", f"{response.code}, {end}: {said}")


async def two_codex_turns_on_a_websocket(demo: CodexSide) -> Outcome:
    """Codex over its WebSocket: two turns on one connection, and the state of the pool in between."""
    host = f"127.0.0.1:{demo.codex_port}"
    endpoint = TCP4ClientEndpoint(demo.reactor, "127.0.0.1", demo.codex_port)
    socket = cast(Socket, await endpoint.connect(socket_factory(demo.reactor, host, demo.token)))
    socket.opened.addTimeout(TURN_TIME, demo.reactor)
    await socket.opened
    ended = []
    limits = 0
    for _ in range(2):
        events = await socket.ask("[[say:It works.]]").addTimeout(TURN_TIME, demo.reactor)
        ended.append(events[-1]["type"])
        limits += sum(event["type"] == "codex.rate_limits" for event in events)
    assert socket.transport is not None
    socket.transport.loseConnection()
    seen = "limits told" if limits else "no limits told"
    return Outcome(
        "two turns on a WebSocket",
        "response.completed, response.completed, limits told",
        f"{', '.join(ended)}, {seen}",
    )
