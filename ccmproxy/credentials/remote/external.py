"""Another instance of ours that lends its capacity: by its URL, or over a connection that it opened to us (spec 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.control import ControlClient, Fetch
from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream, upstream_of
from ccmproxy.credentials.lease import Lease
from ccmproxy.credentials.polling import DEFAULT_RETRY_AFTER, Poller, ask_repeatedly
from ccmproxy.credentials.remote.status_watch import StatusWatch
from ccmproxy.dialects.oauth import AnswerMalformed, Authorization, ControlRequest, RemoteToken
from ccmproxy.dialects.remote import RemoteStatus, read_status
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.message import RequestHead
from ccmproxy.http.retry_after import parse_retry_after
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import EXTERNAL_CAPS
from ccmproxy.state.limits import LimitsUpdate
from ccmproxy.state.transitions import HeadersObserved, Input, PollSucceeded, TokenAvailable, TokenUnavailable

#: Weight of a remote that has said nothing of it (spec 5.2).
DEFAULT_WEIGHT = 10.0
#: A remote that cannot be used, or reached, is asked out of turn no more often than this (seconds).
FORCED_POLL_INTERVAL = 5.0
#: What requests are addressed to on a reverse connection, which needs no name.
REVERSE_URL = "http://reverse-proxy"
NO_REVERSE = "reverse connection not established"


@dataclass(frozen=True, slots=True)
class RemoteSide:
    """How a remote is asked for its state. ``status_path``: on it, without the URL's prefix; ``user_agent``: ours."""

    status_path: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to the remote. ``watch``: connections for the status stream, on which nothing may come for hours."""

    url: str
    upstream: Upstream
    watch: ConnectionPool

    def close(self) -> None:
        """Keep no connection any more."""
        self.upstream.connections.close()
        self.watch.close()


class _Reverse(NamedTuple):
    """A reverse connection that is up, or was, and the way to the remote over it."""

    link: IReverseLink
    way: _Way


@implementer(ICredential)
class External(Credential):
    """A remote instance. While it has a connection open to us, that is used, else its URL, where it has one.

    Its state comes from its status endpoint: polled, and streamed unless we are its connector. Does nothing before
    :meth:`start`, and nothing after :meth:`stop`.
    """

    log = Logger()
    is_external = True
    is_api_key = False

    def __init__(
        self,
        tag: str,
        token: str,
        remote: RemoteSide,
        clock: IReactorTime,
        random: Callable[[], float],
        *,
        url: str | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        limits: ClientLimits = ClientLimits(),  # noqa: B008 - frozen
        plan_weight: float | None = None,
        is_connector: bool = False,
        now: Callable[[], float] | None = None,
    ) -> None:
        """``url`` and ``endpoint``, which connects to where it leads: both, or neither (a receiver). ``random``:
        numbers in [0, 1). ``plan_weight``: fixed; None = what the remote says. ``now``: Unix seconds."""
        super().__init__(tag, EXTERNAL_CAPS, clock, now)
        self._token = RemoteToken(token)
        self._remote = remote
        self._limits = limits
        self._plan_weight = plan_weight
        self._url = url
        self._endpoint = endpoint
        self._direct: _Way | None = None
        if url is not None and endpoint is not None:
            self._direct = self._way(url, endpoint)
        self._reverse: _Reverse | None = None
        self._nowhere = upstream_of(REVERSE_URL, ConnectionPool(_Nowhere(), clock, limits))
        self._forced_poll = -inf
        self._is_wanted = True
        fetch = ControlClient(clock, _EitherWay(self)).fetch
        self._poller = StatusPoller(self, fetch, clock)
        self._watch: StatusWatch | None = None
        if not is_connector:
            self._watch = StatusWatch(tag, self._watch_request, self.take_status, clock, random, self._doubt)

    # Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask for the state, if there is a way to ask."""
        if self._running:
            return
        self._running = True
        self._tell_whether_available()
        self._poller.start()
        if self._watch is not None:
            self._watch.start()

    def ask_no_more(self) -> None:
        """Let polls and the stream end, and close connections that nobody uses; requests are served to their end."""
        self._poller.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._reverse is not None:
            self._reverse.way.close()

    def stop(self) -> None:
        """End timers, polls and the stream, and the reverse connection. Leases stay valid until they are closed."""
        self._running = False
        self._disarm()
        self.ask_no_more()
        reverse, self._reverse = self._reverse, None
        if reverse is not None:
            reverse.link.close()
        if self._direct is not None:
            self._direct.close()

    def want(self, is_wanted: bool) -> None:
        """Whether anybody may be served by the remote. If not, it is not asked for its state: a connector that only
        serves is no user there, and would be told so again and again."""
        if is_wanted is not self._is_wanted:
            self._is_wanted = is_wanted
            self._changed_way()

    @property
    def can_be_asked(self) -> bool:
        """Whether the remote can, and should, be asked for its state."""
        return self._is_wanted and self.has_way

    def reconfigure(self, plan_weight: float | None) -> None:
        """Take over what a reloaded configuration says."""
        self._plan_weight = plan_weight
        self._tell_whether_available()
        self._poller.poll()

    # Reverse connections ----------------------------------------------------------------------------------

    def attach(self, link: IReverseLink) -> None:
        """The remote has opened a connection to us: use it from now on, in place of an older one, which is closed."""
        before, self._reverse = self._reverse, _Reverse(link, self._way(REVERSE_URL, link.endpoint))
        if before is not None:
            before.way.close()
            before.link.close()
        self._changed_way()

    def leaving(self, link: IReverseLink) -> None:
        """The remote takes no more on ``link``: keep nothing open there that is not in use, so that it can end.
        Requests in flight go on; that is no reason to interrupt them."""
        reverse = self._reverse
        if reverse is not None and reverse.link is link and self._running:
            reverse.way.close()
            self._changed_way(ends_requests=False)

    def detach(self, link: IReverseLink) -> None:
        """``link`` is lost. Does nothing where another one has replaced it."""
        reverse = self._reverse
        if reverse is not None and reverse.link is link:
            self._reverse = None
            reverse.way.close()
            self._changed_way()

    def _changed_way(self, ends_requests: bool = True) -> None:
        if not self._running:
            return
        self._tell_whether_available(ends_requests)
        self._poller.poll_anew()
        if self._watch is not None:
            self._watch.restart()

    def _tell_whether_available(self, ends_requests: bool = True) -> None:
        if self.has_way:
            self._apply(TokenAvailable(self._weight()))
        else:
            self._apply(TokenUnavailable(NO_REVERSE, ends_requests))

    @property
    def has_way(self) -> bool:
        """Can the remote be reached, as far as is known?"""
        return self._present() is not None

    def _present(self) -> _Way | None:
        reverse = self._reverse
        return reverse.way if reverse is not None and reverse.link.is_usable else self._direct

    def _way(self, url: str, endpoint: IStreamClientEndpoint) -> _Way:
        patient = replace(self._limits, idle_timeout=inf, keepalive_timeout=1.0)
        return _Way(
            url,
            upstream_of(url, ConnectionPool(endpoint, self._clock, self._limits)),
            ConnectionPool(endpoint, self._clock, patient),
        )

    def stream_endpoint(self) -> IStreamClientEndpoint:
        """Where connections to the remote go now. Raises CredentialUnavailable where there is no way to it."""
        reverse = self._reverse
        if reverse is not None and reverse.link.is_usable:
            return reverse.link.endpoint
        if self._endpoint is None:
            raise CredentialUnavailable(NO_REVERSE)
        return self._endpoint

    # What leases ask for ----------------------------------------------------------------------------------

    @property
    def upstream(self) -> Upstream:
        """Where requests go now: over the reverse connection if that is up."""
        way = self._present()
        return way.upstream if way is not None else self._nowhere

    async def authorize(self) -> Authorization:
        """Our token. Raises CredentialUnavailable where there is no way to the remote."""
        if not self.has_way:
            raise CredentialUnavailable(NO_REVERSE)
        return self._token

    async def recover(self, rejected: Authorization) -> Authorization:
        """There is but one token. Raises CredentialUnavailable, always, and leaves the remote alone for a while."""
        self.reject()
        raise CredentialUnavailable("the remote does not accept our token")

    def _observation(self, update: LimitsUpdate) -> Input:
        weight = update.plan_weight if self._plan_weight is None else None
        return HeadersObserved(update, is_aggregate=True, plan_weight=weight)

    # State ------------------------------------------------------------------------------------------------

    def _weight(self) -> float:
        if self._plan_weight is not None:
            return self._plan_weight
        return self.state.plan_weight if self.state.ever_had_data else DEFAULT_WEIGHT

    def poll_if_stale(self) -> None:
        """Start a poll if what is known is old."""
        self._poller.poll_if_stale()

    def poll_if_unusable(self) -> None:
        """Start a poll if the remote cannot be used, to see whether it has recovered (spec 5.5)."""
        if not self.is_usable():
            self._poll_out_of_turn()

    def _doubt(self) -> None:
        """The remote could not be reached: is it still there? Until it answers, others are to be preferred, instead of
        waiting for it with every new session."""
        if not self._poller.failures:
            self._poll_out_of_turn()

    def _poll_out_of_turn(self) -> None:
        now = self._now()
        if not 0 <= now - self._forced_poll < FORCED_POLL_INTERVAL:
            self._forced_poll = now
            self._poller.poll()

    def release(self, lease: Lease) -> None:
        """Called by a lease that was closed."""
        super().release(lease)
        if lease.outcome is LeaseOutcome.UNREACHABLE:
            self._doubt()

    def status_request(self) -> ControlRequest:
        """The poll."""
        way = self._present()
        headers = (
            ("Authorization", f"Bearer {self._token.token}"),
            ("Accept", "application/json"),
            ("User-Agent", self._remote.user_agent),
        )
        base = way.url.rstrip("/") if way is not None else REVERSE_URL
        return ControlRequest("GET", base + self._remote.status_path, headers)

    def _watch_request(self) -> tuple[ConnectionPool, RequestHead] | None:
        way = self._present()
        if way is None or not self._is_wanted:
            return None
        upstream = way.upstream
        target = upstream.base_path + self._remote.status_path.encode("ascii") + b"?watch=true"
        headers = [
            (b"Host", upstream.host),
            (b"Authorization", b"Bearer " + self._token.token.encode("utf-8")),
            (b"Accept", b"application/json"),
            (b"User-Agent", self._remote.user_agent.encode("latin-1")),
        ]
        return way.watch, RequestHead(b"GET", target, headers)

    def take_status(self, status: RemoteStatus) -> None:
        """What the remote says of itself, in place of what was known (spec 7.5: a state is applied like a poll)."""
        limits = status.limits
        if status.usable is False and status.reset_at > self._now():
            limits = replace(limits, rejected_until=status.reset_at)
        self._poller.failures = 0
        weight = self._plan_weight if self._plan_weight is not None else status.plan_weight
        self._apply(PollSucceeded(limits, weight, status.usable))

    def polled(self, status: RemoteStatus) -> None:
        """A poll has brought the remote's state."""
        self.take_status(status)
        if self._watch is not None:
            self._watch.recovered()


@implementer(IStreamClientEndpoint)
class _Nowhere:
    """For a request whose way to the remote has gone in the very moment."""

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        return fail(ConnectError(string=NO_REVERSE))


@implementer(IOutbound)
class _EitherWay:
    """Connects to wherever the remote is now; the address is that of the request, and says nothing new."""

    def __init__(self, external: External) -> None:
        self._external = external

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound."""
        return self._external.stream_endpoint()


class StatusPoller(Poller):
    """Asks a remote for its state (spec 5.5): at start, after a change of the way, and when what is known is old."""

    log = Logger()

    def __init__(self, external: External, fetch: Fetch, clock: IReactorTime) -> None:
        super().__init__(
            external.tag,
            clock,
            external._apply,
            last_update=lambda: external.state.last_update,
            now=external._now,
        )
        self._external = external
        self._fetch = fetch

    @property
    def _can_ask(self) -> bool:
        return self._external.can_be_asked

    async def _poll(self) -> None:
        answer = await ask_repeatedly(self._fetch, self._external.status_request(), self._clock)
        if answer.status == 429:
            delay = parse_retry_after(answer.headers.get("retry-after"), self._now())
            self._postpone(DEFAULT_RETRY_AFTER if delay is None else max(delay, 1.0))
        elif answer.status != 200:
            self._count(f"the remote's status endpoint answered {answer.status}")
        else:
            try:
                status = read_status(answer.body)
            except AnswerMalformed as error:
                self._count(str(error))
                return
            self._last_success = self._now()
            self._external.polled(status)
