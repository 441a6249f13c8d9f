"""In-memory WebSocket conversations: clients, a forwarder with several accounts, and an upstream run by the test."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.credentials.destination import UpstreamAccess, upstream_of
from ccmproxy.credentials.key import KeyAccount
from ccmproxy.credentials.login.account import LoginAccount, LoginPlace
from ccmproxy.credentials.pool.pool import Pool, PoolRules
from ccmproxy.dialects.base import Dialect
from ccmproxy.dialects.codex import CODEX
from ccmproxy.dialects.oauth import ApiKey
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.message import ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.interfaces.credentials import ICredentialStore
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.forwarder import Forwarder
from ccmproxy.simulator.server import Simulator
from ccmproxy.state.limits import LimitsUpdate, Window
from ccmproxy.testing.memory_transport import MemoryTransport
from ccmproxy.testing.pump import MemoryNetwork, Pump
from ccmproxy.websocket.connection import Close, Connection, Event, Message, ProtocolError
from ccmproxy.websocket.deflate import DeflateAgreement, server_agreement
from ccmproxy.websocket.handshake import accept_value, check_answer, request_fields
from tests.conversation import MemoryOutbound

START = 1_795_000_000.0
PROXY = ("proxy.test", 80)
UPSTREAM = ("127.0.0.1", 9000)
ORIGIN = "http://127.0.0.1:9000"
NONCE = bytes(16)
SECRET = "sk-secret-"


def event(kind: str, **fields: Any) -> bytes:
    """A message as the upstream writes it."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()


CREATE = event("response.create", model="gpt-5.4", input=[{"role": "user"}])
WARM_UP = event("response.create", model="gpt-5.4", input=[], generate=False)
CREATED = event("response.created", response={"id": "r1"})
DELTA = event("response.output_text.delta", delta="größer — 🙂")
COMPLETED = event(
    "response.completed", response={"model": "gpt-5.4", "usage": {"input_tokens": 11, "output_tokens": 3}}
)


def rate_limits(used: float, resets_at: float = START + 3600) -> bytes:
    """The upstream's event about one account."""
    windows = {
        "primary": {"used_percent": used, "window_minutes": 300, "reset_at": resets_at},
        "secondary": {"used_percent": used / 2, "window_minutes": 10080, "reset_at": resets_at + 86400},
    }
    return event("codex.rate_limits", metered_limit_name="codex", limit_name=None, rate_limits=windows)


def used_up(resets_at: float = START + 3600) -> bytes:
    """The upstream's refusal of a turn within a connection."""
    return event(
        "error",
        status=429,
        error={"type": "usage_limit_reached", "message": "used up", "resets_at": resets_at},
        headers={"x-codex-primary-used-percent": "100.0", "x-codex-primary-window-minutes": "300"},
    )


class Socket(Protocol):
    """A test's end of a WebSocket: it records everything received, and can send anything.

    ``events``: the events received since the upgrade. ``head``: the head of the handshake. ``rest``: unparsed bytes
    after the head, if there was no upgrade. ``lost``: why the connection ended.
    """

    transport: MemoryTransport

    def __init__(self, is_client: bool) -> None:
        self.is_client = is_client
        self.events: list[Event] = []
        self.connection: Connection | None = None
        self.received = b""
        self.head = b""
        self.lost: Failure | None = None
        self.reading = True
        self.on_event: Callable[[Event], None] = lambda event: None

    def begin(self, agreement: DeflateAgreement | None = None) -> None:
        """Switch to the WebSocket protocol."""
        self.connection = Connection((lambda: b"\1\2\3\4") if self.is_client else None, agreement)
        data, self.received = self.received, b""
        self.dataReceived(data)

    def dataReceived(self, data: bytes) -> None:
        """Keep and parse the bytes."""
        if self.connection is None:
            self.received += data
            if not self.head and b"\r\n\r\n" in self.received:
                self.head, _, self.received = self.received.partition(b"\r\n\r\n")
                self.head_received()
            return
        self.connection.receive(data)
        try:
            while (event := self.connection.next_event()) is not None:
                self.events.append(event)
                self.on_event(event)
        except ProtocolError as error:
            raise AssertionError(f"the proxy broke the protocol: {error}") from None

    def head_received(self) -> None:
        """The other side's head has arrived."""

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        """Keep why."""
        self.lost = reason

    # What a test says and sees

    def say(self, data: bytes, is_text: bool = True) -> None:
        """Send a message."""
        assert self.connection is not None
        self.transport.write(self.connection.send_message(data, is_text))

    def close(self, code: int = 1000, reason: bytes = b"") -> None:
        """Send a close."""
        assert self.connection is not None
        self.transport.write(self.connection.send_close(code, reason))

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Header fields of the head."""
        pairs = [line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:]]
        return [(name, value) for name, value in pairs]

    def field(self, name: str) -> bytes | None:
        """The first field of that name."""
        return next((value for key, value in self.fields() if key.lower() == name.lower().encode()), None)

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.head.split(b" ")[1]) if self.head else 0

    @property
    def messages(self) -> list[bytes]:
        """The payloads of the text and binary messages received."""
        return [event.data for event in self.events if isinstance(event, Message)]

    def without_limits(self) -> list[bytes]:
        """The messages without the events about limits."""
        return [data for data in self.messages if b"codex.rate_limits" not in data]

    def limits(self) -> list[dict[str, Any]]:
        """The events about limits."""
        return [json.loads(data) for data in self.messages if b"codex.rate_limits" in data]

    @property
    def closed(self) -> Close | None:
        """The close that was received."""
        return next((event for event in self.events if isinstance(event, Close)), None)

    @property
    def code(self) -> int | None:
        """The code of the close that was received; None if there was none."""
        return None if self.closed is None else self.closed.code


class ClientSocket(Socket):
    """A client: its upgrade is answered with ``agreement``."""

    def __init__(self, compress: bool) -> None:
        super().__init__(True)
        self._compress = compress

    def head_received(self) -> None:
        """Begin if the head is a 101."""
        if self.status == 101:
            reason = self.head.split(b"\r\n")[0]
            head = ResponseHead(101, reason, self.fields())
            self.begin(check_answer(NONCE, head, self._compress))


class UpstreamSocket(Socket):
    """A connection from the proxy, which the test answers by ``accept`` or ``answer``."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(False)
        self._scene = scene

    def head_received(self) -> None:
        """Do what the test has prepared, or nothing."""
        self._scene.asked(self)

    def accept(self, *fields: tuple[str, str], compress: bool = False, early: bytes = b"") -> None:
        """Answer with a 101. ``early``: bytes in the same write."""
        agreed = server_agreement([("permessage-deflate", {})]) if compress else None
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(self.field('sec-websocket-key') or b'').decode()}",
            *(f"{name}: {value}" for name, value in fields),
        ]
        if agreed:
            lines.append(f"Sec-WebSocket-Extensions: {agreed[1]}")
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + early)
        self.begin(agreed[0] if agreed else None)

    def answer(self, status: int, body: bytes = b"{}", *fields: tuple[str, str]) -> None:
        """Refuse with an HTTP response."""
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in fields]
        self.head = b""
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@implementer(ICredentialStore)
class _Login:
    """A login that is kept in memory."""

    description = "a test's login"

    def __init__(self, document: bytes) -> None:
        self._document = document

    def read(self) -> bytes:
        return self._document

    def write(self, document: bytes) -> None:
        self._document = document

    def check_writable(self) -> None:
        pass

    def clean_up(self, is_newer: Callable[[bytes, bytes], bool]) -> bool:
        return False


class FixedLogin(KeyAccount):
    """An account whose token never changes, and whose answers are opinions as those of a login are."""

    is_api_key = False


class Scene:
    """Accounts ``a``, ``b``, … behind one upstream. ``upstreams``: the connections made to it, oldest first.

    ``on_asked``: what the upstream does with a request; by default it accepts.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        accounts: int = 1,
        options: ProxyOptions = ProxyOptions(),  # noqa: B008 - frozen
        dialect: Dialect = CODEX,
        limits: ClientLimits = ClientLimits(),  # noqa: B008 - frozen
        plans: Sequence[str] = (),
        kind: type[KeyAccount] = KeyAccount,
    ) -> None:
        """``plans``: use ChatGPT logins with these plans at the simulator, instead of keys at the test's upstream.
        ``kind``: what stands for an account there."""
        self.case = case
        self.clock = Clock()
        self.clock.advance(START)
        self.network = MemoryNetwork(self.clock)
        self.upstreams: list[UpstreamSocket] = []
        self.on_asked: Callable[[UpstreamSocket], None] = lambda socket: socket.accept()
        self.simulator = Simulator(self.clock, random.Random(1))
        factory = self.simulator.factory if plans else _Upstreams(self)
        self.upstream_listener = self.network.listen(*UPSTREAM, factory)
        self.logins = [self.simulator.add_codex_account(plan=plan) for plan in plans]
        self.pools = [
            ConnectionPool(self.network.endpoint(*UPSTREAM, timeout=None), self.clock, limits)
            for _ in (plans or range(accounts))
        ]
        self.accounts: list[LoginAccount | KeyAccount] = []
        for number, (tag, pool) in enumerate(zip("abcdefgh", self.pools, strict=False)):
            if plans:
                document = self.logins[number].credentials_document()
                self.accounts.append(self._login(tag, document, pool, dialect))
            else:
                upstream = upstream_of(ORIGIN, pool)
                key = ApiKey(f"{SECRET}{tag}")
                self.accounts.append(kind(tag, key, upstream, self.clock, now=self.clock.seconds))
        for account in self.accounts:
            account.start()
        self.settle()
        self.provider = Pool("pool", self.accounts, PoolRules("fallback"), self.clock.seconds, lambda: 0.5)
        self.caller = Caller("alice", self.provider)
        # All masking keys differ, so that missing unmasking is detected.
        numbers = itertools.count(1)
        self.now: Callable[[], float] = self.clock.seconds
        self.forwarder = Forwarder(
            dialect,
            self.clock,
            lambda: self.now(),
            options,
            lambda size: (next(numbers) * 0x9E3779B1 % 2**32).to_bytes(4, "big") * (size // 4),
        )
        self.forwarder.start()
        self.requests = itertools.count(1)
        self.factory = HTTPServerFactory(self.handle, self.clock)
        self.proxy_listener = self.network.listen(*PROXY, self.factory)
        self.log: list[LogEvent] = []
        observer = cast(ILogObserver, self.log.append)
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)
        case.addCleanup(self.finish)

    def _login(self, tag: str, document: bytes, pool: ConnectionPool, dialect: Dialect) -> LoginAccount:
        """An account of the simulator's."""
        urls = replace(
            dialect.urls,
            api_url=f"{ORIGIN}/backend-api/codex",
            key_api_url="",
            token_url=f"{ORIGIN}/oauth/token",
            usage_url=f"{ORIGIN}/backend-api/wham/usage",
        )
        access = UpstreamAccess(urls, MemoryOutbound(self.network), pool)
        place = LoginPlace(_Login(document))
        return LoginAccount(
            tag, place, dialect.account, access, self.clock, lambda: 0.5, now=self.clock.seconds
        )

    def handle(self, request: ServerRequest) -> None:
        """Forward every request as alice's."""
        self.forwarder.forward(request, self.caller, f"req_{next(self.requests)}")

    def asked(self, socket: UpstreamSocket) -> None:
        """The head of a request has reached the upstream."""
        self.on_asked(socket)

    def finish(self) -> None:
        """End everything, and check that nothing is left behind."""
        for pump in self.network.connections:
            pump.client.held = pump.server.held = False
            pump.client.resumeProducing()
            if pump in self.proxy_listener.connections and not pump.client.disconnected:
                pump.client.abortConnection()
        self.settle()
        self.pass_time(20)
        self.check_nothing_left()
        self.forwarder.stop()
        for pool in self.pools:
            pool.close()
        for account in self.accounts:
            self.case.successResultOf(account.stop())
        self.pass_time(15)
        self.case.assertEqual(self.clock.getDelayedCalls(), [])
        told = repr(self.log)
        self.case.assertNotIn(SECRET, told)
        self.case.assertNotIn("größer", told)
        for login in self.logins:
            self.case.assertFalse(login.access_token in told, "a token was logged")

    def check_nothing_left(self) -> None:
        """Check that no lease, exchange, relay, subscription or upgraded connection is left."""
        self.case.assertEqual([account.leases for account in self.accounts], [set()] * len(self.accounts))
        self.case.assertEqual(self.forwarder.registry.exchanges, set())
        self.case.assertEqual(self.forwarder.registry.websockets, set())
        self.case.assertEqual(self.forwarder.context.bodies.held, 0)
        self.case.assertEqual(
            [len(account._listeners) for account in self.accounts], [0] * len(self.accounts)
        )
        self.case.assertEqual(self.factory.connections, set())
        open_sockets = [
            socket for socket in self.upstreams if socket.connection is not None and socket.lost is None
        ]
        self.case.assertEqual(open_sockets, [])

    def settle(self) -> None:
        """Run until nothing happens without time passing."""
        for _ in range(8):
            self.network.flush()
            self.clock.advance(0)
        self.network.flush()

    def pass_time(self, seconds: int) -> None:
        """Advance the clock second by second."""
        for _ in range(seconds):
            self.network.advance(1.0)
            self.settle()

    # Clients --------------------------------------------------------------------------------------------------

    def dial(self, compress: bool = False, **options: Any) -> tuple[ClientSocket, Pump]:
        """A client that is connected and has sent nothing."""
        self.proxy_listener.options = options
        client = ClientSocket(compress)
        self.network.endpoint(*PROXY).connect(Factory.forProtocol(lambda: client))
        self.network.flush()
        return client, self.proxy_listener.connections[-1]

    def open(
        self, *fields: tuple[str, str], compress: bool = False, behind: bytes = b"", **options: Any
    ) -> ClientSocket:
        """A client that has asked for a WebSocket. ``behind``: bytes sent right after its request."""
        client, _ = self.dial(compress, **options)
        client.transport.write(upgrade_request(*fields, compress=compress) + behind)
        self.settle()
        return client

    def connected(self, compress: bool = False, **options: Any) -> tuple[ClientSocket, UpstreamSocket]:
        """An open WebSocket, both ends."""
        client = self.open(compress=compress, **options)
        self.case.assertEqual(client.status, 101, client.head + client.received)
        return client, self.upstream

    @property
    def upstream(self) -> UpstreamSocket:
        """The connection made last."""
        return self.upstreams[-1]

    def observe(self, account: int, used: float, resets_at: float = START + 3600) -> None:
        """Set the utilization of an account's short window (percent)."""
        self.accounts[account].observe(LimitsUpdate(short=Window(used, resets_at, 18000.0)))

    def results(self) -> list[str]:
        """The logged outcome of every turn and request."""
        return [str(entry["result"]) for entry in self.log if "result" in entry]


def upgrade_request(
    *fields: tuple[str, str], compress: bool = False, path: str = "/v1/responses", method: str = "GET"
) -> bytes:
    """A client's handshake. A field given here replaces the default; an empty value removes it."""
    usual = [("Host", "proxy.test"), ("Authorization", "Bearer alice-token")]
    usual += [(name.decode(), value.decode()) for name, value in request_fields(NONCE, compress)]
    given = {name.lower() for name, _ in fields}
    lines = [f"{name}: {value}" for name, value in usual if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in fields if value]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines]).encode("latin-1") + b"\r\n\r\n"


class _Upstreams(Factory):
    noisy = False

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def buildProtocol(self, addr: object) -> UpstreamSocket:
        socket = UpstreamSocket(self._scene)
        self._scene.upstreams.append(socket)
        return socket
