"""The seams of ccmproxy that have, or will have, more than one implementation; nothing else is here.

* :class:`IOutbound`: a way out to the network.
* :class:`ICredential`, :class:`ILease`, :class:`IProvider`: accounts and what selects among them.
* :class:`ITraffic`, :class:`IMetering`, :class:`IAccountFormat`: the three facets of a dialect; :class:`IFrames`: a
  fourth one, of those whose upstream speaks WebSocket.
* :class:`ICredentialStore`: where an account's login is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint

    from ccmproxy.aggregate import Aggregate
    from ccmproxy.availability import Availability, CredentialSnapshot
    from ccmproxy.balancing import Selection
    from ccmproxy.facts import RequestFacts
    from ccmproxy.frames import ClientFrame, UpstreamFrame
    from ccmproxy.http.client import ConnectionPool
    from ccmproxy.limits import LimitsUpdate
    from ccmproxy.message import Body, Headers, RequestHead, ResponseHead
    from ccmproxy.oauth import ApiKey, Authorization, ControlRequest, OAuthToken, UpstreamURLs
    from ccmproxy.retry import LeaseOutcome, Verdict
    from ccmproxy.sessions import Assignment, SessionKey
    from ccmproxy.sse import EventRewriter
    from ccmproxy.usage import UsageMeter


class IOutbound(Interface):
    """A way out: directly, or through a proxy. Every connection of a credential goes through its outbound."""

    def endpoint(host: str, port: int, tls: bool, server_name: str | None = None) -> IStreamClientEndpoint:
        """An endpoint that connects to ``host``:``port``, with TLS (SNI, verified) if ``tls``.

        ``server_name``: the name that TLS asks for and verifies, where that is not ``host``.

        Connecting fails with Twisted's connect errors, or with an SSL error where verification fails. Each
        ``connect`` makes a connection of its own.
        """


class INetworkMonitor(Interface):
    """Tells when the machine's network changes: an address or a link comes or goes, or a default route (spec 7.4)."""

    def start() -> None:
        """Begin to watch. Raises OSError where the system has not got what this one rests on."""

    def stop() -> None:
        """End; nothing is told any more, and nothing stays open. Harmless where it does not watch."""


class ICredentialStore(Interface):
    """Where the login of one account is kept: a file, or the system's keychain. Blocking calls, short."""

    description: str = Attribute("A path or keychain item, for messages.")

    def read() -> bytes:
        """The stored document. Raises CredentialFileError with a sentence where there is none."""

    def write(document: bytes) -> None:
        """Replace the document atomically and durably (spec 3.1). Raises OSError or CredentialFileError."""

    def check_writable() -> None:
        """Raise CredentialFileError if a ``write`` is bound to fail (spec 3.2 point 4)."""


class ILease(Interface):
    """One request's hold on a credential. Must be closed exactly once, with an outcome.

    In-flight counts, state from headers and interrupts meet here (design: Credentials).
    """

    tag: str = Attribute("Tag of the credential.")
    is_external: bool = Attribute("True where the credential is a remote instance.")
    host: bytes = Attribute(
        "Host header field of its upstream, with the port where it is not the scheme's own. This, base_path and"
        " connections() are those for what authorize() or recover() gave last."
    )
    base_path: bytes = Attribute("Path of the upstream's base URL, without a slash at its end; mostly empty.")

    async def authorize() -> Authorization:
        """The token or key to send, refreshed first if it is due. Raises CredentialUnavailable."""

    async def recover(rejected: Authorization) -> Authorization:
        """After the upstream refused ``rejected`` (spec 3.4): another one. Raises CredentialUnavailable."""

    def connections() -> ConnectionPool:
        """The pool of connections to this credential's upstream."""

    def observe(update: LimitsUpdate) -> None:
        """State learnt from this request's answer."""

    def rate_limited(until: float, explicit: bool) -> None:
        """The upstream answered 429 on account of the whole credential; ``until`` in Unix seconds.

        ``explicit``: the upstream named that time; otherwise it is a default of ours (F46). A model's own window
        comes through :meth:`observe`.
        """

    def block(reason: str, until: float) -> None:
        """The credential is not to be used until then (Unix seconds); ``reason``: the word for it (spec 5.1)."""

    def reject() -> None:
        """A remote instance refused the request for reasons of its own (spec 4.4)."""

    def poll_if_stale() -> None:
        """Ask for the usage if what is known is old. Returns at once."""

    def on_interrupt(callback: Callable[[Availability], None] | None) -> None:
        """Call ``callback`` once if the credential stops being usable; None or a first response byte disarms it."""

    def close(outcome: LeaseOutcome) -> None:
        """Give the credential back. Idempotent; the first outcome counts."""


class ICredential(Interface):
    """One account or one remote instance."""

    tag: str = Attribute("Unique name in the configuration.")
    is_external: bool = Attribute("True for a remote instance.")
    is_api_key: bool = Attribute("True where a commercial API key is used (spec 3.7).")

    def snapshot(now: float, model: str | None = None) -> CredentialSnapshot:
        """A frozen view; ``model`` takes windows of one model into account."""

    def lease(holder: Hashable = None) -> ILease:
        """Begin a use. Never fails: usability is the provider's business. ``holder``: who may interrupt it."""

    def interrupt(holder: Hashable, cause: Availability) -> None:
        """Interrupt the leases of ``holder`` as if the credential had stopped being usable (spec 6.5)."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""

    def poll_if_stale() -> None:
        """Start a poll if what is known is older than the poll interval; never waits (spec 3.5)."""

    def poll_if_unusable() -> None:
        """Start a poll if the credential cannot be used, to see whether it has recovered; never waits (spec 5.5)."""


class IProvider(Interface):
    """What a user is routed to: a single credential, or a pool."""

    def select(selection: Selection) -> ILease:
        """A lease on the credential that should serve. Raises :class:`ccmproxy.balancing.NoCredential`."""

    def keeps(selection: Selection, tag: str) -> bool:
        """Whether a turn may begin on a connection of this session that is open on the credential ``tag``.

        Looked at for every turn (F39); counts as a use of the session. If not, the client is to connect again, and
        :meth:`select` gives it another one, or says why there is none.
        """

    def credentials(allow_external: bool) -> Sequence[ICredential]:
        """All that may serve a user of that permission, usable or not, in order."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""

    def sessions(user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Where the sessions of one user are (by name, empty without users); the most recently used first."""

    is_single_account: bool = Attribute("True for exactly one default credential (fast mode, spec 4.1).")


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
