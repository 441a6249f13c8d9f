"""Codex's side of the simulator: what is asked, by whom, and the answer. No I/O; the time comes from a callable.

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
from ccmproxy.simulator.codex.body_decoding import BadBody, read_document
from ccmproxy.simulator.codex.error_answers import Refusals
from ccmproxy.simulator.codex.limit_views import usage_document
from ccmproxy.simulator.codex.models import MODELS, catalog, model_document
from ccmproxy.simulator.codex.responses import InvalidRequest, conversation_key, sse
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.codex.token_endpoint import refresh, refreshing_account
from ccmproxy.simulator.codex.turns import TURN_STATE, Turns
from ccmproxy.simulator.codex.websocket_server import WebSocketServer, accept_handshake, wants_websocket
from ccmproxy.simulator.codex.websocket_session import Session
from ccmproxy.simulator.codex.websocket_steps import perform_opening
from ccmproxy.simulator.conversation import Prompt, simulate_marker
from ccmproxy.simulator.faults import Endpoint, Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import Refused, json_reply
from ccmproxy.simulator.steps import Pace, Reply
from ccmproxy.simulator.token_request import token_request
from ccmproxy.simulator.upstream import Answer

#: Where both providers have an endpoint of the same name.
_SHARED = b"/v1/models"

_EDGE_HEADERS: Headers = [(b"server", b"cloudflare"), (b"cf-ray", b"9a1b2c3d4e5f6072-FRA")]
_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
_KEEP_ALIVE = sse({"type": "keepalive"})


def upstream_settings(url: str) -> dict[str, str]:
    """The addresses to configure where a simulator serves at ``url`` (``http://host:port``), by the options' names.

    For logins; with keys, ``api_url`` is ``url`` itself.
    """
    return {
        "api_url": f"{url}/backend-api/codex",
        "token_url": f"{url}/oauth/token",
        "usage_url": f"{url}/backend-api/wham/usage",
    }


class CodexUpstream:
    """chatgpt.com, auth.openai.com and api.openai.com, for as many accounts and keys as are added."""

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
        self._refusals = Refusals(rng)
        self._authenticator = Authenticator(self.accounts, self.keys, self._refusals)
        self.turns = Turns(faults, rng, time, self._refusals)
        self._catalog, self._etag = catalog()
        account, key = self._authenticator.account, self._authenticator.key
        self._routes: dict[tuple[bytes, bytes], Callable[[ReceivedRequest], Answer]] = {
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
        self._paths = {path for _, path in self._routes}

    def answer(self, request: ReceivedRequest) -> Answer | None:
        """The answer to one request."""
        path = request.path
        if path.startswith(_SHARED) and not self._is_ours(request):
            return None
        handler = self._routes.get((request.method, path))
        try:
            if handler is not None:
                return handler(request)
            if path.startswith(b"/v1/models/") and request.method == b"GET":
                return self._model(request)
        except Refused as refused:
            return Answer(refused.reply)
        if path in self._paths:
            message = f"Not allowed to {request.method.decode('latin-1')} on {path.decode('latin-1')}"
            return Answer(self._refusals.error(405, "invalid_request_error", None, message))
        if path.startswith(b"/backend-api/"):
            return Answer(self._refusals.detail(404, "Not Found"))
        return None

    # Endpoints ------------------------------------------------------------------------------------------------

    def _responses(self, request: ReceivedRequest, account: Authenticated) -> Answer:
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
            raise self._invalid(account, error) from None
        try:
            response = self.turns.respond(account, document, prompt, key, len(request.body))
        except Refused as refused:
            account.counters.refused_turns += 1
            return Answer(refused.reply, fault, account)
        head = self._head(request, account, response.model)
        if document.get("stream") is not True:
            head.headers.insert(0, (b"content-type", b"application/json"))
            return Answer(Reply(head, [response.whole()]), fault, account)
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
        return Answer(reply, fault, account)

    def _websocket(self, request: ReceivedRequest, account: Authenticated) -> Answer:
        if not wants_websocket(request):
            return Answer(
                self._refusals.error(405, "invalid_request_error", None, "Upgrade to websocket required")
            )
        request.endpoint = "websocket"
        fault = self.turns.fault(request, account, "websocket", _wish(request))
        if fault is not None and fault.is_answer:
            return Answer(self.turns.replacement(request, account, fault), fault)
        if (accepted := accept_handshake(request)) is None:
            raise self._invalid(account, InvalidRequest("Invalid WebSocket handshake"))
        headers = [
            *accepted.headers,
            *self._refusals.identity(),
            *self.turns.limit_headers(account),
            *_EDGE_HEADERS,
            (b"x-models-etag", self._etag),
        ]
        session = Session(self.turns, account, request, self._pace)
        head = ResponseHead(101, b"Switching Protocols", headers)
        opening = perform_opening(
            join_head(b"HTTP/1.1 101 Switching Protocols", headers), fault, session.early_message(), self._rng
        )
        return Answer(
            Reply(head, []),
            fault,
            switch=lambda clock, on_request, on_end: WebSocketServer(
                session, opening, accepted, clock, on_request, on_end
            ),
        )

    def _chat(self, request: ReceivedRequest, account: Authenticated) -> Answer:
        document = self._begin(request, account)
        prompt = chat.read_prompt(document)
        key = conversation_key(None, document)
        fault, answer = self._fault(request, account, document, prompt, key)
        if answer is not None:
            return answer
        try:
            chat.check(document)
        except InvalidRequest as error:
            raise self._invalid(account, error) from None
        try:
            completion = self.turns.complete(account, document, prompt, key, len(request.body))
        except Refused as refused:
            account.counters.refused_turns += 1
            return Answer(refused.reply, fault, account)
        head = self._head(request, account, completion.model)
        if document.get("stream") is not True:
            head.headers.insert(0, (b"content-type", b"application/json"))
            return Answer(Reply(head, [completion.whole()]), fault, account)
        head.headers[:0] = _STREAM_HEADERS
        options = document.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        events = completion.events(self._rng, include_usage=include_usage)
        reply = Reply(head, events, True, chat.error_event, b": keep-alive\n\n", self._pace())
        return Answer(reply, fault, account)

    def _models(self, request: ReceivedRequest, account: Authenticated) -> Answer:
        headers = [(b"etag", self._etag), *self._refusals.identity()]
        return self._unless_faulty(
            request, account, "models", lambda: json_reply(200, None, headers, raw=self._catalog)
        )

    def _model(self, request: ReceivedRequest) -> Answer:
        key = self._authenticator.key(request)
        model = request.path.removeprefix(b"/v1/models/").decode("latin-1")

        def show() -> Reply:
            if model not in MODELS:
                message = f"The model '{model}' does not exist"
                return self._refusals.error(404, "invalid_request_error", "model_not_found", message)
            return json_reply(200, model_document(model), self._refusals.identity())

        return self._unless_faulty(request, key, "models", show)

    def _token(self, request: ReceivedRequest) -> Answer:
        parameters = token_request(request)
        account = refreshing_account(parameters, self.accounts)
        request.account = account.name if account is not None else None
        return self._unless_faulty(
            request, account, "token", lambda: refresh(parameters, account, self._refusals)
        )

    def _usage(self, request: ReceivedRequest) -> Answer:
        account = self._authenticator.account(request)
        account.counters.usage_polls += 1
        return self._unless_faulty(
            request,
            account,
            "usage",
            lambda: json_reply(200, usage_document(account, self._time()), self._refusals.identity()),
        )

    # Steps of them --------------------------------------------------------------------------------------------

    def _is_ours(self, request: ReceivedRequest) -> bool:
        """Whether a request that either provider could get is meant for this one."""
        if self._authenticator.knows(request):
            return True
        if not (self.accounts or self.keys):
            return False
        return request.header(b"anthropic-version") is None and request.header(b"x-api-key") is None

    def _begin(self, request: ReceivedRequest, account: Authenticated) -> dict[str, Any]:
        """The body of a request for a turn. Raises Refused."""
        request.endpoint = "turn"
        try:
            return read_document(request)
        except BadBody as error:
            raise self._invalid(account, InvalidRequest(str(error))) from None

    def _fault(
        self,
        request: ReceivedRequest,
        account: Authenticated,
        document: Mapping[str, Any],
        prompt: Prompt,
        conversation: str,
    ) -> tuple[Fault | None, Answer | None]:
        """The fault of a turn, and the answer that it puts in the place of the real one, if it does."""
        wish = _wish(request) or simulate_marker(prompt.text)
        fault = self.turns.fault(request, account, "turn", wish, conversation)
        if fault is None or not fault.is_answer:
            return fault, None
        account.counters.refused_turns += 1
        reply = self.turns.replacement(request, account, fault, str(document.get("model", "")))
        return fault, Answer(reply, fault, account)

    def _unless_faulty(
        self,
        request: ReceivedRequest,
        account: Authenticated | None,
        endpoint: Endpoint,
        reply: Callable[[], Reply],
    ) -> Answer:
        """The fault that is due at ``endpoint``, or else ``reply``, which has no effects before it is called."""
        request.endpoint = endpoint
        fault = self.turns.fault(request, account, endpoint, _wish(request))
        if fault is not None and fault.is_answer:
            return Answer(self.turns.replacement(request, account, fault), fault)
        return Answer(reply(), fault)

    def _head(self, request: ReceivedRequest, account: Authenticated, model: str) -> ResponseHead:
        headers = [*self._refusals.identity(), *self.turns.limit_headers(account, model), *_EDGE_HEADERS]
        headers.append((b"openai-model", model.encode()))
        if isinstance(account, CodexAccount):
            headers.append((b"x-models-etag", self._etag))
            headers.append((b"x-reasoning-included", b"true"))
        brought = request.header(TURN_STATE)
        state = self.turns.turn_state(account, None if brought is None else brought.decode("latin-1"))
        if state is not None:
            headers.append((TURN_STATE, state.encode()))
        return ResponseHead(200, b"OK", headers)

    def _invalid(self, account: Authenticated, error: InvalidRequest) -> Refused:
        return Refused(self.turns.invalid(account, error))


def _wish(request: ReceivedRequest) -> str | None:
    """The fault that a request asks for in a header."""
    header = request.header(b"x-simulate")
    return header.decode("latin-1") if header is not None else None
