"""Claude's side of the simulator: routes and authenticates requests, and responds. No I/O; the time is a callable."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ccmproxy.dialects.usage import Tokens
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.simulator.claude.authorization import Authenticated, Authenticator
from ccmproxy.simulator.claude.error_answers import ErrorAnswers, request_id
from ccmproxy.simulator.claude.limit_views import (
    key_headers,
    profile_document,
    unified_headers,
    usage_document,
)
from ccmproxy.simulator.claude.messages import (
    PING,
    PromptCache,
    build_message,
    check,
    conversation_key,
    decode_body,
    error_event,
    foreign_thought,
    read_prompt,
    sign_thought,
)
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount, model_weight
from ccmproxy.simulator.claude.token_endpoint import refresh
from ccmproxy.simulator.conversation import compose, estimate_tokens, simulate_marker
from ccmproxy.simulator.due_faults import DueFaults, wish
from ccmproxy.simulator.faults import Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import InvalidRequest, RequestRefused, json_reply
from ccmproxy.simulator.routing import Routing
from ccmproxy.simulator.steps import Pace, Reply
from ccmproxy.simulator.token_request import deliver_refresh
from ccmproxy.simulator.upstream import Delivery

#: Models that exist: id → display name.
MODELS = {
    "claude-opus-5": "Claude Opus 5",
    "claude-sonnet-5-5": "Claude Sonnet 5.5",
    "claude-sonnet-5": "Claude Sonnet 5",
    "claude-haiku-4-5-20251001": "Claude Haiku 4.5",
    "claude-opus-4-6": "Claude Opus 4.6",
    "claude-sonnet-4-6": "Claude Sonnet 4.6",
}

#: Paths that clients request before they have any credential.
_PROBES = (b"/", b"/api/hello")

_EDGE_HEADERS: Headers = [
    (b"server", b"cloudflare"),
    (b"via", b"1.1 google"),
    (b"x-robots-tag", b"none"),
    (b"cf-cache-status", b"DYNAMIC"),
    (b"cf-ray", b"9a1b2c3d4e5f6071-FRA"),
]


def upstream_settings(url: str) -> dict[str, str]:
    """The addresses to configure for a simulator at ``url`` (``http://host:port``), by the names of the options."""
    return {
        "api_url": url,
        "token_url": f"{url}/v1/oauth/token",
        "usage_url": f"{url}/api/oauth/usage",
        "profile_url": f"{url}/api/oauth/profile",
    }


class ClaudeUpstream:
    """api.anthropic.com and its token endpoint, for any number of accounts.

    Any model whose name begins with ``claude-`` is served; ``MODELS`` are those that are listed.
    """

    def __init__(
        self,
        faults: FaultPlan,
        rng: random.Random,
        time: Callable[[], float],
        pace: Callable[[], Pace] = Pace,
    ) -> None:
        self.accounts: list[ClaudeAccount] = []
        self.keys: list[ApiKeyAccount] = []
        self._due = DueFaults[Authenticated](faults, self._invalid_answer, self._replacement)
        self._rng = rng
        self._time = time
        self._pace = pace
        self._errors = ErrorAnswers(rng)
        self._authenticator = Authenticator(self.accounts, self.keys, self._errors)
        self._cache = PromptCache()
        exact: dict[tuple[bytes, bytes], Callable[[ReceivedRequest], Delivery]] = {
            (b"POST", b"/v1/messages"): self._messages,
            (b"POST", b"/v1/messages/count_tokens"): self._count_tokens,
            (b"GET", b"/v1/models"): self._models,
            (b"POST", b"/v1/oauth/token"): self._token,
            (b"GET", b"/api/oauth/usage"): self._usage,
            (b"GET", b"/api/oauth/profile"): self._profile,
        }
        self._routing = Routing(exact, {(b"GET", b"/v1/models/"): self._model}, self._not_allowed)

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The response to a request, with the fault to apply; None if the path is not one of this provider's."""
        if request.path in _PROBES and request.method in (b"GET", b"HEAD"):
            return Delivery(Reply(ResponseHead(200, b"OK", [(b"content-type", b"text/plain")]), [b""]))
        return self._routing.answer(request)

    def _not_allowed(self, request: ReceivedRequest) -> Reply:
        return self._errors.error(405, "invalid_request_error", "Method Not Allowed")

    # Endpoints ------------------------------------------------------------------------------------------------

    def _messages(self, request: ReceivedRequest) -> Delivery:
        request.endpoint = "turn"
        account = self._authenticator.authenticate(request)
        document = self._document(request)
        prompt = read_prompt(document)
        key = conversation_key(request.header(b"x-claude-code-session-id"), document)
        wished = wish(request, simulate_marker(prompt.text))
        fault = self._due.meet(request, account, "turn", wished, key)
        model = str(document.get("model", ""))
        if fault is not None and fault.is_answer:
            account.counters.refused_turns += 1
            return Delivery(self._replacement(request, account, fault, model), fault, account)
        self._check_version(request)
        self._check(document)
        place = foreign_thought(document, account.organization_uuid)
        if place is not None:
            raise self._invalid(
                f"messages.{place[0]}.content.{place[1]}: Invalid `signature` in `thinking` block"
            )
        if (refusal := self._used_up(account, model)) is not None:
            account.counters.refused_turns += 1
            return Delivery(refusal, fault, account)

        now = self._time()
        cache_key = (account.organization_uuid, key, model, str(len(prompt.tools)))
        tokens = self._cache.tokens(cache_key, request.body, now)
        blocks = compose(prompt, self._rng)
        message = build_message(
            document, blocks, tokens, lambda text: sign_thought(account.organization_uuid, text), self._rng
        )
        self._consume(account, model, tokens, message.output_tokens)
        head = self._head(account, model)
        if document.get("stream") is True:
            head.headers[:0] = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
            ]
            reply = Reply(head, message.events(self._rng), True, error_event, PING, self._pace())
        else:
            head.headers[:0] = [(b"content-type", b"application/json")]
            reply = Reply(head, [message.whole()])
        return Delivery(reply, fault, account)

    def _count_tokens(self, request: ReceivedRequest) -> Delivery:
        account = self._authenticator.authenticate(request)
        document = self._document(request)

        def count() -> Reply:
            self._check_version(request)
            self._check(document, counting=True)
            return json_reply(200, {"input_tokens": estimate_tokens(len(request.body))}, self._identity())

        return self._due.deliver(request, account, "count_tokens", count)

    def _models(self, request: ReceivedRequest) -> Delivery:
        models = [_model_document(model) for model in MODELS]
        page = {
            "data": models,
            "has_more": False,
            "first_id": models[0]["id"],
            "last_id": models[-1]["id"],
        }
        account = self._authenticator.authenticate(request)
        return self._due.deliver(request, account, "models", lambda: json_reply(200, page, self._identity()))

    def _model(self, request: ReceivedRequest) -> Delivery:
        account = self._authenticator.authenticate(request)
        model = request.path.removeprefix(b"/v1/models/").decode("latin-1")

        def show() -> Reply:
            if model not in MODELS:
                return self._errors.error(404, "not_found_error", f"model: {model}")
            return json_reply(200, _model_document(model), self._identity())

        return self._due.deliver(request, account, "models", show)

    def _token(self, request: ReceivedRequest) -> Delivery:
        return deliver_refresh(
            request,
            self.accounts,
            self._due.deliver,
            lambda parameters, account: refresh(parameters, account, self._errors),
        )

    def _usage(self, request: ReceivedRequest) -> Delivery:
        account = self._authenticator.subscription(request)
        account.counters.usage_polls += 1
        return self._due.deliver(
            request,
            account,
            "usage",
            lambda: json_reply(200, usage_document(account, self._time()), self._identity()),
        )

    def _profile(self, request: ReceivedRequest) -> Delivery:
        account = self._authenticator.subscription(request)
        return self._due.deliver(
            request,
            account,
            "profile",
            lambda: json_reply(200, profile_document(account), self._identity()),
        )

    # Steps of them --------------------------------------------------------------------------------------------

    def _document(self, request: ReceivedRequest) -> Mapping[str, Any]:
        try:
            return decode_body(request.body)
        except InvalidRequest as error:
            raise self._invalid(str(error)) from None

    def _replacement(
        self, request: ReceivedRequest, account: Authenticated | None, fault: Fault, model: str
    ) -> Reply:
        """The response that ``fault`` puts in place of the real one."""
        limits: Headers = []
        if account is not None and fault.name == "exhausted":
            limits = self._limits(account, model, fault.window)
        return self._errors.answer(fault, request.target, limits)

    def _check_version(self, request: ReceivedRequest) -> None:
        if request.header(b"anthropic-version") is None:
            raise self._invalid("anthropic-version: header is required")

    def _check(self, document: Mapping[str, Any], *, counting: bool = False) -> None:
        try:
            check(document, counting=counting)
        except InvalidRequest as error:
            raise self._invalid(str(error)) from None
        if not document["model"].startswith("claude-"):
            raise RequestRefused(self._errors.error(404, "not_found_error", f"model: {document['model']}"))

    def _used_up(self, account: Authenticated, model: str) -> Reply | None:
        """The 429 for an account without any allowance left, else None."""
        if isinstance(account, ApiKeyAccount):
            if account.take_request():
                return None
            wait = account.allowance()[1] - self._time()
        else:
            until = account.full_until(account.windows_for(model))
            if until is None:
                return None
            wait = until - self._time()
        fault = Fault("exhausted", retry_after=max(1, round(wait)))
        return self._errors.answer(fault, b"", self._limits(account, model))

    def _limits(self, account: Authenticated, model: str, full: str | None = None) -> Headers:
        if isinstance(account, ApiKeyAccount):
            return key_headers(account)
        if full is not None and full not in account.windows:
            full = "five_hour"
        return unified_headers(account, model, self._time(), full)

    def _consume(self, account: Authenticated, model: str, tokens: Tokens, output: int) -> None:
        if isinstance(account, ClaudeAccount):
            used = replace(tokens, output=output)
            account.consume(used, model_weight(model), account.windows_for(model))

    def _head(self, account: Authenticated, model: str) -> ResponseHead:
        headers = [*self._identity(), *self._limits(account, model), *_EDGE_HEADERS]
        return ResponseHead(200, b"OK", headers)

    def _identity(self) -> Headers:
        return [(b"request-id", request_id(self._rng).encode())]

    def _invalid(self, message: str) -> RequestRefused:
        return RequestRefused(self._invalid_answer(None, message))

    def _invalid_answer(self, account: Authenticated | None, message: str) -> Reply:
        return self._errors.error(400, "invalid_request_error", message)


def _model_document(model: str) -> dict[str, str]:
    return {
        "type": "model",
        "id": model,
        "display_name": MODELS[model],
        "created_at": "2025-10-01T00:00:00Z",
    }
