"""The facets of a dialect. They do no I/O and have no state; each has one consumer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from ccmproxy.dialects.event_rewriter import EventRewriter
    from ccmproxy.dialects.facts import RequestFacts
    from ccmproxy.dialects.oauth import ApiKey, Authorization, ControlRequest, OAuthToken, UpstreamURLs
    from ccmproxy.dialects.usage import UsageMeter
    from ccmproxy.dialects.websocket_messages import ClientFrame, UpstreamFrame
    from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead
    from ccmproxy.interfaces.credentials import ICredential
    from ccmproxy.policy.answers import Verdict
    from ccmproxy.policy.borrowers import ToldLimit
    from ccmproxy.state.aggregate import Aggregate
    from ccmproxy.state.availability import Availability
    from ccmproxy.state.limits import LimitsUpdate


class ITraffic(Interface):
    """Facet of a dialect for the proxy: the meaning of requests and answers. No I/O, no state."""

    def inspect(head: RequestHead, body: Body, quick: bool = False, all_models: bool = False) -> RequestFacts:
        """Return the facts about a request that the proxy needs; what cannot be recognized is None.

        Time and memory are bounded by the size of the body (F63). ``quick``: raise NotQuick
        (:mod:`ccmproxy.dialects.request_documents`) where it may take more than 20 ms; call it again in a thread then,
        without ``quick``. Raises nothing else. ``all_models``: find out too every model that it may ask for.
        """

    def check(facts: RequestFacts, single_account: bool, has_api_key: bool = False) -> tuple[str, str] | None:
        """Make the dialect's checks of a request (spec 4.1). Returns None, or (reason word, message) for a 400.

        ``single_account``: the user's provider is exactly one default credential. ``has_api_key``: one of the
        provider's credentials is a key of the commercial API (spec 3.7).
        """

    def error(
        status: int, reason: str, message: str, request_id: str, extra: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[ResponseHead, bytes]:
        """Return an error answer of ccmproxy in the shape of the dialect (spec 4.2).

        ``reason``: the stable word in ``X-CCM-Error``. Status and reason determine the error type of the dialect.
        """

    def exhausted(
        facts: RequestFacts,
        availability: Availability,
        aggregate: Aggregate | None,
        request_id: str,
        now: float,
    ) -> tuple[ResponseHead, bytes]:
        """Return the answer for the case that every credential is rate-limited (spec 4.2). ``now``: Unix seconds."""

    def busy(
        facts: RequestFacts, head: RequestHead, seconds: int, message: str, request_id: str
    ) -> tuple[ResponseHead, bytes]:
        """Return the answer that tells a client to try again by itself after a short wait (spec 12.2).

        ``head``: the client's request, whose User-Agent decides what the client understands. ``seconds``: the wait as
        it is told, spread already. It never looks like exhaustion.
        """

    def about_request(head: ResponseHead, body: bytes, request_id: str) -> tuple[ResponseHead, bytes]:
        """Return a 401 of the provider that is about the request alone, as the client may see it (spec 12.3).

        ``head`` and ``body``: the provider's answer, the body as it came. Its words are kept, its status is one that
        does not tell the client that its own token is bad.
        """

    def relayed_refusal(head: ResponseHead, verdict: Verdict) -> Headers:
        """Return the header fields of a refusal that is relayed as it came (spec 12.2): those of ``head``, and what its
        client needs in order to wait instead of giving up. They are still to be passed to
        :meth:`IMetering.public_headers`.
        """

    def told_to_instance(headers: Headers, told: ToldLimit) -> Headers:
        """Return the header fields of a 429, ``headers``, for another instance: with the window and the reset by which
        sing-box decides how long it leaves us alone, and without which it may crash (spec 14). They say nothing of the
        windows' utilization, so that they are no evidence of a used-up account (spec 12.2)."""

    def upstream_head(
        head: RequestHead,
        authorization: Authorization,
        host: bytes,
        base_path: bytes,
        overrides: Mapping[str, Sequence[str]],
        bound: bool = False,
    ) -> RequestHead:
        """Return the request head to send to the upstream (spec 3.6, 4.3).

        ``host`` and ``base_path``: those of the upstream for ``authorization``. ``overrides``: the ``headers`` of the
        service, which are not sent to another instance. ``bound``: the value of the dialect's ``bound_header`` in the
        request was issued by this credential; otherwise that field is removed. An answer without a content coding is
        asked for, unless ``overrides`` name Accept-Encoding (spec 12.5).
        """

    def classify(
        head: ResponseHead, body: bytes | None, now: float, echo: str = "", model: str | None = None
    ) -> Verdict:
        """Return what an answer means for the request (spec 4.4, 12.1).

        ``body``: as it came, its content coding included; 64 KiB of it suffice. None if it was not read yet, and the
        verdict may be NEEDS_BODY (for 400, 401, 402, 403 and 429): read it and ask again. ``now``: Unix seconds.
        ``echo``: what the provider may repeat of the request (:func:`ccmproxy.dialects.known_words.echo_of`).
        ``model``: the one that was asked for, None = not known.
        """

    def classify_stream(
        head: ResponseHead, data: bytes, now: float, echo: str = "", model: str | None = None
    ) -> Verdict | None:
        """Return what an event stream that begins with ``data`` means for the request (F13), or None as long as the
        first event is incomplete. The parameters are those of :meth:`classify`."""


class IMetering(Interface):
    """Facet of a dialect for limits and usage. No I/O."""

    def limits_from_headers(headers: Headers, now: float) -> LimitsUpdate:
        """Return the limits in response headers (spec 4.7). Malformed values are ignored. ``now``: Unix seconds."""

    def public_headers(headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """Return the response headers for the client: the limits of the account are replaced by those of the aggregate
        (spec 8.3)."""

    def rewriter(
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """Return the rewriter for the body of this answer, or None if the body passes unchanged.

        The rewriter passes events that report the state of the account to ``observe``, and replaces them by the result
        of ``aggregate`` (spec 4.5, F36); both are called while the body is fed. ``now`` returns Unix seconds.
        """

    def client_usage(aggregate: Aggregate, now: float) -> dict[str, Any]:
        """Return the aggregate as the JSON object with which the provider answers its clients' question for the usage
        of one account (spec 9.5). ``now``: Unix seconds."""

    def meter(facts: RequestFacts, head: ResponseHead, now: Callable[[], float]) -> UsageMeter:
        """Return a meter that observes the body of this answer: it counts tokens, and recognizes the regular end (spec
        9) and refusals (spec 12.2). ``now`` returns Unix seconds; it is called when a refusal comes."""


class IFrames(Interface):
    """Facet of a dialect for WebSocket: the meaning of messages and handshakes (spec 10). No I/O, no state."""

    def serves(path: bytes) -> bool:
        """Return whether clients may open a WebSocket at this path."""

    def speaks(credential: ICredential) -> bool:
        """Return whether the upstream of this credential supports WebSocket."""

    def request_headers(headers: Headers) -> Headers:
        """Return the header fields of a handshake, completed with the fields that the upstream needs."""

    def answer_headers(headers: Headers) -> Headers:
        """Return the header fields of the upstream's 101 that are passed on to the client."""

    def client_frame(data: bytes, all_models: bool = False) -> ClientFrame:
        """Parse a text message of the client. ``all_models``: find out too every model that it may ask for. Never
        raises."""

    def upstream_frame(data: bytes, now: float) -> UpstreamFrame:
        """Parse a text message of the upstream. Never raises. ``now``: Unix seconds."""

    def refusal(head: ResponseHead, body: bytes) -> bytes:
        """Return the message that refuses a turn as the answer of :meth:`ITraffic.error` with this head and body would
        refuse a request."""

    def aggregate(aggregate: Aggregate) -> bytes:
        """Return the message that reports the aggregate to a client (spec 8.1), in the form that the upstream uses for
        one account."""


class IAccountFormat(Interface):
    """Facet of a dialect for credentials: files, refresh, usage, profile (spec 3). No I/O, no clock."""

    how_to_log_in: str = Attribute('How a person logs in again with the official client: "run `…`".')

    def parse(document: bytes) -> OAuthToken | ApiKey:
        """Return the login or key in a credential file. Raises CredentialFileError when there is none."""

    def merge(document: bytes, token: OAuthToken) -> bytes:
        """Return the document with ``token`` in it and all unrelated content kept. Raises CredentialFileError when the
        document cannot hold it."""

    def refresh_due(token: OAuthToken, now: float) -> bool:
        """Return whether a refresh is due and possible (spec 3.2, 3.3). ``now``: Unix seconds."""

    def can_refresh(token: OAuthToken) -> bool:
        """Return whether the login has what a refresh, even a forced one, needs."""

    def refresh_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """Return the request that refreshes ``token``."""

    def narrower_refresh_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """Return the request that refreshes ``token`` with no more scopes than its file holds, for an upstream that has
        refused :meth:`refresh_request` as ``invalid_scope`` (RFC 6749 section 5.2). None if it would be the same."""

    def refresh_answer(
        status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """Return the refreshed login. ``headers``: with lower-case names; ``now``: Unix seconds. Raises RefreshRefused
        when the answer holds no new token."""

    def usage_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """Return the request of a usage poll."""

    def usage_answer(body: bytes, now: float) -> LimitsUpdate:
        """Return the limits in a 200 answer of the usage endpoint; what is not understood is left out. Raises
        AnswerMalformed when it is no JSON object."""

    def usage_plan(body: bytes, token: OAuthToken) -> OAuthToken:
        """Return ``token`` with the plan that a 200 answer of the usage endpoint names, if any. Never raises."""

    def profile_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """Return the request for the profile if it is needed to know plan, tier or identity, else None."""

    def profile_answer(body: bytes, token: OAuthToken) -> OAuthToken:
        """Return ``token`` with plan, tier and identity filled in. Raises AnswerMalformed when the body cannot be
        parsed."""

    def plan_weight(token: OAuthToken | ApiKey) -> float:
        """Return the weight of the plan (spec 5.2)."""

    def token_rejected(status: int, body: bytes) -> bool:
        """Return True for a 401, and for a 403 that says that the token was revoked (spec 3.4)."""

    def default_path(environ: Mapping[str, str], home: str) -> str:
        """Return the path where the official CLI keeps its credential file (spec 1)."""
