"""Codex's side of the simulator: routes and authenticates requests, and responds. No I/O; the time is a callable.

ChatGPT's backend (``/backend-api/…``) serves logins, the OpenAI API (``/v1/…``) serves keys.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.simulator.codex import chat, responses
from ccmproxy.simulator.codex.authorization import Authenticated, Authenticator
from ccmproxy.simulator.codex.body_decoding import read_body
from ccmproxy.simulator.codex.error_answers import ErrorAnswers
from ccmproxy.simulator.codex.limit_views import usage_document
from ccmproxy.simulator.codex.models import MODELS, catalog, model_document
from ccmproxy.simulator.codex.responses import conversation_key, sse
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.codex.token_endpoint import refresh
from ccmproxy.simulator.codex.turns import TURN_STATE, Turns
from ccmproxy.simulator.codex.websocket_server import WebSocketServer, accept_handshake, wants_websocket
from ccmproxy.simulator.codex.websocket_session import WebSocketSession
from ccmproxy.simulator.codex.websocket_steps import perform_opening
from ccmproxy.simulator.conversation import Prompt, simulate_marker
from ccmproxy.simulator.due_faults import wish
from ccmproxy.simulator.faults import Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import InvalidRequest, RequestRefused, json_reply
from ccmproxy.simulator.routing import Routing
from ccmproxy.simulator.steps import Pace, Reply
from ccmproxy.simulator.token_request import deliver_refresh
from ccmproxy.simulator.upstream import Delivery

#: A path at which both providers have an endpoint.
_SHARED = b"/v1/models"

_EDGE_HEADERS: Headers = [(b"server", b"cloudflare"), (b"cf-ray", b"9a1b2c3d4e5f6072-FRA")]
_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
_KEEP_ALIVE = sse({"type": "keepalive"})


def upstream_settings(url: str) -> dict[str, str]:
    """The addresses to configure for a simulator at ``url`` (``http://host:port``), by the names of the options.

    They are for logins; for keys, ``api_url`` is ``url`` itself.
    """
    return {
        "api_url": f"{url}/backend-api/codex",
        "token_url": f"{url}/oauth/token",
        "usage_url": f"{url}/backend-api/wham/usage",
    }


class CodexUpstream:
    """chatgpt.com, auth.openai.com and api.openai.com, for any number of accounts and keys."""

    def __init__(
        self,
        faults: FaultPlan,
        rng: random.Random,
        time: Callable[[], float],
        pace: Callable[[], Pace] = Pace,
    ) -> None:
        self.accounts: list[CodexAccount] = []
        self.keys: list[OpenAIKey] = []
        self._rng = rng
        self._time = time
        self._pace = pace
        self._errors = ErrorAnswers(rng)
        self._authenticator = Authenticator(self.accounts, self.keys, self._errors)
        self.turns = Turns(faults, rng, time, self._errors)
        self._catalog, self._etag = catalog()
        account, key = self._authenticator.account, self._authenticator.key
        exact: dict[tuple[bytes, bytes], Callable[[ReceivedRequest], Delivery]] = {
            (b"POST", b"/backend-api/codex/responses"): lambda request: self._responses(
                request, account(request)
            ),
            (b"POST", b"/v1/responses"): lambda request: self._responses(request, key(request)),
            (b"GET", b"/backend-api/codex/responses"): lambda request: self._websocket(
                request, account(request)
            ),
            (b"GET", b"/v1/responses"): lambda request: self._websocket(request, key(request)),
            (b"POST", b"/v1/chat/completions"): lambda request: self._chat(request, key(request)),
            (b"GET", b"/backend-api/codex/models"): lambda request: self._models(request, account(request)),
            (b"GET", b"/v1/models"): lambda request: self._models(request, key(request)),
            (b"GET", b"/backend-api/wham/usage"): self._usage,
            (b"POST", b"/oauth/token"): self._token,
        }
        self._routing = Routing(exact, {(b"GET", b"/v1/models/"): self._model}, self._not_allowed)

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The response to a request, with the fault to apply; None if the request is not for this provider."""
        path = request.path
        if path.startswith(_SHARED) and not self._is_ours(request):
            return None
        answer = self._routing.answer(request)
        if answer is not None:
            return answer
        if path.startswith(b"/backend-api/"):
            return Delivery(self._errors.detail(404, "Not Found"))
        return None

    def _not_allowed(self, request: ReceivedRequest) -> Reply:
        message = f"Not allowed to {request.method.decode('latin-1')} on {request.path.decode('latin-1')}"
        return self._errors.error(405, "invalid_request_error", None, message)

    # Endpoints ------------------------------------------------------------------------------------------------

    def _responses(self, request: ReceivedRequest, account: Authenticated) -> Delivery:
        document = self._begin(request, account)
        prompt = responses.read_prompt(document)
        key = conversation_key(request.header(b"session-id") or request.header(b"session_id"), document)
        fault, answer = self._fault(request, account, document, prompt, key)
        if answer is not None:
            return answer
        is_backend = isinstance(account, CodexAccount)
        try:
            responses.check(document)
            if is_backend:
                responses.check_backend(document)
        except InvalidRequest as error:
            raise self._invalid(account, str(error)) from None
        try:
            response = self.turns.respond(account, document, prompt, key, len(request.body))
        except RequestRefused as refused:
            account.counters.refused_turns += 1
            return Delivery(refused.reply, fault, account)
        head = self._head(request, account, response.model)
        if document.get("stream") is not True:
            head.headers.insert(0, (b"content-type", b"application/json"))
            return Delivery(Reply(head, [response.whole()]), fault, account)
        head.headers[:0] = _STREAM_HEADERS
        events = [*self.turns.limits_event(account, response.model), *response.events(self._rng)]
        reply = Reply(
            head,
            [sse(event) for event in events],
            True,
            lambda kind: sse(response.failed_event(kind)),
            _KEEP_ALIVE,
            self._pace(),
        )
        return Delivery(reply, fault, account)

    def _websocket(self, request: ReceivedRequest, account: Authenticated) -> Delivery:
        if not wants_websocket(request):
            return Delivery(
                self._errors.error(405, "invalid_request_error", None, "Upgrade to websocket required")
            )
        request.endpoint = "websocket"
        fault = self.turns.due.meet(request, account, "websocket", wish(request))
        if fault is not None and fault.is_answer:
            return Delivery(self.turns.replacement(request, account, fault, ""), fault)
        if (accepted := accept_handshake(request)) is None:
            raise self._invalid(account, "Invalid WebSocket handshake")
        headers = [
            *accepted.headers,
            *self._errors.identity(),
            *self.turns.limit_headers(account),
            *_EDGE_HEADERS,
            (b"x-models-etag", self._etag),
        ]
        session = WebSocketSession(self.turns, account, request, self._pace)
        head = ResponseHead(101, b"Switching Protocols", headers)
        opening = perform_opening(
            join_head(b"HTTP/1.1 101 Switching Protocols", headers), fault, session.early_message(), self._rng
        )
        return Delivery(
            Reply(head, []),
            fault,
            switch=lambda clock, on_request, on_end: WebSocketServer(
                session, opening, accepted, clock, on_request, on_end
            ),
        )

    def _chat(self, request: ReceivedRequest, account: Authenticated) -> Delivery:
        document = self._begin(request, account)
        prompt = chat.read_prompt(document)
        key = conversation_key(None, document)
        fault, answer = self._fault(request, account, document, prompt, key)
        if answer is not None:
            return answer
        try:
            chat.check(document)
        except InvalidRequest as error:
            raise self._invalid(account, str(error)) from None
        try:
            completion = self.turns.complete(account, document, prompt, key, len(request.body))
        except RequestRefused as refused:
            account.counters.refused_turns += 1
            return Delivery(refused.reply, fault, account)
        head = self._head(request, account, completion.model)
        if document.get("stream") is not True:
            head.headers.insert(0, (b"content-type", b"application/json"))
            return Delivery(Reply(head, [completion.whole()]), fault, account)
        head.headers[:0] = _STREAM_HEADERS
        options = document.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        events = completion.events(self._rng, include_usage=include_usage)
        reply = Reply(head, events, True, chat.error_event, b": keep-alive\n\n", self._pace())
        return Delivery(reply, fault, account)

    def _models(self, request: ReceivedRequest, account: Authenticated) -> Delivery:
        headers = [(b"etag", self._etag), *self._errors.identity()]
        return self.turns.due.deliver(
            request, account, "models", lambda: json_reply(200, None, headers, raw=self._catalog)
        )

    def _model(self, request: ReceivedRequest) -> Delivery:
        key = self._authenticator.key(request)
        model = request.path.removeprefix(b"/v1/models/").decode("latin-1")

        def show() -> Reply:
            if model not in MODELS:
                message = f"The model '{model}' does not exist"
                return self._errors.error(404, "invalid_request_error", "model_not_found", message)
            return json_reply(200, model_document(model), self._errors.identity())

        return self.turns.due.deliver(request, key, "models", show)

    def _token(self, request: ReceivedRequest) -> Delivery:
        return deliver_refresh(
            request,
            self.accounts,
            self.turns.due.deliver,
            lambda parameters, account: refresh(parameters, account, self._errors),
        )

    def _usage(self, request: ReceivedRequest) -> Delivery:
        account = self._authenticator.account(request)
        account.counters.usage_polls += 1
        return self.turns.due.deliver(
            request,
            account,
            "usage",
            lambda: json_reply(200, usage_document(account, self._time()), self._errors.identity()),
        )

    # Steps of them --------------------------------------------------------------------------------------------

    def _is_ours(self, request: ReceivedRequest) -> bool:
        """Whether a request at a path that both providers have is meant for this one."""
        if self._authenticator.knows(request):
            return True
        if not (self.accounts or self.keys):
            return False
        return request.header(b"anthropic-version") is None and request.header(b"x-api-key") is None

    def _begin(self, request: ReceivedRequest, account: Authenticated) -> dict[str, Any]:
        """The body of a request for a turn. Raises RequestRefused."""
        request.endpoint = "turn"
        try:
            return read_body(request)
        except InvalidRequest as error:
            raise self._invalid(account, str(error)) from None

    def _fault(
        self,
        request: ReceivedRequest,
        account: Authenticated,
        document: Mapping[str, Any],
        prompt: Prompt,
        conversation: str,
    ) -> tuple[Fault | None, Delivery | None]:
        """The fault of a turn, and the response that it puts in place of the real one, or None."""
        wished = wish(request, simulate_marker(prompt.text))
        fault = self.turns.due.meet(request, account, "turn", wished, conversation)
        if fault is None or not fault.is_answer:
            return fault, None
        account.counters.refused_turns += 1
        reply = self.turns.replacement(request, account, fault, str(document.get("model", "")))
        return fault, Delivery(reply, fault, account)

    def _head(self, request: ReceivedRequest, account: Authenticated, model: str) -> ResponseHead:
        headers = [*self._errors.identity(), *self.turns.limit_headers(account, model), *_EDGE_HEADERS]
        headers.append((b"openai-model", model.encode()))
        if isinstance(account, CodexAccount):
            headers.append((b"x-models-etag", self._etag))
            headers.append((b"x-reasoning-included", b"true"))
        brought = request.header(TURN_STATE)
        state = self.turns.turn_state(account, None if brought is None else brought.decode("latin-1"))
        if state is not None:
            headers.append((TURN_STATE, state.encode()))
        return ResponseHead(200, b"OK", headers)

    def _invalid(self, account: Authenticated, message: str) -> RequestRefused:
        return RequestRefused(self.turns.invalid(account, message))
