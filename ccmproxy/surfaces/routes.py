"""Routing: authenticates each request and passes it to the part of the service that answers it (spec 2, 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from ccmproxy.dialects.base import Dialect
from ccmproxy.http.headers import MOST_HOPS, hops
from ccmproxy.http.message import RequestHead, ResponseHead, first_value
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.policy.authentication import FailureThrottle, Refused, UserTokens, api_key_refusal
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.forwarder import Forwarder
from ccmproxy.proxy.proxied_request import LOGGED_PATH
from ccmproxy.reverse.address import StreamAddress
from ccmproxy.reverse.receiver import Receiver, ReverseCredential
from ccmproxy.reverse.upgrading import problem_of_asking
from ccmproxy.surfaces.own_endpoints import ClientUsageEndpoint, SessionsEndpoint
from ccmproxy.surfaces.paths import METHODS, is_below_v1
from ccmproxy.surfaces.status import StatusEndpoint

TOO_MANY_HOPS = "the request has passed too many instances of ccmproxy; do they form a ring?"
CROSS_ORIGIN = (
    "web pages of other origins are not served (CORS): send the request from the page's own server,"
    " which also keeps your token out of the page"
)

_METHODS = b", ".join(METHODS)
#: Header fields that can hold a client's token.
_CREDENTIAL_FIELDS = (b"authorization", b"x-api-key", b"api-key")


class Routes:
    """The handler of one service's HTTP server.

    :meth:`set_callers` must be called before the first request.
    """

    log = Logger()

    def __init__(
        self,
        dialect: Dialect,
        forwarder: Forwarder,
        status: StatusEndpoint,
        receiver: Receiver,
        seconds: Callable[[], float],
        request_id: Callable[[], str],
    ) -> None:
        """``seconds``: a monotonic clock, for the throttle."""
        self._dialect = dialect
        self._forwarder = forwarder
        self._status = status
        self._sessions = SessionsEndpoint(dialect)
        self._usage = ClientUsageEndpoint(dialect, forwarder.context.now)
        self._receiver = receiver
        self._remotes: UserTokens[ReverseCredential] = UserTokens((), dialect.product)
        self._seconds = seconds
        self._request_id = request_id
        self._users: UserTokens[Caller] | None = None
        self._anonymous: Caller | None = None
        self._throttle = FailureThrottle()
        #: True while the service drains: requests that still arrive on open connections are answered with 503.
        self.closing = False

    def set_callers(self, users: UserTokens[Caller] | None, anonymous: Caller | None) -> None:
        """Set the callers for new requests. Requests in flight are not affected.

        ``users``: token → caller, or None for a service without users, where ``anonymous`` is the caller of every
        request.
        """
        self._users = users
        self._anonymous = anonymous

    def set_remotes(self, remotes: UserTokens[ReverseCredential]) -> None:
        """Set the remote instances that may open reverse connections from now on, by their tokens."""
        self._remotes = remotes

    def handle(self, request: ServerRequest) -> None:
        """Route a request. Called by the HTTP server with every request head."""
        request_id = self._request_id()
        path = request.head.path
        prefix = self._dialect.path_prefix
        if (request.head.method, path) in self._dialect.probes:
            headers = [(self._dialect.request_id_header, request_id.encode("ascii"))]
            request.respond(ResponseHead(200, b"OK", headers), b"")
        elif self.closing:
            self._refuse(request, request_id, 503, "shutting_down", "this ccmproxy is shutting down")
        elif request.head.method not in METHODS:
            self._refuse_method(request, request_id)
        elif _is_preflight(request.head):
            self._refuse_preflight(request, request_id)
        elif path == prefix + b"status":
            caller = self._authenticate(request, request_id)
            if caller is not None:
                self._status.handle(request, caller, request_id)
        elif path == prefix + b"sessions":
            caller = self._authenticate(request, request_id)
            if caller is not None:
                self._sessions.handle(request, caller, request_id)
        elif path in self._dialect.usage_paths:
            caller = self._authenticate(request, request_id)
            if caller is not None:
                self._usage.handle(request, caller, request_id)
        elif path == prefix + b"reverse":
            self._reverse(request, request_id)
        elif is_below_v1(path):
            caller = self._authenticate(request, request_id)
            if caller is None:
                return
            passed = hops(request.head.headers)
            if passed > MOST_HOPS:
                self.log.warn("{request_id} has passed too many instances: a ring?", request_id=request_id)
                self._refuse(request, request_id, 508, "too_many_hops", TOO_MANY_HOPS)
            else:
                # Over a reverse connection there are only the requests of instances.
                from_instance = passed > 0 or isinstance(request.peer, StreamAddress)
                self._forwarder.forward(request, caller, request_id, from_instance)
        else:
            self.log.info(
                "{request_id} from {address}: no such path: {method} {path}",
                request_id=request_id,
                address=_address(request.peer),
                method=request.head.method.decode("latin-1"),
                path=path[:LOGGED_PATH].decode("latin-1"),
            )
            self._refuse(request, request_id, 404, "not_found", "no such path")

    def malformed(self, status: int, message: str) -> tuple[ResponseHead, bytes]:
        """Return the answer to malformed data that the HTTP server could not parse as a request."""
        return self._dialect.traffic.error(status, "malformed_request", message, self._request_id())

    def _authenticate(self, request: ServerRequest, request_id: str) -> Caller | None:
        headers = request.head.headers
        if self._users is None:
            refused = api_key_refusal(headers, self._dialect.product)
            if refused is None:
                return self._anonymous
        else:
            found = self._users.identify(headers)
            if not isinstance(found, Refused):
                if found.own_remote is not None:
                    found.own_remote.poll_if_unusable()
                return found
            refused = found
        self._refuse_caller(request, request_id, refused, is_guess=self._users is not None)
        return None

    def _refuse_method(self, request: ServerRequest, request_id: str) -> None:
        """Refuse TRACE, which would show to a script what a browser or a proxy adds, and methods that no upstream has
        (spec 14)."""
        self.log.info(
            "{request_id} from {address} refused: method {method}",
            request_id=request_id,
            address=_address(request.peer),
            method=request.head.method[:LOGGED_PATH].decode("latin-1"),
        )
        head, body = self._dialect.traffic.error(
            405,
            "method_not_allowed",
            f"this method is not served; those that are: {_METHODS.decode()}",
            request_id,
            ((b"Allow", _METHODS),),
        )
        request.respond(head, body)

    def _refuse_preflight(self, request: ServerRequest, request_id: str) -> None:
        """Refuse what a browser asks before a page's request to another origin, without counting a failure (F62).

        The refusal is on purpose: the upstream, if it were asked, could allow every web page to use a subscription
        that a service on a loopback address serves without users.
        """
        self.log.info(
            "{request_id} from {address} refused: a browser's preflight",
            request_id=request_id,
            address=_address(request.peer),
        )
        self._refuse(request, request_id, 403, "cross_origin", CROSS_ORIGIN)

    def _reverse(self, request: ServerRequest, request_id: str) -> None:
        """Answer the handshake of a remote's connector (spec 7.2)."""
        problem = problem_of_asking(request.head, request.can_switch)
        if problem is not None:
            self._refuse(request, request_id, 400, "bad_handshake", problem)
            return
        found: ReverseCredential | Refused | None = api_key_refusal(
            request.head.headers, self._dialect.product
        )
        if found is None:
            found = self._remotes.identify(request.head.headers)
        if isinstance(found, Refused):
            self._refuse_caller(request, request_id, found, is_guess=True)
            return
        self._receiver.accept(request, found, request_id)

    def _refuse_caller(
        self, request: ServerRequest, request_id: str, refused: Refused, *, is_guess: bool
    ) -> None:
        address = _address(request.peer)
        now = self._seconds()
        wait = self._throttle.retry_after(address, now)
        if is_guess:
            # Every refusal counts as a failed attempt, also that of a token in another header field.
            self._throttle.failed(address, now)
        self.log.info(
            "{request_id} from {address} refused: {reason}",
            request_id=request_id,
            address=address,
            reason=refused.message,
        )
        if wait > 0:
            retry_after = (b"Retry-After", str(ceil(wait)).encode())
            head, body = self._dialect.traffic.error(
                429,
                "too_many_failures",
                "too many failed authentications from this address",
                request_id,
                (retry_after, (b"x-should-retry", b"false")),
            )
            request.respond(head, body)
        else:
            self._refuse(request, request_id, refused.status, refused.reason, refused.message)

    def _refuse(
        self, request: ServerRequest, request_id: str, status: int, reason: str, message: str
    ) -> None:
        head, body = self._dialect.traffic.error(status, reason, message, request_id)
        if self.closing:
            request.close_after_response()
        request.respond(head, body)


def _is_preflight(head: RequestHead) -> bool:
    """Return whether this is a CORS preflight (WHATWG Fetch, section 3.3.2), which never carries a credential (section
    4.8). A request that does carry one is authenticated like any other, so that its token counts as a guess."""
    if head.method != b"OPTIONS":
        return False
    fields = head.headers
    return (
        first_value(fields, b"origin") is not None
        and first_value(fields, b"access-control-request-method") is not None
        and not any(first_value(fields, name) for name in _CREDENTIAL_FIELDS)
    )


def _address(peer: IAddress) -> str:
    """Return the key by which failed authentications are counted: the host, without the port."""
    return str(getattr(peer, "host", "") or peer)
