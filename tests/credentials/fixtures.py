"""Shared by the tests of credentials: a small account format, a scripted upstream, and login files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.credentials.control import TIMEOUT, Answer, ControlError
from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream as Origin
from ccmproxy.credentials.destination import upstream_of
from ccmproxy.dialects.oauth import (
    AnswerMalformed,
    ApiKey,
    Authorization,
    ControlRequest,
    CredentialFileError,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.state.availability import EXTERNAL_CAPS, Caps
from ccmproxy.state.inputs import HeadersObserved, PollFailed, PollSucceeded, TokenAvailable, TokenUnavailable
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork, Pump
from tests.http.upstream import Receiver

T = TypeVar("T")

#: The start of every clock in these tests (Unix seconds).
NOW = 1_800_000_000.0
TOKEN = "https://token.example/"
USAGE = "https://usage.example/"
PROFILE = "https://profile.example/"
URLS = UpstreamURLs("https://api.example", TOKEN, USAGE, PROFILE, "ccmproxy/test")


@implementer(IAccountFormat)
class PlainFormat:
    """A minimal format: ``{"login": {"access", "refresh", "expires", "plan"}}``. Unknown keys are kept.

    A refresh is due a minute before the expiry. The token endpoint answers with such a login, and refuses with an error
    code as its body.
    """

    how_to_log_in = "run `plain login`"

    def parse(self, document: bytes) -> OAuthToken | ApiKey:
        try:
            loaded = json.loads(document)
        except ValueError:
            raise CredentialFileError("credential file is not valid JSON") from None
        if isinstance(loaded, dict) and "key" in loaded:
            return ApiKey(loaded["key"])
        if not isinstance(loaded, dict) or "login" not in loaded:
            raise CredentialFileError("login field not found")
        return self._token(loaded["login"])

    def merge(self, document: bytes, token: OAuthToken) -> bytes:
        loaded = json.loads(document) if document.strip() else {}
        loaded["login"] = {
            "access": token.access_token,
            "refresh": token.refresh_token,
            "expires": token.expires_at,
            "plan": token.plan,
        }
        return json.dumps(loaded).encode()

    def can_refresh(self, token: OAuthToken) -> bool:
        return token.refresh_token is not None

    def refresh_due(self, token: OAuthToken, now: float) -> bool:
        return token.expires_at is not None and now >= token.expires_at - 60 and self.can_refresh(token)

    def refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        return ControlRequest("POST", urls.token_url, body=(token.refresh_token or "").encode())

    def narrower_refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        return ControlRequest("POST", urls.token_url, body=f"narrower {token.refresh_token}".encode())

    def refresh_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        if status == 429:
            after = headers.get("retry-after")
            raise RefreshRefused(
                "token endpoint answered 429",
                rate_limited=True,
                retry_after=None if after is None else float(after),
            )
        if status != 200:
            named = headers.get("retry-after")
            raise RefreshRefused(
                f"token endpoint answered {status}",
                permanent=status == 401,
                retry_after=None if named is None else float(named),
                code=body.decode(),
            )
        try:
            return replace(self._token(json.loads(body)), plan=token.plan, account_id=token.account_id)
        except (ValueError, TypeError, KeyError):
            raise RefreshRefused("token endpoint answered nonsense") from None

    def usage_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        return ControlRequest("GET", urls.usage_url, (("Authorization", f"Bearer {token.access_token}"),))

    def usage_answer(self, body: bytes, now: float) -> LimitsUpdate:
        try:
            used, resets_at = json.loads(body)
        except (ValueError, TypeError):
            raise AnswerMalformed("usage endpoint answered nonsense") from None
        return LimitsUpdate(short=Window(used, resets_at, 18000.0), weekly=Window(used, resets_at, 604800.0))

    def usage_plan(self, body: bytes, token: OAuthToken) -> OAuthToken:
        return token

    def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        if token.plan is not None:
            return None
        return ControlRequest("GET", urls.profile_url, (("Authorization", f"Bearer {token.access_token}"),))

    def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
        if not body:
            raise AnswerMalformed("profile endpoint answered nothing")
        return replace(token, plan=body.decode())

    def plan_weight(self, token: OAuthToken | ApiKey) -> float:
        return 10.0 if isinstance(token, OAuthToken) and token.plan == "max" else 1.0

    def token_rejected(self, status: int, body: bytes) -> bool:
        return status == 401 or (status == 403 and b"revoked" in body)

    def default_path(self, environ: Mapping[str, str], home: str) -> str:
        return f"{home}/login.json"

    def _token(self, login: dict[str, Any]) -> OAuthToken:
        return OAuthToken(login["access"], login.get("refresh"), login.get("expires"), plan=login.get("plan"))


def login(
    access: str = "a1", refresh: str | None = "r1", expires: float | None = NOW, **more: object
) -> bytes:
    """Return a credential file. ``expires``: by default it has just expired. ``more``: further keys of the login."""
    document = {"login": {"access": access, "refresh": refresh, "expires": expires, **more}, "other": "kept"}
    return json.dumps(document).encode()


def tokens(access: str, refresh: str | None = None, expires: float = NOW + 3600) -> Answer:
    """Return the answer of the token endpoint to a refresh."""
    return Answer(200, {}, json.dumps({"access": access, "refresh": refresh, "expires": expires}).encode())


def usage(used: float = 10.0, resets_at: float = NOW + 7200) -> Answer:
    """Return the answer of the usage endpoint to a poll, with the same utilization in both windows."""
    return Answer(200, {}, json.dumps([used, resets_at]).encode())


#: An item of a script: an answer, an error, a Deferred to wait for, or a function from the request to one of these.
Reply = Answer | Exception | Deferred[Answer] | Callable[[ControlRequest], "Answer | Deferred[Answer]"]


class Upstream:
    """Scripted token, usage and profile endpoints: each request takes the next reply of the script for its URL.

    The last reply of a script is repeated. A URL without a script is never answered. ``clock``: for the time-outs.
    """

    def __init__(self, clock: IReactorTime, **scripts: Reply | Iterable[Reply]) -> None:
        """Scripts by name: ``token``, ``usage``, ``profile``."""
        self._clock = clock
        self.requests: list[ControlRequest] = []
        self._scripts: dict[str, list[Reply]] = {}
        for name, script in scripts.items():
            self.answer(name, *(script if isinstance(script, list) else [script]))

    def answer(self, name: str, *replies: Reply) -> None:
        """Replace the script of one endpoint."""
        self._scripts[{"token": TOKEN, "usage": USAGE, "profile": PROFILE}[name]] = list(replies)

    def asked(self, url: str) -> list[ControlRequest]:
        """The requests to ``url`` so far."""
        return [request for request in self.requests if request.url == url]

    async def fetch(self, request: ControlRequest, within: float = TIMEOUT) -> Answer:
        """See Fetch."""
        answer = Deferred.fromCoroutine(self._answer(request))
        late = ControlError(f"no answer within {within:g} s")
        return await answer.addTimeout(within, self._clock, lambda _, seconds: Failure(late))

    async def _answer(self, request: ControlRequest) -> Answer:
        self.requests.append(request)
        script = self._scripts.get(request.url)
        if not script:
            return await Deferred()
        reply = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(reply, Exception):
            raise reply
        made = reply if isinstance(reply, Answer | Deferred) else reply(request)
        return await made if isinstance(made, Deferred) else made


@implementer(IOutbound)
class NoOutbound:
    """An outbound for tests in which nothing may connect."""

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        raise AssertionError(f"connects to {host}:{port}")


@implementer(ICredential)
class PlainCredential(Credential):
    """The base class alone, with a key that needs no login; the test applies all inputs. ``external``: a remote's."""

    is_api_key = False

    def __init__(
        self,
        tag: str,
        clock: Clock,
        *,
        weight: float = 1.0,
        caps: Caps = EXTERNAL_CAPS,
        external: bool = False,
        key: bool = False,
    ) -> None:
        super().__init__(tag, caps, clock, clock.seconds)
        self.is_external = external
        self.is_api_key = key
        self.polled = 0
        self._weight = weight
        network = MemoryNetwork(clock)
        self._origin = upstream_of(
            f"https://{tag}.example", ConnectionPool(network.endpoint(f"{tag}.example", 443), clock)
        )
        self._running = True
        self.gain_token()

    @property
    def upstream(self) -> Origin:
        return self._origin

    async def authorize(self) -> Authorization:
        return ApiKey(f"key of {self.tag}")

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        raise CredentialUnavailable("there is but one key")

    def observe(self, update: LimitsUpdate) -> None:
        self._apply(HeadersObserved(update))

    def poll_if_stale(self) -> None:
        self.polled += 1

    def stop(self) -> None:
        """Assert that no timer is set."""
        self._running = False
        self._disarm()

    # Events that tests cause --------------------------------------------------------------------------------

    def gain_token(self) -> None:
        self._apply(TokenAvailable(self._weight))

    def lose_token(self) -> None:
        self._apply(TokenUnavailable("its file does not exist"))

    def fail_poll(self) -> None:
        self._apply(PollFailed())

    def use(self, weekly: float, hours: float = 168.0) -> None:
        """Apply a poll that reports this utilization of the week (percent), with a reset after so many hours."""
        window = Window(weekly, self._now() + hours * 3600.0, 604800.0)
        self._apply(PollSucceeded(LimitsUpdate(weekly=window)))

    def close_model(self, family: str, seconds: float) -> None:
        """Use up the window of one model family for this many seconds."""
        self.observe(LimitsUpdate(model_rejections={family: self._now() + seconds}))


def with_idle_connection(network: MemoryNetwork, host: str, clock: Clock) -> tuple[ConnectionPool, Pump]:
    """Return a pool to ``host``:443 that answers everything, and the connection that it keeps for the next request."""
    served = HTTPServerFactory(lambda request: request.respond(ResponseHead(200, b"OK", []), b""), clock)
    listener = network.listen(host, 443, served)
    pool = ConnectionPool(network.endpoint(host, 443), clock)
    receiver = Receiver()
    pool.send(RequestHead(b"GET", b"/", [(b"Host", host.encode())]), [], receiver)
    receiver.sent = True
    network.flush()
    (connection,) = listener.connections
    return pool, connection


class CredentialTestCase(SynchronousTestCase):
    """A directory with a credential file in it, and a clock that starts at NOW."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.directory = os.path.realpath(self.mktemp())
        os.mkdir(self.directory, 0o700)
        self.config = os.path.join(self.directory, "config")
        os.mkdir(self.config, 0o700)
        self.path = os.path.join(self.config, "login.json")

    def put(self, document: bytes) -> None:
        """Replace the credential file, as another program does."""
        temporary = self.path + ".new"
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(document)
        os.rename(temporary, self.path)

    def stored(self) -> dict[str, Any]:
        """The ``login`` in the file, None values left out."""
        with open(self.path, "rb") as file:
            held = json.load(file)["login"]
        return {name: value for name, value in held.items() if value is not None}

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(coroutine)

    def result(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        """Return the result of ``coroutine``, which must return at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def error(self, coroutine: Coroutine[Deferred[Any], Any, object], kind: type[Exception]) -> Any:
        """Return the exception of class ``kind`` that ``coroutine`` must raise at once."""
        return self.failureResultOf(Deferred.fromCoroutine(coroutine), kind).value

    def no_timers(self) -> None:
        """Assert that no timer is set."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
