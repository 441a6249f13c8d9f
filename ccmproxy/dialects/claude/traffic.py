"""Claude's requests, responses and errors, as far as the proxy needs to understand them (spec 4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.claude.account_format import OAUTH_BETA
from ccmproxy.dialects.claude.metering import exhausted_headers
from ccmproxy.dialects.claude.usage_meters import error_event_type
from ccmproxy.dialects.claude.verdicts import judge, judge_error_event
from ccmproxy.dialects.claude.windows import FAMILY
from ccmproxy.dialects.facts import RequestFacts, header_key, printable_key, unusual_name
from ccmproxy.dialects.json_values import DECODE_ERRORS, NO_JSON, flag_decoder, read_raw, text_decoder
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
from ccmproxy.dialects.request_documents import ItemList, count_items, read_document
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
    lower_names,
    without,
)
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.allowed_models import ModelUse
from ccmproxy.policy.answers import SERVED, AnswerKind, Verdict
from ccmproxy.policy.borrowers import ToldLimit
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability

_OAUTH_BETA = OAUTH_BETA.encode()
_CLAIM = FAMILY + b"representative-claim"
_FAST_MODE = "fast-mode"
_FAST_MODE_REFUSED = "fast mode requests will consume Extra usage, please use a default credential directly"
_LEGACY_SESSION = "_session_"
#: Endpoints that keep what they are sent, and ask no model.
_STORES = re.compile(rb"/v1/(?:files|skills)(?:/.*)?")
_COUNTS = b"/v1/messages/count_tokens"

#: Types of errors that another account may not run into. All others are caused by the request itself.
_FAILURES = frozenset({"api_error", "overloaded_error", "timeout_error"})


class _Body(msgspec.Struct):
    """The fields of a message request that the proxy needs; all others are skipped undecoded."""

    model: str | None = None
    messages: ItemList | None = None
    stream: bool | None = None
    metadata: msgspec.Raw = NO_JSON


class _LooseBody(msgspec.Struct):
    """The fields that are kept undecoded when the type of any is unexpected: judging that is left to the upstream."""

    model: msgspec.Raw = NO_JSON
    messages: msgspec.Raw = NO_JSON
    stream: msgspec.Raw = NO_JSON
    metadata: msgspec.Raw = NO_JSON


class _Parsed(NamedTuple):
    """What a body says. ``messages``: how many there are."""

    model: str | None = None
    messages: int | None = None
    stream: bool | None = None
    metadata: msgspec.Raw = NO_JSON


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _UserId(msgspec.Struct):
    session_id: str | None = None


_body_decoder = msgspec.json.Decoder(_Body)
_loose_decoder = msgspec.json.Decoder(_LooseBody)
_metadata_decoder = msgspec.json.Decoder(_Metadata)
_user_id_decoder = msgspec.json.Decoder(_UserId)


@implementer(ITraffic)
class ClaudeTraffic:
    """Traffic facet of the Claude dialect. Stateless."""

    def inspect(
        self, head: RequestHead, body: Body, quick: bool = False, all_models: bool = False
    ) -> RequestFacts:
        """The facts of a request. Those that a malformed or a compressed body hides are None (spec 4.1).

        Raises NotQuick as :meth:`ITraffic.inspect` says.
        """
        headers = head.headers
        features = tuple(item.decode("latin-1") for item in list_items(headers, b"anthropic-beta"))
        read, document = None, b""
        if body.size and first_value(headers, b"content-encoding") is None:
            document = read_document(body, None, quick)
            read = _decode(document) if document else None
        parsed = read or _Parsed()
        facts = RequestFacts(
            model=printable_key(parsed.model),
            session=header_key(headers, b"x-claude-code-session-id") or _session(parsed.metadata),
            agent=header_key(headers, b"x-claude-code-agent-id"),
            stream=parsed.stream,
            messages=parsed.messages,
            features=features,
            client_is_oauth=OAUTH_BETA in features,
            billable=head.path.rstrip(b"/").endswith(b"/messages"),
            unusual_model=unusual_name(parsed.model),
            is_opaque=body.size > 0 and read is None,
        )
        if not all_models:
            return facts
        return with_models(facts, headers, body.size, document, _model_use(head.path), quick)

    def check(
        self, facts: RequestFacts, single_account: bool, has_api_key: bool = False
    ) -> tuple[str, str] | None:
        """Reject fast mode, which costs extra, unless the user has an account of their own (spec 4.1)."""
        if not single_account and any(name.startswith(_FAST_MODE) for name in facts.features):
            return "fast_mode", _FAST_MODE_REFUSED
        return None

    def error(
        self,
        status: int,
        reason: str,
        message: str,
        request_id: str,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[ResponseHead, bytes]:
        """An error of our own: ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

        A 401 carries ``x-should-retry: false``: otherwise the CLI would retry ten times, over three minutes.
        """
        kind = error_type(status, reason)
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
        named = (b"request-id", request_id.encode("ascii"))
        head = error_head(status, reason, "CCM", request_id, (named, *extra))
        return head, json.dumps(body).encode()

    def exhausted(
        self,
        facts: RequestFacts,
        availability: Availability,
        aggregate: Aggregate | None,
        request_id: str,
        now: float,
    ) -> tuple[ResponseHead, bytes]:
        """A 429 that the CLI shows once and does not retry (observed: x-should-retry false, no unified headers).

        A client that speaks OAuth itself stops on the unified headers instead, and shows their claim and reset.
        """
        message = exhausted_message(availability, now)
        extra = exhausted_fields(availability, now)
        if facts.client_is_oauth and aggregate is not None:
            extra += exhausted_headers(aggregate, availability, now)
        return self.error(429, "rate_limited", message, request_id, extra)

    def upstream_head(
        self,
        head: RequestHead,
        authorization: Authorization,
        host: bytes,
        base_path: bytes,
        overrides: Mapping[str, Sequence[str]],
        bound: bool = False,
    ) -> RequestHead:
        """The head for the upstream: the client's path, query and permitted fields, plus the account's authorization.

        The client's Accept-Encoding does not pass: usage and the proper end of an answer are read from its body (spec
        4.3), so that it is asked for as it is (spec 12.5, F59).
        """
        if isinstance(authorization, RemoteToken):
            return remote_head(head, authorization, host, base_path, (b"accept-encoding",))
        headers: Headers = [(b"Host", host)]
        forwarded = request_headers(head.headers)
        has_beta = False
        for pair, name in zip(forwarded, lower_names(forwarded), strict=True):
            if name == b"anthropic-beta":
                value = pair[1]
                if isinstance(authorization, ApiKey):
                    value = _without_oauth_beta(value)
                elif not has_beta:
                    value = _with_oauth_beta(value, head.headers)
                    has_beta = True
                if value:
                    headers.append((pair[0], value))
            elif name != b"accept-encoding":
                headers.append(pair)
        if isinstance(authorization, ApiKey):
            headers.append((b"x-api-key", authorization.key.encode("latin-1")))
        else:
            if not has_beta:
                headers.append((b"anthropic-beta", _OAUTH_BETA))
            headers.append((b"Authorization", b"Bearer " + authorization.access_token.encode("latin-1")))
        headers.append(IDENTITY)
        return RequestHead(head.method, base_path + head.target, override(headers, overrides))

    def classify(
        self, head: ResponseHead, body: bytes | None, now: float, echo: str = "", model: str | None = None
    ) -> Verdict:
        """Spec 4.4, 4.6 and 12; the body of a 429 is asked for only where no window explains it."""
        document = None if body is None else read_refusal(head.headers, body)
        return judge(head.status, head.headers, document, now, echo, model)

    def classify_stream(
        self, head: ResponseHead, data: bytes, now: float, echo: str = "", model: str | None = None
    ) -> Verdict | None:
        """An ``error`` event in the place of ``message_start``: what its type would mean as a status."""
        event = first_event(data)
        if event is None:
            return None
        if event.name != b"error":
            return SERVED
        refusal = judge_error_event(event.data, head.headers, now, echo, model)
        if refusal is not None:
            return refusal
        is_failure = error_event_type(event.data) in _FAILURES
        return Verdict(AnswerKind.STREAM_FAILED) if is_failure else SERVED

    def busy(
        self, facts: RequestFacts, head: RequestHead, seconds: int, message: str, request_id: str
    ) -> tuple[ResponseHead, bytes]:
        """429 with Retry-After, which every client waits out (observed): no ``x-should-retry: false``, and no unified
        headers, on which a client that speaks OAuth would stop."""
        return self.error(429, BUSY_REASON, message, request_id, ((b"retry-after", b"%d" % seconds),))

    def about_request(self, head: ResponseHead, body: bytes, request_id: str) -> tuple[ResponseHead, bytes]:
        """403, which the CLI shows and does not try again; on a 401 it would try ten times (observed)."""
        if not body:
            return self.error(403, "upstream_auth", NOT_FOR_LOGIN, request_id)
        named = (b"request-id", request_id.encode("ascii"))
        return relayed_head(403, head.headers, "CCM", request_id, (named,)), body

    def told_to_instance(self, headers: Headers, told: ToldLimit) -> Headers:
        """The claim in the short form, ``5h`` or ``7d``, and the reset of that window.

        What else is said of the limits stays only where it is about the same window and reset.
        """
        claim = b"5h" if told.window == "short" else b"7d"
        reset, resets_at = FAMILY + claim + b"-reset", b"%d" % told.resets_at
        if first_value(headers, reset) == resets_at:
            return [*without(headers, (_CLAIM,)), (_CLAIM, claim)]
        names = lower_names(headers)
        kept = [pair for pair, name in zip(headers, names, strict=True) if not name.startswith(FAMILY)]
        return [*kept, (_CLAIM, claim), (reset, resets_at)]

    def relayed_refusal(self, head: ResponseHead, verdict: Verdict) -> Headers:
        """As it came: the client's own back-off works."""
        return head.headers


def _model_use(path: bytes) -> ModelUse:
    """Return what a body that is sent to ``path`` has to do with models; batches and sessions may ask for them too."""
    if _STORES.fullmatch(path):
        return ModelUse.NONE
    return ModelUse.IF_NAMED if path.rstrip(b"/") == _COUNTS else ModelUse.ALWAYS


def _decode(document: bytes) -> _Parsed | None:
    """Return what can be read of a body; None if it is no JSON object."""
    try:
        body = _body_decoder.decode(document)
        count = None if body.messages is None else len(body.messages)
        return _Parsed(body.model, count, body.stream, body.metadata)
    except DECODE_ERRORS:
        pass
    try:
        loose = _loose_decoder.decode(document)
    except DECODE_ERRORS:
        return None
    return _Parsed(
        read_raw(loose.model, text_decoder),
        count_items(loose.messages),
        read_raw(loose.stream, flag_decoder),
        loose.metadata,
    )


def _session(metadata: msgspec.Raw) -> str | None:
    """The session id from ``metadata.user_id``, JSON or a legacy string, where no header names it (spec 4.1, F10)."""
    told = read_raw(metadata, _metadata_decoder)
    user_id = told.user_id if told is not None else None
    if not user_id:
        return None
    if user_id.lstrip().startswith("{"):
        try:
            return printable_key(_user_id_decoder.decode(user_id.encode("utf-8", "surrogatepass")).session_id)
        except DECODE_ERRORS:
            return None
    _, found, session = user_id.rpartition(_LEGACY_SESSION)
    return printable_key(session) if found else None


def _with_oauth_beta(value: bytes, headers: Headers) -> bytes:
    if _OAUTH_BETA in list_items(headers, b"anthropic-beta"):
        return value
    return _OAUTH_BETA + b"," + value if value.strip() else _OAUTH_BETA


def _without_oauth_beta(value: bytes) -> bytes:
    if _OAUTH_BETA not in value:
        return value
    return b",".join(item for part in value.split(b",") if (item := part.strip()) and item != _OAUTH_BETA)
