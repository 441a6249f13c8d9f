"""The Codex side of the demo's script: turns over HTTP and over a WebSocket."""

from __future__ import annotations

import json
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request, TextMessage

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


class Socket(Protocol):
    """A WebSocket client that asks for one turn at a time.

    ``opened`` fires with None when the handshake is done, or fails with ConnectionError where it was refused.
    """

    def __init__(self, host: str, token: str) -> None:
        self._host = host
        self._token = token
        self._wire = WSConnection(ConnectionType.CLIENT)
        self._turn: Deferred[list[dict[str, Any]]] | None = None
        self._events: list[dict[str, Any]] = []
        self._text = ""
        self.opened: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Ask for the upgrade."""
        headers = [(b"Authorization", f"Bearer {self._token}".encode())]
        self._write(self._wire.send(Request(host=self._host, target="/v1/responses", extra_headers=headers)))

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Take what came apart."""
        self._wire.receive_data(data)
        for event in self._wire.events():
            if isinstance(event, AcceptConnection):
                self.opened.callback(None)
            elif isinstance(event, RejectConnection):
                self.opened.errback(ConnectionError(f"refused with {event.status_code}"))
            elif isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    self._received(json.loads(text))

    def _received(self, message: dict[str, Any]) -> None:
        self._events.append(message)
        if message["type"] in ("response.completed", "error") and self._turn is not None:
            turn, self._turn = self._turn, None
            events, self._events = self._events, []
            turn.callback(events)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Nothing more will come."""
        for waiting in (self._turn, self.opened):
            if waiting is not None and not waiting.called:
                waiting.errback(reason)

    def ask(self, prompt: str) -> Deferred[list[dict[str, Any]]]:
        """One turn: every event up to its end."""
        self._turn = Deferred()
        message = {"type": "response.create", **_turn(prompt)}
        self._write(self._wire.send(TextMessage(data=json.dumps(message))))
        return self._turn


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
    socket = Socket(host, demo.token)
    await endpoint.connect(Factory.forProtocol(lambda: socket))
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
