"""Codex's requests, responses and errors, as far as the proxy needs to understand them (spec 4)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.codex.metering import CHAT, COMPACT, RATE_LIMITS, RESPONSES, TOLD_PLAN
from ccmproxy.dialects.codex.usage_meters import event_failure, event_type
from ccmproxy.dialects.codex.verdicts import USAGE_LIMIT, judge, judge_event
from ccmproxy.dialects.codex.windows import ACTIVE_LIMIT, OWN_LIMIT
from ccmproxy.dialects.facts import RequestFacts, header_key, printable_key, unusual_name
from ccmproxy.dialects.json_values import (
    DECODE_ERRORS,
    NO_JSON,
    flag_decoder,
    read_raw,
    text_decoder,
)
from ccmproxy.dialects.named_models import with_models
from ccmproxy.dialects.oauth import ApiKey, Authorization, RemoteToken
from ccmproxy.dialects.own_errors import (
    BUSY_REASON,
    NOT_FOR_LOGIN,
    error_head,
    error_type,
    exhausted_fields,
    exhausted_message,
    relayed_head,
)
from ccmproxy.dialects.remote import remote_head
from ccmproxy.dialects.request_documents import count_items, read_document
from ccmproxy.dialects.sse import first_event
from ccmproxy.dialects.verdicts import read_refusal
from ccmproxy.http.headers import IDENTITY, override, request_headers
from ccmproxy.http.message import (
    Body,
    Headers,
    RequestHead,
    ResponseHead,
    first_value,
    list_items,
    without,
)
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.allowed_models import ModelUse
from ccmproxy.policy.answers import SERVED, AnswerKind, Verdict
from ccmproxy.policy.borrowers import ToldLimit
from ccmproxy.policy.waits import WaitingClient, waits
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability

ACCOUNT_ID = b"chatgpt-account-id"
#: A response field that clients send back during the same turn; only the account that issued it understands it.
TURN_STATE = b"x-codex-turn-state"

_PRIMARY_RESET = b"x-codex-primary-reset-at"
_VERSION = b"/v1"
_BILLABLE = frozenset({RESPONSES, COMPACT, CHAT})
#: What asks for no model unless it names one, and the first segments of what keeps what it is sent.
_COUNTS = "responses/input_tokens"
_STORES = ("files", "uploads")
#: All known spellings: proxies in between drop names with underscores (F10).
_SESSION_HEADERS = (b"session-id", b"session_id", b"conversation_id")
_THREAD_HEADERS = (b"thread-id", b"thread_id")
#: Failures that another account may not meet. The others are the request's own fault.
_FAILURES = frozenset({"server_error", "server_is_overloaded", "slow_down", "unknown"})
#: What a relayed refusal asks the client to wait for, where the provider names no time (spec 12.2).
_RELAYED_WAIT = (b"Retry-After", b"5")

_CLIENT_SOURCE = (
    "docs/clients/codex.md, sections 0 (point 7), 7 and 11: from 0.169 on; 0.148 and older give up"
)
#: Clients that wait for the Retry-After of a 429 that is not a usage limit, and go on then (spec 12.2).
WAITING_CLIENTS = (
    WaitingClient("codex_exec", (0, 169), _CLIENT_SOURCE),
    WaitingClient("codex_cli_rs", (0, 169), _CLIENT_SOURCE),
    WaitingClient("OpenAI/Python", (3, 54), "docs/clients/codex.md, section 9"),
)


class _Body(msgspec.Struct):
    """The fields that the proxy needs, undecoded: a field of an unexpected type does not affect the others."""

    model: msgspec.Raw = NO_JSON
    stream: msgspec.Raw = NO_JSON
    input: msgspec.Raw = NO_JSON
    messages: msgspec.Raw = NO_JSON
    prompt_cache_key: msgspec.Raw = NO_JSON


_body_decoder = msgspec.json.Decoder(_Body)


@implementer(ITraffic)
class CodexTraffic:
    """Traffic facet of the Codex dialect. Stateless."""

    def inspect(
        self, head: RequestHead, body: Body, quick: bool = False, all_models: bool = False
    ) -> RequestFacts:
        """The facts of a request, compressed or not. Those that a malformed body hides are None (spec 4.1).

        Raises NotQuick as :meth:`ITraffic.inspect` says.
        """
        headers = head.headers
        operation = head.path.removeprefix(_VERSION + b"/").rstrip(b"/").decode("latin-1")
        read, document = None, b""
        if body.size and b"json" in (first_value(headers, b"content-type") or b"json").lower():
            document = read_document(body, first_value(headers, b"content-encoding"), quick)
            read = _decode(document)
        parsed = read or _Body()
        session = header_key(headers, *_SESSION_HEADERS) or printable_key(
            read_raw(parsed.prompt_cache_key, text_decoder)
        )
        thread = header_key(headers, *_THREAD_HEADERS)
        features = (*list_items(headers, b"openai-beta"), *list_items(headers, b"x-codex-beta-features"))
        model = read_raw(parsed.model, text_decoder)
        facts = RequestFacts(
            model=printable_key(model),
            session=session,
            agent=thread if thread != session else None,
            stream=read_raw(parsed.stream, flag_decoder),
            messages=count_items(parsed.messages if operation == CHAT else parsed.input),
            features=tuple(item.decode("latin-1") for item in features),
            billable=head.method == b"POST" and operation in _BILLABLE,
            operation=operation if operation in _BILLABLE else None,
            unusual_model=unusual_name(model),
            is_opaque=body.size > 0 and read is None,
        )
        if not all_models:
            return facts
        return with_models(facts, headers, body.size, document, _model_use(operation), quick)

    def check(
        self, facts: RequestFacts, single_account: bool, has_api_key: bool = False
    ) -> tuple[str, str] | None:
        """Reject chat completions without an API key: only the commercial API has them (spec 3.6)."""
        if facts.operation == CHAT and not has_api_key:
            return (
                "api_key_only",
                "chat completions need an API key; with a ChatGPT account use /v1/responses",
            )
        return None

    def error(
        self,
        status: int,
        reason: str,
        message: str,
        request_id: str,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[ResponseHead, bytes]:
        """``{"error": {"type", "code", "message", "param"}}``; the client also shows ``x-request-id``."""
        body = {
            "error": {
                "type": error_type(status, reason),
                "code": reason,
                "message": message,
                "param": None,
            }
        }
        return _own_head(status, reason, request_id, extra), json.dumps(body).encode()

    def exhausted(
        self,
        facts: RequestFacts,
        availability: Availability,
        aggregate: Aggregate | None,
        request_id: str,
        now: float,
    ) -> tuple[ResponseHead, bytes]:
        """A 429 that the CLI shows once and does not retry.

        Observed: the CLI decides by ``error.type``, and reads the reset from ``resets_at`` or, in versions of 2025,
        from ``resets_in_seconds``. The SDK obeys ``x-should-retry``.
        """
        error: dict[str, object] = {
            "type": USAGE_LIMIT,
            "message": exhausted_message(availability, now),
            "plan_type": TOLD_PLAN,
        }
        if availability.reset_at > now:
            error["resets_at"] = math.ceil(availability.reset_at)
            error["resets_in_seconds"] = math.ceil(availability.reset_at - now)
        head = _own_head(429, "rate_limited", request_id, exhausted_fields(availability, now))
        return head, json.dumps({"error": error}).encode()

    def upstream_head(
        self,
        head: RequestHead,
        authorization: Authorization,
        host: bytes,
        base_path: bytes,
        overrides: Mapping[str, Sequence[str]],
        bound: bool = False,
    ) -> RequestHead:
        """The head for the upstream: the client's permitted fields, plus the account's authorization (spec 3.6, 4.3).

        A login's path is without ``/v1``; the commercial API's is unchanged. The account id is never the client's own.
        The client's Accept-Encoding does not pass: usage, and events to be replaced, are read from the answer's body,
        so that it is asked for as it is (spec 12.5, F59).
        """
        dropped = {ACCOUNT_ID, b"accept-encoding"}
        if not bound:
            dropped.add(TURN_STATE)
        if isinstance(authorization, RemoteToken):
            return remote_head(head, authorization, host, base_path, dropped)
        headers: Headers = [(b"Host", host), *without(request_headers(head.headers), dropped)]
        target = head.target
        if isinstance(authorization, ApiKey):
            secret = authorization.key
        else:
            secret = authorization.access_token
            target = target.removeprefix(_VERSION)
            if authorization.account_id is not None:
                headers.append((b"ChatGPT-Account-Id", authorization.account_id.encode("latin-1")))
        headers.append((b"Authorization", b"Bearer " + secret.encode("latin-1")))
        headers.append(IDENTITY)
        return RequestHead(head.method, base_path + target, override(headers, overrides))

    def classify(
        self, head: ResponseHead, body: bytes | None, now: float, echo: str = "", model: str | None = None
    ) -> Verdict:
        """Spec 4.4, 4.6 and 12; a 429's body is asked for, as only its ``error.type`` tells a quota from a burst."""
        document = None if body is None else read_refusal(head.headers, body)
        return judge(head.status, head.headers, document, now, echo, model)

    def classify_stream(
        self, head: ResponseHead, data: bytes, now: float, echo: str = "", model: str | None = None
    ) -> Verdict | None:
        """A stream that begins with its failure, but for reports of the account's state, which come when they like."""
        event = first_event(data, (RATE_LIMITS,))
        if event is None:
            return None
        kind = event_type(event.data) or event.name.decode("latin-1")
        refusal = judge_event(kind, event.data, head.headers, now, echo, model)
        if refusal is not None:
            return refusal
        is_failure = event_failure(event.name, event.data) in _FAILURES
        return Verdict(AnswerKind.STREAM_FAILED) if is_failure else SERVED

    def busy(
        self, facts: RequestFacts, head: RequestHead, seconds: int, message: str, request_id: str
    ) -> tuple[ResponseHead, bytes]:
        """With Retry-After: 429 for clients that wait then, and 503 for all others, which every version of the CLI
        waits for (observed). Never in the words of a used-up account, which end the turn."""
        agent = (first_value(head.headers, b"user-agent") or b"").decode("latin-1")
        status = 429 if waits(WAITING_CLIENTS, agent) else 503
        return self.error(status, BUSY_REASON, message, request_id, ((b"Retry-After", b"%d" % seconds),))

    def about_request(self, head: ResponseHead, body: bytes, request_id: str) -> tuple[ResponseHead, bytes]:
        """400, whose body the CLI shows, and which it does not try again; a 401 or 403 it would try six times
        (observed)."""
        if not body:
            return self.error(400, "upstream_auth", NOT_FOR_LOGIN, request_id)
        named = (b"x-request-id", request_id.encode("ascii"))
        return relayed_head(400, head.headers, "OCM", request_id, (named,)), body

    def told_to_instance(self, headers: Headers, told: ToldLimit) -> Headers:
        """The account's own limit as the one that refuses, and the reset of its primary window, whichever it is."""
        kept = without(headers, (ACTIVE_LIMIT, _PRIMARY_RESET))
        return [*kept, (ACTIVE_LIMIT, OWN_LIMIT.encode()), (_PRIMARY_RESET, b"%d" % told.resets_at)]

    def relayed_refusal(self, head: ResponseHead, verdict: Verdict) -> Headers:
        """A 429 gets a Retry-After, unless waiting does not help: the CLI gives up at once without (observed)."""
        if head.status != 429 or verdict.is_final or first_value(head.headers, b"retry-after") is not None:
            return head.headers
        return [*head.headers, _RELAYED_WAIT]


def _model_use(operation: str) -> ModelUse:
    """Return what a body that is sent for ``operation`` has to do with models; batches may ask for them too."""
    if operation.partition("/")[0] in _STORES:
        return ModelUse.NONE
    return ModelUse.IF_NAMED if operation == _COUNTS else ModelUse.ALWAYS


def _decode(document: bytes) -> _Body | None:
    """Return what can be read of a body; None if it is no JSON object."""
    try:
        return _body_decoder.decode(document) if document else None
    except DECODE_ERRORS:
        return None


def _own_head(
    status: int, reason: str, request_id: str, extra: Sequence[tuple[bytes, bytes]]
) -> ResponseHead:
    named = (b"x-request-id", request_id.encode("ascii"))
    return error_head(status, reason, "OCM", request_id, (named, *extra))
