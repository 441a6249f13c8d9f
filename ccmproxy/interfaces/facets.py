"""The facets of a dialect. No I/O, no state; each is asked by one consumer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from ccmproxy.dialects.event_rewriter import EventRewriter
    from ccmproxy.dialects.facts import RequestFacts
    from ccmproxy.dialects.oauth import ApiKey, Authorization, ControlRequest, OAuthToken, UpstreamURLs
    from ccmproxy.dialects.usage import UsageMeter
    from ccmproxy.dialects.websocket_messages import ClientFrame, UpstreamFrame
    from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead
    from ccmproxy.interfaces.credentials import ICredential
    from ccmproxy.policy.retry import Verdict
    from ccmproxy.state.aggregate import Aggregate
    from ccmproxy.state.availability import Availability
    from ccmproxy.state.limits import LimitsUpdate


class ITraffic(Interface):
    """Facet of a dialect for the proxy: what requests and answers mean. No I/O, no state."""

    def inspect(head: RequestHead, body: Body) -> RequestFacts:
        """What the proxy must know of a request. Raises ``ValueError`` never: unknown things are None."""

    def check(facts: RequestFacts, single_account: bool, has_api_key: bool = False) -> tuple[str, str] | None:
        """Dialect checks of spec 4.1: None, or (reason word, message) of a 400.

        ``single_account``: the user's provider is exactly one default credential. ``has_api_key``: one of its
        credentials is a key of the commercial API (spec 3.7).
        """

    def error(
        status: int, reason: str, message: str, request_id: str, extra: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[ResponseHead, bytes]:
        """An error of our own in the dialect's shape (spec 4.2).

        ``reason``: the stable word of ``X-CCM-Error``; status and reason decide the dialect's own error type.
        """

    def exhausted(
        facts: RequestFacts,
        availability: Availability,
        aggregate: Aggregate | None,
        request_id: str,
        now: float,
    ) -> tuple[ResponseHead, bytes]:
        """The answer when every credential is rate-limited (spec 4.2)."""

    def upstream_head(
        head: RequestHead,
        authorization: Authorization,
        host: bytes,
        base_path: bytes,
        overrides: Mapping[str, Sequence[str]],
        bound: bool = False,
    ) -> RequestHead:
        """The request as it goes to the upstream (spec 3.6, 4.3).

        ``host`` and ``base_path``: of the upstream that ``authorization`` is for. ``overrides``: the service's
        ``headers``, which are not for another instance. ``bound``: what the request has in the dialect's
        ``bound_header`` was issued by this very credential; otherwise it does not pass.
        """

    def classify(head: ResponseHead, body: bytes | None, now: float) -> Verdict:
        """What an answer means. ``body`` is None before it was read; the verdict may ask for it (spec 4.4)."""

    def classify_stream(head: ResponseHead, data: bytes, now: float) -> Verdict | None:
        """What an event stream means that begins with ``data`` (F13); None: its first event has not come whole."""


class IMetering(Interface):
    """Facet of a dialect for limits and usage. No I/O."""

    def limits_from_headers(headers: Headers, now: float) -> LimitsUpdate:
        """State from response headers (spec 4.7). Malformed values are ignored."""

    def public_headers(headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """Response headers as the client may see them: one account's removed, the aggregate's added (spec 8.3)."""

    def rewriter(
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """What the body of this answer passes through on its way to the client; None: it passes as it comes.

        Events that tell one account's state are given to ``observe``, and what ``aggregate`` returns after that takes
        their place (spec 4.5, F36); both are called while the body is fed. ``now``: Unix seconds.
        """

    def meter(facts: RequestFacts, head: ResponseHead) -> UsageMeter:
        """What observes the body of this answer: counts tokens, knows its proper end (spec 9)."""


class IFrames(Interface):
    """Facet of a dialect for WebSocket: what its messages and handshakes mean (spec 10). No I/O, no state."""

    def serves(path: bytes) -> bool:
        """Whether clients may ask for a WebSocket at this path."""

    def speaks(credential: ICredential) -> bool:
        """Whether this credential's upstream speaks WebSocket."""

    def request_headers(headers: Headers) -> Headers:
        """The fields of a handshake with what the upstream needs besides."""

    def answer_headers(headers: Headers) -> Headers:
        """Of the upstream's 101, the fields that go on to the client."""

    def client_frame(data: bytes) -> ClientFrame:
        """What a text message of the client means. Never raises."""

    def upstream_frame(data: bytes, now: float) -> UpstreamFrame:
        """What a text message of the upstream means. Never raises. ``now``: Unix seconds."""

    def aggregate(aggregate: Aggregate) -> bytes:
        """The message that tells a client the state of the whole (spec 8.1), as one account's would be told."""


class IAccountFormat(Interface):
    """Facet of a dialect for credentials: files, refresh, usage, profile (spec 3). No I/O, no clock."""

    def parse(document: bytes) -> OAuthToken | ApiKey:
        """Read a credential file. Raises CredentialFileError."""

    def merge(document: bytes, token: OAuthToken) -> bytes:
        """The document with ``token`` in it, everything of others kept. Raises CredentialFileError."""

    def refresh_due(token: OAuthToken, now: float) -> bool:
        """Spec 3.2 / 3.3: is a refresh due, and possible?"""

    def can_refresh(token: OAuthToken) -> bool:
        """Does the login hold what a (forced) refresh needs?"""

    def refresh_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The refresh."""

    def refresh_answer(
        status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """The refreshed login. ``headers`` with lower-case names. Raises RefreshRefused."""

    def usage_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The usage poll."""

    def usage_answer(body: bytes, now: float) -> LimitsUpdate:
        """What a 200 of the usage endpoint said. Raises AnswerMalformed."""

    def profile_request(token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """The profile request where plan or tier is unknown, else None."""

    def profile_answer(body: bytes, token: OAuthToken) -> OAuthToken:
        """``token`` with plan and tier filled in. Raises AnswerMalformed."""

    def plan_weight(token: OAuthToken | ApiKey) -> float:
        """Spec 5.2."""

    def token_rejected(status: int, body: bytes) -> bool:
        """True for 401, and 403 that says the token was revoked (spec 3.4)."""

    def default_path(environ: Mapping[str, str], home: str) -> str:
        """Where the official CLI keeps the file (spec 1)."""
