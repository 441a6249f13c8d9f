"""The conversation on one WebSocket: turns that build on each other, and their events. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ccmproxy.simulator.codex import responses
from ccmproxy.simulator.codex.authorization import Authenticated
from ccmproxy.simulator.codex.body_decoding import decode_document
from ccmproxy.simulator.codex.responses import conversation_key
from ccmproxy.simulator.codex.simulated_account import CodexAccount
from ccmproxy.simulator.codex.turns import TURN_STATE, Turns
from ccmproxy.simulator.codex.websocket_steps import CloseFrame, FrameStep, Text, perform_messages
from ccmproxy.simulator.conversation import simulate_marker
from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import InvalidRequest, RequestRefused
from ccmproxy.simulator.steps import Hang, Pace, Reply
from ccmproxy.simulator.upstream import TurnCounter

#: Seconds after which a connection accepts no further turn.
MAX_AGE = 3600.0

_REMEMBERED_RESPONSES = 100
_LIMIT_REACHED = Fault("connection_limit")


@dataclass(slots=True)
class MessageAnswer:
    """The record of a client's message, what is sent back, and the account whose turn it is (None: no turn)."""

    received: ReceivedRequest
    steps: list[FrameStep]
    turn: TurnCounter | None = None


class WebSocketSession:
    """One connection's conversation.

    ``handshake``: the request that began it; its header fields are part of the record of each message. Responses are
    kept as long as the session lives, so that later ones can build on them.
    """

    def __init__(
        self,
        turns: Turns,
        account: Authenticated,
        handshake: ReceivedRequest,
        pace: Callable[[], Pace],
    ) -> None:
        self._turns = turns
        self._account = account
        self._handshake = handshake
        self._pace = pace
        self._began_at = turns.time()
        self._contexts: OrderedDict[str, int] = OrderedDict()

    def receive(self, message: str | bytes) -> MessageAnswer:
        """The answer to one message."""
        handshake = self._handshake
        received = ReceivedRequest(
            number=0,
            at=self._turns.time(),
            method=handshake.method,
            target=handshake.target,
            headers=handshake.headers,
            body=message.encode() if isinstance(message, str) else message,
            peer=handshake.peer,
            account=handshake.account,
            status=200,
        )
        if isinstance(message, bytes):
            return MessageAnswer(received, [CloseFrame(1003, "only text is understood")])
        try:
            return self._answer(received, decode_document(message))
        except InvalidRequest as error:
            refusal = self._turns.invalid(self._account, str(error))
        except RequestRefused as refused:
            refusal = refused.reply
        return self._refuse(received, refusal)

    def early_message(self) -> str:
        """A message that may be sent before the client has sent anything."""
        events = self._turns.limits_event(self._account, "") or [{"type": "keepalive"}]
        return _encode(events[0])

    def _answer(self, received: ReceivedRequest, document: dict[str, Any]) -> MessageAnswer:
        kind = document.pop("type", None)
        if kind == "response.processed":
            return MessageAnswer(received, [])
        if kind != "response.create":
            raise InvalidRequest(f"Unknown message type: {kind}")
        received.endpoint = "warm_up" if document.get("generate") is False else "turn"
        turns, account = self._turns, self._account
        prompt = responses.read_prompt(document)
        key = conversation_key(
            self._handshake.header(b"session-id") or self._handshake.header(b"session_id"), document
        )
        if received.endpoint == "turn":
            fault = turns.due.meet(received, account, "turn", simulate_marker(prompt.text), key)
        else:
            fault = turns.due.meet(received, account, "warm_up")
        if turns.time() - self._began_at >= MAX_AGE:
            fault = _LIMIT_REACHED
        if fault is not None and (fault.is_answer or fault.name == "connection_limit"):
            return self._replace(received, document, fault)
        self._check(document)
        size = len(received.body) + self._context(document)
        if received.endpoint == "warm_up":
            response = turns.warm_up(account, document, size)
        else:
            response = turns.respond(account, document, prompt, key, size)
        self._remember(response.identity, size + sum(len(_encode(item)) for item in response.items))
        events = turns.limits_event(account, response.model)
        metadata = document.get("client_metadata")
        brought = metadata.get(TURN_STATE.decode()) if isinstance(metadata, dict) else None
        state = turns.turn_state(account, brought if isinstance(brought, str) else None)
        if state is not None and received.endpoint == "turn":
            events.append({"type": "response.metadata", "headers": {TURN_STATE.decode(): state}})
        events += response.events(turns.rng)
        steps = perform_messages(
            [_encode(event) for event in events],
            fault,
            lambda code: _encode(response.failed_event(code)),
            self._pace(),
            turns.rng,
        )
        return MessageAnswer(received, steps, account if received.endpoint == "turn" else None)

    def _check(self, document: Mapping[str, Any]) -> None:
        responses.check(document)
        if isinstance(self._account, CodexAccount):
            responses.check_backend(document, stream=False)

    def _context(self, document: Mapping[str, Any]) -> int:
        """Bytes of the earlier response that the request builds on. Raises RequestRefused if it is unknown."""
        previous = document.get("previous_response_id")
        if previous is None:
            return 0
        if (size := self._contexts.get(str(previous))) is None:
            message = f"Previous response with id '{previous}' not found."
            raise RequestRefused(
                self._turns.errors.error(400, "invalid_request_error", "previous_response_not_found", message)
            )
        return size

    def _remember(self, identity: str, size: int) -> None:
        self._contexts[identity] = size
        if len(self._contexts) > _REMEMBERED_RESPONSES:
            self._contexts.popitem(last=False)

    def _replace(self, received: ReceivedRequest, document: Mapping[str, Any], fault: Fault) -> MessageAnswer:
        """The answer that ``fault`` puts in place of a turn."""
        if fault.name == "hang":
            return MessageAnswer(received, [Hang()], self._account)
        model = str(document.get("model", ""))
        return self._refuse(received, self._turns.replacement(received, self._account, fault, model))

    def _refuse(self, received: ReceivedRequest, reply: Reply) -> MessageAnswer:
        received.status = reply.head.status
        turn = None
        if received.endpoint == "turn":
            self._account.counters.refused_turns += 1
            turn = self._account
        return MessageAnswer(received, [Text(error_message(reply))], turn)


def error_message(reply: Reply) -> str:
    """An HTTP refusal as an ``error`` event; any other response is passed on unchanged."""
    status = reply.head.status
    if status < 400:
        return reply.body.decode()
    try:
        body = msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        body = {}
    error = body.get("error") or {"message": body.get("detail") or reply.head.reason.decode()}
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.head.headers}
    headers.pop("content-type", None)
    return _encode({"type": "error", "status": status, "error": error, "headers": headers})


def _encode(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
