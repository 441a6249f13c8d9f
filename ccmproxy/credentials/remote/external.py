"""A remote instance of ccmproxy as a credential, reached by its URL or over a reverse connection (spec 7)."""

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

from ccmproxy.credentials.control import ControlClient
from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream, upstream_of
from ccmproxy.credentials.lease import Lease
from ccmproxy.credentials.remote.status_poller import StatusPoller
from ccmproxy.credentials.remote.status_watch import StatusWatch
from ccmproxy.dialects.oauth import Authorization, ControlRequest, RemoteToken
from ccmproxy.dialects.remote import RemoteStatus
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.message import RequestHead
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import EXTERNAL_CAPS
from ccmproxy.state.inputs import HeadersObserved, Input, PollSucceeded, TokenAvailable, TokenUnavailable
from ccmproxy.state.limits import LimitsUpdate

#: Plan weight of a remote that has not reported one (spec 5.2).
DEFAULT_WEIGHT = 10.0
#: Shortest interval between extra polls of a remote that is unusable or unreachable (seconds).
FORCED_POLL_INTERVAL = 5.0
#: A reset that a remote tells in whole seconds from now differs by less from the one it told before if it is the same
#: (seconds).
SAME_MOMENT = 2.0
#: Base URL of requests on a reverse connection, where the host name has no meaning.
REVERSE_URL = "http://reverse-proxy"
NO_REVERSE = "reverse connection not established"


@dataclass(frozen=True, slots=True)
class RemoteSide:
    """How to request the state of a remote. ``status_path``: the path of its status endpoint, without the prefix from
    the remote's URL; ``user_agent``: the User-Agent of this instance."""

    status_path: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class _Way:
    """A route to the remote. ``watch``: the connections for the status stream, which may be silent for hours."""

    url: str
    upstream: Upstream
    watch: ConnectionPool

    def close(self) -> None:
        """Close idle connections now, and the others when their requests are done."""
        self.upstream.connections.close()
        self.watch.close()


class _Reverse(NamedTuple):
    """A reverse connection, usable or no longer, and the route to the remote over it."""

    link: IReverseLink
    way: _Way


@implementer(ICredential)
class External(Credential):
    """A remote instance. Requests use its reverse connection while there is one, else its URL if it has one.

    The state comes from the remote's status endpoint. It is polled, and also streamed unless this instance is the
    remote's connector. There is no activity before :meth:`start` or after :meth:`stop`.
    """

    log = Logger()
    is_external = True

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
        now: Callable[[], float],
    ) -> None:
        """Give both ``url`` and the ``endpoint`` that connects to its host, or neither for a receiver. ``random``
        returns numbers in [0, 1). ``plan_weight``: a fixed weight, or None for the weight that the remote reports.
        ``now`` returns Unix seconds."""
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
        self._poller = StatusPoller(self, fetch, clock, self._apply, self._now)
        self._watch: StatusWatch | None = None
        if not is_connector:
            self._watch = StatusWatch(tag, self._watch_request, self.take_status, clock, random, self._doubt)

    # Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to poll and to stream the state, as far as there is a route to the remote. Idempotent."""
        if self._running:
            return
        self._running = True
        self._tell_whether_available()
        self._poller.start()
        if self._watch is not None:
            self._watch.start()

    def ask_no_more(self) -> None:
        """End the polls and the stream, and close idle connections of the reverse connection. Requests in flight go
        on."""
        self._poller.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._reverse is not None:
            self._reverse.way.close()

    def stop(self) -> None:
        """End the timers, the polls, the stream and the reverse connection. Leases stay valid until they are closed."""
        self._running = False
        self._disarm()
        self.ask_no_more()
        reverse, self._reverse = self._reverse, None
        if reverse is not None:
            reverse.link.close()
        if self._direct is not None:
            self._direct.close()

    def want(self, is_wanted: bool) -> None:
        """Set whether any user may be served by the remote. If none may, its state is not requested: a connector that
        only serves is not a user of the remote, which would refuse every such request."""
        if is_wanted is not self._is_wanted:
            self._is_wanted = is_wanted
            self._changed_way()

    @property
    def can_be_asked(self) -> bool:
        """Whether the state of the remote can and should be requested."""
        return self._is_wanted and self.has_way

    def reconfigure(self, plan_weight: float | None) -> None:
        """Apply a reloaded configuration."""
        self._plan_weight = plan_weight
        self._tell_whether_available()
        self._poller.poll()

    # Reverse connections ----------------------------------------------------------------------------------

    def attach(self, link: IReverseLink) -> None:
        """Use the reverse connection ``link``, which the remote has opened, from now on. An older one is closed."""
        before, self._reverse = self._reverse, _Reverse(link, self._way(REVERSE_URL, link.endpoint))
        if before is not None:
            before.way.close()
            before.link.close()
        self._changed_way()

    def leaving(self, link: IReverseLink) -> None:
        """Note that the remote accepts no new requests on ``link``. Idle connections over it are closed so that it can
        end; requests in flight go on without an interrupt."""
        reverse = self._reverse
        if reverse is not None and reverse.link is link and self._running:
            reverse.way.close()
            self._changed_way(ends_requests=False)

    def detach(self, link: IReverseLink) -> None:
        """Note that ``link`` is lost. Does nothing if another reverse connection has replaced it."""
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
        """Whether there is a route to the remote: a usable reverse connection, or a URL."""
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
        """Return the endpoint for new connections to the remote. Raises CredentialUnavailable when there is no route to
        the remote."""
        reverse = self._reverse
        if reverse is not None and reverse.link.is_usable:
            return reverse.link.endpoint
        if self._endpoint is None:
            raise CredentialUnavailable(NO_REVERSE)
        return self._endpoint

    # What leases call -------------------------------------------------------------------------------------

    @property
    def upstream(self) -> Upstream:
        """The upstream that requests go to now, over the reverse connection if that is usable."""
        way = self._present()
        return way.upstream if way is not None else self._nowhere

    async def authorize(self) -> Authorization:
        """Return the token for the remote. Raises CredentialUnavailable when there is no route to the remote."""
        if not self.has_way:
            raise CredentialUnavailable(NO_REVERSE)
        return self._token

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Raise CredentialUnavailable, since there is only one token, and do not use the remote for a while."""
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
        """Start a poll if the known state is out of date."""
        self._poller.poll_if_stale()

    def poll_now(self) -> None:
        """Start a poll, unless there was one a moment ago: the remote's answer does not fit what is known of it."""
        self._poll_out_of_turn()

    def reject(self) -> None:
        """Do not use the remote for one poll interval of accounts, or until a poll succeeds (spec 4.4). It is polled
        more often than that while it is not used."""
        super().reject()
        self._poller.reconsider()

    def poll_if_unusable(self) -> None:
        """Start a poll if the remote is unusable, to see whether it has recovered (spec 5.5)."""
        if not self.is_usable():
            self._poll_out_of_turn()

    def clock_set(self, by: float) -> None:
        """See Credential. Then the remote's state is asked for."""
        self._poller.clock_set(by)
        super().clock_set(by)
        self._poller.poll_for_clock()

    def _doubt(self) -> None:
        """Poll a remote that could not be reached. Until it answers, other credentials are preferred, so that new
        sessions do not have to wait for it."""
        if not self._poller.failures:
            self._poll_out_of_turn()

    def _poll_out_of_turn(self) -> None:
        tick = self._clock.seconds()
        if tick - self._forced_poll >= FORCED_POLL_INTERVAL:
            self._forced_poll = tick
            self._poller.poll()

    def release(self, lease: Lease) -> None:
        """Forget ``lease``. Called by the lease when it is closed."""
        super().release(lease)
        if lease.outcome is LeaseOutcome.UNREACHABLE:
            self._doubt()

    def status_request(self) -> ControlRequest:
        """Return the request of a poll."""
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
        """Replace the known state by the reported one. A streamed state counts like a poll (spec 7.5)."""
        limits = status.limits
        if until := status.unusable_until(self._now()):
            if abs(until - self.state.rate_limited_until) < SAME_MOMENT:
                until = self.state.rate_limited_until
            limits = replace(limits, rejected_until=until)
        self._poller.failures = 0
        if status.is_known:
            self._poller.unknown_polls = 0
        weight = self._plan_weight if self._plan_weight is not None else status.plan_weight
        self._apply(
            PollSucceeded(
                limits, weight, status.usable, cannot_serve=status.cannot_serve, is_known=status.is_known
            )
        )

    def polled(self, status: RemoteStatus) -> None:
        """Take over the state that a poll has returned, and retry a stream that the remote had refused."""
        self.take_status(status)
        if self._watch is not None:
            self._watch.recovered()


@implementer(IStreamClientEndpoint)
class _Nowhere:
    """The endpoint while there is no route to the remote. Every attempt to connect fails."""

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        return fail(ConnectError(string=NO_REVERSE))


@implementer(IOutbound)
class _EitherWay:
    """Connects to the remote by its present route, whatever address the URL of a control request has."""

    def __init__(self, external: External) -> None:
        self._external = external

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound."""
        return self._external.stream_endpoint()
