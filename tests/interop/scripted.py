"""An upstream that answers by a script: the simulator, with the answers of a test in place of some of its own.

Everything that no line of the script is about is answered as the simulator answers it: successful turns, polls of the
usage, refreshes of logins, WebSockets. What came in stands in ``requests``, as for any simulator.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.simulator import Simulator
from ccmproxy.simulator.accounts import find_login
from ccmproxy.simulator.claude.authorization import OAUTH_FEATURE
from ccmproxy.simulator.codex.body_decoding import decode_document, read_body
from ccmproxy.simulator.codex.responses import sse
from ccmproxy.simulator.codex.turns import Turns
from ccmproxy.simulator.codex.websocket_server import WebSocketServer, accept_handshake
from ccmproxy.simulator.codex.websocket_session import MessageAnswer, WebSocketSession, error_message
from ccmproxy.simulator.codex.websocket_steps import Text
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import REASONS, InvalidRequest
from ccmproxy.simulator.steps import Pace, Raw, Reply
from ccmproxy.simulator.upstream import Delivery

#: Method and path → what is asked for there, by the simulator's names.
_ENDPOINTS: Mapping[tuple[bytes, bytes], str] = {
    (b"POST", b"/v1/messages"): "turn",
    (b"POST", b"/v1/messages/count_tokens"): "count_tokens",
    (b"POST", b"/backend-api/codex/responses"): "turn",
    (b"GET", b"/backend-api/codex/responses"): "websocket",
    (b"GET", b"/backend-api/codex/models"): "models",
    (b"GET", b"/api/oauth/usage"): "usage",
    (b"GET", b"/backend-api/wham/usage"): "usage",
}

#: The value of a header field: text, or how the time of the answer (Unix seconds) makes it.
FieldValue = str | Callable[[float], str]


def http_date(seconds: float) -> Callable[[float], str]:
    """The value of a Retry-After that names the date ``seconds`` after the answer (RFC 9110 section 10.2.3)."""
    return lambda now: formatdate(now + seconds, usegmt=True)


@dataclass(frozen=True)
class Answer:
    """What is sent.

    ``document``: the JSON body of a whole answer. ``events``: in its place, the events of a stream, each with its
    ``type``; over a WebSocket they are messages, and a ``document`` becomes an ``error`` event with the status.
    """

    status: int
    document: Mapping[str, Any] | None = None
    events: tuple[Mapping[str, Any], ...] = ()
    headers: tuple[tuple[str, FieldValue], ...] = ()

    def reply(self, now: float) -> Reply:
        """The same as the simulator delivers it. ``now``: Unix seconds."""
        kind = b"text/event-stream" if self.events else b"application/json"
        fields: Headers = [(b"content-type", kind)]
        for name, value in self.headers:
            fields.append((name.encode(), (value if isinstance(value, str) else value(now)).encode()))
        head = ResponseHead(self.status, REASONS.get(self.status, b"Refused"), fields)
        if self.events:
            return Reply(head, [sse(event) for event in self.events], True)
        return Reply(head, [msgspec.json.encode(self.document)])


@dataclass
class _Line:
    answer: Answer
    endpoint: str
    account: str | None
    model: str | None
    left: int | None

    def matches(self, endpoint: str, account: str | None, model: str) -> bool:
        return (
            self.left != 0
            and self.endpoint == endpoint
            and self.account in (None, account)
            and self.model in (None, model)
        )


class Script:
    """The lines of a script, and the upstream that answers by them: a provider of the simulator, asked first."""

    def __init__(self, simulator: Simulator, time: Callable[[], float]) -> None:
        self._simulator = simulator
        self._time = time
        self._lines: list[_Line] = []
        #: Add the feature that an access token needs where a client lacks it, as the gateways do that clients with a
        #: plain token are made for.
        self.is_gateway = False

    def say(
        self,
        answer: Answer,
        endpoint: str = "turn",
        *,
        account: str | None = None,
        model: str | None = None,
        times: int | None = None,
    ) -> None:
        """Let matching requests be answered so: the next ``times`` of them, or all. The first line that matches counts.

        ``account`` and ``model``: None matches any.
        """
        self._lines.append(_Line(answer, endpoint, account, model, times))

    def find(self, request: ReceivedRequest, endpoint: str, model: str) -> Answer | None:
        """The answer that the script has for this request of a known ``account``, noted in it; None: no line is about
        it."""
        for line in self._lines:
            if line.matches(endpoint, request.account, model):
                if line.left is not None:
                    line.left -= 1
                request.endpoint = endpoint
                return line.answer
        return None

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The answer to one request over HTTP; None: the simulator's own."""
        if self.is_gateway and OAUTH_FEATURE not in request.items(b"anthropic-beta"):
            request.headers.append((b"anthropic-beta", OAUTH_FEATURE))
        endpoint = _ENDPOINTS.get((request.method, request.path))
        if endpoint is None:
            return None
        request.account = self._account(request)
        answer = self.find(request, endpoint, _model(request))
        if answer is not None:
            return Delivery(answer.reply(self._time()))
        return self._websocket(request) if endpoint == "websocket" else None

    def _account(self, request: ReceivedRequest) -> str | None:
        claude, codex = self._simulator.claude.accounts, self._simulator.codex.accounts
        token = request.bearer or ""
        account = find_login(claude, token)[0] or find_login(codex, token)[0]
        return account.name if account is not None else None

    def _websocket(self, request: ReceivedRequest) -> Delivery | None:
        """A WebSocket whose messages are answered by the script as well; None where the simulator refuses it."""
        codex = self._simulator.codex
        account, state = find_login(codex.accounts, request.bearer or "")
        accepted = accept_handshake(request)
        if account is None or state != "valid" or accepted is None:
            return None
        request.endpoint = "websocket"
        headers = [*accepted.headers, *codex.turns.limit_headers(account)]
        session = _ScriptedSession(self, codex.turns, account, request, self._time)
        opening = [Raw(join_head(b"HTTP/1.1 101 Switching Protocols", headers))]
        return Delivery(
            Reply(ResponseHead(101, b"Switching Protocols", headers), []),
            switch=lambda clock, on_request, on_end: WebSocketServer(
                session, [*opening], accepted, clock, on_request, on_end
            ),
        )


class _ScriptedSession(WebSocketSession):
    """A WebSocket's conversation in which the script answers first."""

    def __init__(
        self,
        script: Script,
        turns: Turns,
        account: Any,
        handshake: ReceivedRequest,
        time: Callable[[], float],
    ) -> None:
        super().__init__(turns, account, handshake, Pace)
        self._script = script
        self._time = time
        self._opening = handshake

    def receive(self, message: str | bytes) -> MessageAnswer:
        """The answer to one message."""
        if isinstance(message, str):
            document = decode_document(message)
            if document.get("type") == "response.create" and document.get("generate") is not False:
                opening = self._opening
                request = ReceivedRequest(
                    number=0,
                    at=self._time(),
                    method=opening.method,
                    target=opening.target,
                    headers=opening.headers,
                    body=message.encode(),
                    peer=opening.peer,
                    account=opening.account,
                )
                answer = self._script.find(request, "turn", str(document.get("model", "")))
                if answer is not None:
                    request.status = answer.status
                    texts = [json.dumps(event) for event in answer.events]
                    return MessageAnswer(
                        request, [Text(text) for text in texts or [error_message(answer.reply(self._time()))]]
                    )
        return super().receive(message)


class ScriptedSimulator(Simulator):
    """The simulator with a script before it. ``script``: its lines."""

    def __init__(self, clock: IReactorTime, rng: random.Random) -> None:
        super().__init__(clock, rng)
        self.script = Script(self, clock.seconds)
        self._upstreams.insert(0, self.script)

    def turns(self, account: str | None = None) -> list[int]:
        """Statuses of the turns that came, of one account or of all."""
        return [
            turn.status for turn in self.requests.of("turn") if account is None or turn.account == account
        ]


def _model(request: ReceivedRequest) -> str:
    try:
        return str(read_body(request).get("model", ""))
    except InvalidRequest:
        return ""
