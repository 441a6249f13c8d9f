"""A world in memory to hold conversations in: clients, a ccmproxy service, the simulator, one clock, no sockets.

Everything between the client's bytes and the simulator's is the real thing; only the transports and the clock are
ours. ``World.close`` checks what must hold after every conversation: no lease is left open, no call is left pending,
no token was logged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.config import OutboundConfig, ProxyOutboundConfig, UpstreamConfig, load_text
from ccmproxy.credentials.login.watch import POLL_INTERVAL, SETTLE
from ccmproxy.http.message import Headers, first_value
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.interfaces.work_queue import IWorkQueue
from ccmproxy.proxy.inspection import WorkAtOnce
from ccmproxy.root.assembly import Account
from ccmproxy.root.multiplexer import MultiplexerService
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.root.wall_clock import INTERVAL as LOOK_INTERVAL
from ccmproxy.root.wall_clock import WallClock
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.server import Simulator
from ccmproxy.testing.memory_transport import MemoryTransport
from ccmproxy.testing.pump import MemoryListener, MemoryNetwork, Pump
from ccmproxy.transports.outbounds import ProxyOutbound
from ccmproxy.transports.tls import ClientTLS

#: When every conversation begins (Unix seconds).
START = 1_795_000_000.0
PROXY = ("127.0.0.1", 8080)
UPSTREAM = ("127.0.0.1", 9000)
TOKEN = "alice-token-4711"
#: What every token and key of the simulator begins with.
SECRET_PREFIXES = ("sk-ant-oat", "sk-ant-ort", "sk-ant-api")

CONFIGURATION = """
services:
  - type: ccm
    listen_port: 8080
    credential_path: {path}
    users:
      - {{name: alice, token: {token}}}
    upstream:
      api_url: http://127.0.0.1:9000
      token_url: http://127.0.0.1:9000/v1/oauth/token
      usage_url: http://127.0.0.1:9000/api/oauth/usage
      profile_url: http://127.0.0.1:9000/api/oauth/profile
{more}
"""

#: The same without users.
ANONYMOUS = CONFIGURATION.replace("    users:\n      - {{name: alice, token: {token}}}\n", "")


class Response:
    """What a client has received of one answer so far. ``complete``: the framing says that it is all there."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.complete = False

    def header(self, name: str) -> str | None:
        """The first value of a field, as text."""
        value = first_value(self.headers, name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The ``error`` object of an answer in the dialect's shape."""
        error = self.json()["error"]
        assert isinstance(error, dict)
        return error


class Client(Protocol):
    """A strict HTTP/1.1 client that shows everything it received, also of an answer that broke off."""

    transport: MemoryTransport | None

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        """Keep why."""
        self.lost = reason

    @property
    def broken(self) -> bool:
        """The connection ended."""
        return self.lost is not None

    def responses(self) -> list[Response]:
        """Every answer received so far, interim ones left out; the last may be incomplete."""
        found: list[Response] = []
        rest = bytes(self.received)
        while rest:
            head, blank, after = rest.partition(b"\r\n\r\n")
            if not blank:
                found.append(Response())
                return found
            response = Response()
            status_line, *lines = head.split(b"\r\n")
            response.status = int(status_line.split(b" ")[1])
            for line in lines:
                name, colon, value = line.partition(b": ")
                assert colon, line
                response.headers.append((name, value))
            rest = self._body(response, after)
            if response.status >= 200:
                found.append(response)
        return found

    def _body(self, response: Response, data: bytes) -> bytes:
        if response.status < 200 or response.status == 204:
            response.complete = True
            return data
        length = response.header("content-length")
        if length is not None:
            response.body = data[: int(length)]
            response.complete = len(response.body) == int(length)
            return data[int(length) :]
        if response.header("transfer-encoding") != "chunked":
            response.body, response.complete = data, self.broken
            return b""
        position = 0
        body = bytearray()
        while (end := data.find(b"\r\n", position)) >= 0:
            size = int(data[position:end], 16)
            if len(data) < end + size + 4:
                break
            body += data[end + 2 : end + 2 + size]
            position = end + size + 4
            if size == 0:
                response.complete = True
                break
        response.body = bytes(body)
        return data[position:] if response.complete else b""


@implementer(IOutbound)
class MemoryOutbound:
    """Everything goes into one memory network."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """Into the memory network, whether with TLS or not."""
        return self._network.endpoint(host, port)


@implementer(IStreamServerEndpoint)
class MemoryServerEndpoint:
    def __init__(self, network: MemoryNetwork, port: int) -> None:
        self._network = network
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Serve at 127.0.0.1."""
        address = ("127.0.0.1", self._port)
        if address in self._network.listeners:
            error = CannotListenError(*address, OSError("address already in use"))
            return Deferred.fromCoroutine(_raise(error))
        return succeed(_MemoryPort(self._network, address, self._network.listen(*address, protocolFactory)))


async def _raise(error: Exception) -> None:
    raise error


class _MemoryPort:
    def __init__(self, network: MemoryNetwork, address: tuple[str, int], listener: MemoryListener) -> None:
        self._network = network
        self._address = address
        self._listener = listener

    def stopListening(self) -> Deferred[None]:
        """Refuse connections from now on; those that are open stay."""
        del self._network.listeners[self._address]
        self._network.listeners["closed", id(self)] = self._listener
        return succeed(None)


class World:
    """One service in front of simulated accounts, with as many clients as a test wants; one account unless told else.

    ``more``: further lines of the service's configuration. ``configuration``: instead of the usual one; ``{path}``
    stands for the credential file, ``{credentials}`` for entries of all accounts, tagged ``a1``, ``a2``, …
    ``plan``: the account's, or those of several. ``work_queue``: makes what bodies are looked into by that take long.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        more: str = "",
        configuration: str = CONFIGURATION,
        plan: str | Sequence[str] = "max_20x",
        start: bool = True,
        with_file: bool = True,
        work_queue: Callable[[], IWorkQueue] = WorkAtOnce,
    ) -> None:
        self.case = case
        self.clock = Clock()
        self.clock.advance(START)
        self.network = MemoryNetwork(self.clock)
        self.random = random.Random(7)
        self.simulator = Simulator(self.clock, random.Random(1))
        self.upstream = self.network.listen(*UPSTREAM, self.simulator.factory)
        plans = [plan] if isinstance(plan, str) else plan
        self.logins = [self.simulator.add_account(plan=each) for each in plans]
        self.login: ClaudeAccount = self.logins[0]
        self.paths = [f"{case.mktemp()}.json" for _ in plans]
        self.path = self.paths[0]
        if with_file:
            for login in self.logins:
                self.write_login(login)
        self.events: list[LogEvent] = []
        self._observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(self._observer)
        case.addCleanup(globalLogPublisher.removeObserver, self._observer)
        self._closed = False
        credentials = "\n".join(
            f"      - {{tag: a{number}, credential_path: {path}}}"
            for number, path in enumerate(self.paths, 1)
        )
        #: The text of the configuration that it began with.
        self.configuration = text = configuration.format(
            path=self.path, token=TOKEN, more=more, credentials=credentials
        )
        #: Seconds by which the machine's clock is ahead of ``clock``, the monotonic one.
        self.set_ahead = 0.0
        wall_clock = WallClock(self.clock, lambda: self.clock.seconds() + self.set_ahead)
        self.surroundings = Surroundings(
            reactor=self.clock,
            clock=self.clock,
            now=wall_clock.now,
            look_at_clock=wall_clock.look,
            random=self.random,
            outbound=self._outbound,
            listen=lambda description: MemoryServerEndpoint(self.network, _port(description)),
            environ={},
            has_address=lambda host: True,
            work_queue=work_queue,
        )
        self.service = ProxyService(load_text(text, "test.yaml"), self.surroundings)
        if start:
            self.start()

    def _outbound(self, upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
        way = MemoryOutbound(self.network)
        if isinstance(detour, ProxyOutboundConfig):
            return ProxyOutbound(detour, way, ClientTLS(), self.clock, upstream.connect_timeout)
        return way

    def write_login(self, login: ClaudeAccount | None = None) -> None:
        """Write an account's credential file (the first one's) as the official CLI would now."""
        login = login or self.login
        with open(self.paths[self.logins.index(login)], "wb") as file:
            file.write(login.credentials_document())

    def expire_login(self) -> None:
        """The access token expires now, and the credential file says so; the service has seen it."""
        self.login.expire_access_token()
        self.write_login()
        self.see_files()

    def set_clock(self, by: float) -> None:
        """Set the machine's clock by ``by`` seconds, and let the service notice it."""
        self.set_ahead += by
        self.network.advance(LOOK_INTERVAL)
        self.network.flush()

    def see_files(self) -> None:
        """Let the service notice that files have changed."""
        self.network.advance(POLL_INTERVAL)
        self.network.advance(SETTLE)

    def start(self) -> None:
        """Start the service; its first usage poll is done when this returns."""
        self.service.startService()
        self.network.flush()
        self.case.addCleanup(self.close)

    def reload(self, text: str) -> None:
        """Go over to another configuration, to the end."""
        done = self.service.reload(load_text(text, "test.yaml"))
        self.network.flush()
        self.case.successResultOf(done)

    @property
    def entry(self) -> MultiplexerService:
        """The one service of the configuration."""
        return next(iter(self.service.services.values()))

    @property
    def account(self) -> Account:
        """Its first account."""
        return next(iter(self.entry.accounts.values()))

    @property
    def accounts(self) -> list[Account]:
        """All of its accounts, in order."""
        return list(self.entry.accounts.values())

    def close(self) -> None:
        """Stop everything, and check what must hold whatever was said. Called at the end of the test.

        A test that makes many worlds closes each itself: every one of them gets what all of them log.
        """
        if self._closed:
            return
        self._closed = True
        for pump in self.network.connections:
            if not pump.client.disconnected:
                pump.client.abortConnection()
        self.network.flush()
        for account in self.entry.accounts.values():
            self.case.assertEqual(account.leases, set(), "a lease was not closed")
        self.case.assertEqual(self.entry.forwarder.registry.exchanges, set(), "an exchange was not finished")
        self.case.assertEqual(
            self.entry.forwarder.context.bodies.held, 0, "room for a body was not given back"
        )
        stopped = self.service.stopService()
        for _ in range(60):
            self.network.advance(1)
        self.case.successResultOf(stopped)
        self.case.assertEqual(self.entry.status.watchers, set())
        logged = self.logged()
        for secret in (TOKEN, *SECRET_PREFIXES):
            # Not assertNotIn: it would print the secret.
            self.case.assertFalse(secret in logged, "a secret was logged")
        globalLogPublisher.removeObserver(self._observer)

    # Conversation ---------------------------------------------------------------------------------------------

    def connect(self, **options: Any) -> tuple[Client, Pump]:
        """A new client, connected."""
        listener = self.network.listeners[PROXY]
        listener.options = options
        client = Client()
        self.network.endpoint(*PROXY).connect(Factory.forProtocol(lambda: client))
        self.network.flush()
        return client, listener.connections[-1]

    def send(self, data: bytes, client: Client | None = None) -> Client:
        """Send bytes as they are; the client has received what is there when this returns."""
        if client is None:
            client, _ = self.connect()
        assert client.transport is not None
        client.transport.write(data)
        self.network.flush()
        return client

    def ask(
        self,
        prompt: str = "hello",
        *,
        client: Client | None = None,
        **options: Any,
    ) -> Client:
        """Send one message request (see :func:`message_request`)."""
        return self.send(message_request(prompt, **options), client)

    def answer(self, prompt: str = "hello", **options: Any) -> Response:
        """Ask, and give the one whole answer."""
        client = self.ask(prompt, **options)
        responses = client.responses()
        self.case.assertEqual(len(responses), 1, bytes(client.received[:200]))
        self.case.assertTrue(responses[0].complete)
        return responses[0]

    def get(self, path: str, token: str | None = TOKEN, method: str = "GET") -> Response:
        """The whole answer to a request without a body."""
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        client = self.send(f"{method} {path} HTTP/1.1\r\nHost: proxy\r\n{authorization}\r\n".encode())
        return client.responses()[0]

    def results(self) -> list[str]:
        """What became of every finished request, as the log says it."""
        return [str(event["result"]) for event in self.events if "result" in event]

    def logged(self) -> str:
        """Everything logged, as text: the fields of each event, its message, and a failure's traceback."""
        return "\n".join(
            f"{sorted(event.items(), key=lambda item: item[0])!r} {eventAsText(event)}"
            for event in self.events
        )

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let up to ``seconds`` pass, a tenth at a time, until ``condition`` holds. Fails if it never does."""
        for _ in range(int(seconds * 10)):
            if condition():
                return
            self.network.advance(0.1)
        self.case.assertTrue(condition())


def message_request(
    prompt: str = "hello",
    *,
    stream: bool = False,
    token: str | None = TOKEN,
    session: str | None = None,
    model: str = "claude-opus-4-5",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | None = None,
    path: str = "/v1/messages?beta=true",
) -> bytes:
    """The bytes of a message request as a client would send it."""
    if body is None:
        body = json.dumps(
            {
                "model": model,
                "max_tokens": 100,
                "stream": stream,
                "messages": [{"role": "user", "content": prompt}],
            }
        ).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: proxy",
        "anthropic-version: 2023-06-01",
        "Content-Type: application/json",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if session is not None:
        lines.append(f"X-Claude-Code-Session-Id: {session}")
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def _port(description: str) -> int:
    return int(description.split(":")[1])
