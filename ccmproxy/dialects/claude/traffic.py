"""Claude's requests, responses and errors, as far as the proxy needs to understand them (spec 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.claude.account_format import OAUTH_BETA
from ccmproxy.dialects.claude.metering import aggregate_headers, api_key_reset
from ccmproxy.dialects.claude.usage_meters import error_event_type
from ccmproxy.dialects.claude.windows import family_claims, parse_family
from ccmproxy.dialects.facts import RequestFacts, header_key, printable_key
from ccmproxy.dialects.json_values import DECODE_ERRORS, NO_JSON, read_raw, text_decoder
from ccmproxy.dialects.oauth import ApiKey, Authorization, RemoteToken
from ccmproxy.dialects.own_errors import error_head, error_type, exhausted_fields, exhausted_message
from ccmproxy.dialects.remote import remote_head
from ccmproxy.dialects.sse import first_event
from ccmproxy.dialects.verdicts import busy, verdict_by_status
from ccmproxy.http.headers import override, request_headers
from ccmproxy.http.message import (
    Body,
    Headers,
    RequestHead,
    ResponseHead,
    first_value,
    list_items,
    lower_names,
)
from ccmproxy.http.retry_after import retry_after
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.answers import DEFAULT_BLOCK, AnswerKind, Verdict
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability

_OAUTH_BETA = OAUTH_BETA.encode()
_FAST_MODE = "fast-mode"
_FAST_MODE_REFUSED = "fast mode requests will consume Extra usage, please use a default credential directly"
_LEGACY_SESSION = "_session_"

#: Types of errors that another account may not run into. All others are caused by the request itself.
_FAILURES = frozenset({"api_error", "overloaded_error", "timeout_error"})


class _Body(msgspec.Struct):
    """The fields of a message request that the proxy needs; all others are skipped undecoded."""

    model: str | None = None
    messages: list[msgspec.Raw] | None = None
    stream: bool | None = None
    metadata: msgspec.Raw = NO_JSON


class _LooseBody(msgspec.Struct):
    """The fields that are kept undecoded when the type of any is unexpected: judging that is left to the upstream."""

    model: msgspec.Raw = NO_JSON
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

    def inspect(self, head: RequestHead, body: Body) -> RequestFacts:
        """The facts of a request. Those that a malformed body hides are None (spec 4.1)."""
        headers = head.headers
        features = tuple(item.decode("latin-1") for item in list_items(headers, b"anthropic-beta"))
        parsed = _Body()
        if body.size and first_value(headers, b"content-encoding") is None:
            parsed = _decode(body.joined())
        return RequestFacts(
            model=printable_key(parsed.model),
            session=header_key(headers, b"x-claude-code-session-id") or _session(parsed.metadata),
            agent=header_key(headers, b"x-claude-code-agent-id"),
            stream=parsed.stream,
            messages=None if parsed.messages is None else len(parsed.messages),
            features=features,
            client_is_oauth=OAUTH_BETA in features,
            billable=head.path.rstrip(b"/").endswith(b"/messages"),
        )

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

        A client that uses OAuth itself also gets the unified headers: it stops because of them, and shows their reset.
        """
        message = exhausted_message(availability, now)
        extra = exhausted_fields(availability)
        if facts.client_is_oauth and aggregate is not None:
            extra += aggregate_headers(aggregate, now)
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

        Accept-Encoding is removed, because usage and the proper end of a response are read from the body (spec 4.3).
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
        return RequestHead(head.method, base_path + head.target, override(headers, overrides))

    def classify(self, head: ResponseHead, body: bytes | None, now: float) -> Verdict:
        """The meaning of a response (spec 4.4, 4.6).

        ``body`` is None at first; the verdict asks for it where only the body tells a revoked token from any other 403.
        """
        if head.status == 429:
            return _classify_429(head.headers, now)
        return verdict_by_status(head.status, body)

    def classify_stream(self, head: ResponseHead, data: bytes, now: float) -> Verdict | None:
        """The verdict on an ``error`` event in place of ``message_start``, by its type; None: not known yet."""
        event = first_event(data)
        if event is None:
            return None
        if event.name != b"error":
            return Verdict(AnswerKind.OK)
        kind = error_event_type(event.data)
        if kind == "rate_limit_error":
            if parse_family(head.headers).get("status", "").lower() == "rejected":
                return _classify_429(head.headers, now)
            return busy()
        return Verdict(AnswerKind.STREAM_FAILED if kind in _FAILURES else AnswerKind.OK)


def _classify_429(headers: Headers, now: float) -> Verdict:
    wait = retry_after(headers, now)
    family = parse_family(headers)
    if family:
        claim = family_claims(family)
        if claim.model:
            return Verdict(AnswerKind.MODEL_RATE_LIMITED, claim.resets_at)
        if claim.resets_at > now:
            return Verdict(AnswerKind.RATE_LIMITED, claim.resets_at)
        if wait is not None:
            return Verdict(AnswerKind.RATE_LIMITED, now + wait)
        return Verdict(AnswerKind.RATE_LIMITED, now + DEFAULT_BLOCK, explicit=False)
    reset = api_key_reset(headers)
    if reset > now:
        return Verdict(AnswerKind.RATE_LIMITED, reset)
    return busy(wait)


def _decode(document: bytes) -> _Body:
    try:
        return _body_decoder.decode(document)
    except DECODE_ERRORS:
        pass
    try:
        loose = _loose_decoder.decode(document)
    except DECODE_ERRORS:
        return _Body()
    return _Body(model=read_raw(loose.model, text_decoder), metadata=loose.metadata)


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
