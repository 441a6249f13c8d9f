"""Several instances of ccmproxy in one memory network, which lend each other capacity; one simulator, one clock.

``Federation.close`` checks what must hold after every conversation, as ``World.close`` does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import OutboundConfig, UpstreamConfig, load_text
from ccmproxy.credentials.remote.external import External
from ccmproxy.http.message import first_value
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.reverse.connector import Connector
from ccmproxy.root.multiplexer import MultiplexerService
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.claude.upstream import upstream_settings as claude_settings
from ccmproxy.simulator.codex.upstream import upstream_settings as codex_settings
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.server import Simulator
from ccmproxy.testing.pump import MemoryNetwork, Pump
from tests.conversation import (
    SECRET_PREFIXES,
    START,
    UPSTREAM,
    Client,
    MemoryOutbound,
    MemoryServerEndpoint,
    Response,
    message_request,
)

#: What instances are addressed by; none of it may be logged.
TOKENS = {name: f"{name}-token-4711" for name in ("alice", "bob", "carol", "a", "b", "c", "wrong")}

SERVICE = """
services:
  - type: {kind}
    listen_port: {port}
    credentials:
{credentials}
    users:
{users}
    upstream: {upstream}
{more}
"""

#: Where the simulator is, by type of service.
UPSTREAMS = {
    "ccm": claude_settings("http://127.0.0.1:9000"),
    "ocm": codex_settings("http://127.0.0.1:9000"),
}


class Instance:
    """One ccmproxy of a federation, on a port of its own."""

    def __init__(self, federation: Federation, port: int, text: str) -> None:
        self.federation = federation
        self.port = port
        self.text = text
        #: Its local addresses that are gone.
        self.lost_addresses: set[str] = set()
        self.surroundings = Surroundings(
            reactor=federation.clock,
            clock=federation.clock,
            now=federation.clock.seconds,
            random=random.Random(port),
            outbound=self._outbound,
            listen=lambda description: MemoryServerEndpoint(
                federation.network, int(description.split(":")[1])
            ),
            environ={},
            has_address=lambda host: host not in self.lost_addresses,
        )
        self.service = ProxyService(load_text(text, "test.yaml"), self.surroundings)

    def _outbound(self, upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
        return MemoryOutbound(self.federation.network)

    @property
    def entry(self) -> MultiplexerService:
        """Its one service."""
        return next(iter(self.service.services.values()))

    def external(self, tag: str) -> External:
        """A remote that it knows."""
        return next(r.external for r in self.entry.externals.values() if r.tag == tag)

    def connector(self, tag: str) -> Connector:
        """What keeps its connection to a remote."""
        connector = next(r.connector for r in self.entry.externals.values() if r.tag == tag)
        assert connector is not None
        return connector

    @property
    def connections(self) -> list[Pump]:
        """The connections that were made to it and are still there."""
        listener = self.federation.network.listeners["127.0.0.1", self.port]
        return [pump for pump in listener.connections if not pump.closed]

    def reload(self, text: str) -> None:
        """Go over to another configuration, to the end."""
        done = self.service.reload(load_text(text, "test.yaml"))
        self.federation.network.flush()
        self.federation.case.successResultOf(done)

    # Conversation -----------------------------------------------------------------------------------------

    def send(self, data: bytes, client: Client | None = None) -> Client:
        """Send bytes as they are; the client has received what is there when this returns."""
        federation = self.federation
        if client is None:
            client = Client()
            made = client
            federation.network.endpoint("127.0.0.1", self.port).connect(Factory.forProtocol(lambda: made))
            federation.settle()
        assert client.transport is not None
        client.transport.write(data)
        federation.settle()
        return client

    def ask(self, prompt: str = "hello", user: str = "alice", **options: Any) -> Client:
        """Send one message request of ``user``."""
        return self.send(message_request(prompt, token=TOKENS[user], **options))

    def answer(self, prompt: str = "hello", user: str = "alice", **options: Any) -> Response:
        """Ask, and give the one whole answer."""
        client = self.ask(prompt, user, **options)
        responses = client.responses()
        self.federation.case.assertEqual(len(responses), 1, bytes(client.received[:200]))
        self.federation.case.assertTrue(responses[0].complete)
        return responses[0]

    def get(self, path: str, user: str = "alice", **fields: str) -> Response:
        """The answer to a request without a body. ``fields``: further ones, with underscores for hyphens."""
        lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKENS[user]}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        client = self.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        return client.responses()[0]


class Federation:
    """A network of instances, and a simulator with accounts for them. ``kind``: type of their services."""

    def __init__(
        self,
        case: SynchronousTestCase,
        kind: str = "ccm",
        make_simulator: Callable[[Clock, random.Random], Simulator] = Simulator,
    ) -> None:
        self.case = case
        self.kind = kind
        self.clock = Clock()
        self.clock.advance(START)
        self.network = MemoryNetwork(self.clock)
        self.simulator = make_simulator(self.clock, random.Random(1))
        self.upstream = self.network.listen(*UPSTREAM, self.simulator.factory)
        self.logins: dict[str, ClaudeAccount] = {}
        self.instances: list[Instance] = []
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        case.addCleanup(globalLogPublisher.removeObserver, observer)
        case.addCleanup(self.close)

    def account(self, tag: str, plan: str = "max_20x", **options: Any) -> str:
        """An entry for an account of its own, logged in. ``options``: of the simulated account."""
        login = self.logins[tag] = self.simulator.add_account(tag, plan, **options)
        path = f"{self.case.mktemp()}.json"
        with open(path, "wb") as file:
            file.write(login.credentials_document())
        return f"{{tag: {tag}, credential_path: {path}}}"

    def codex_account(self, tag: str) -> str:
        """The same for a ChatGPT account."""
        login = self.simulator.add_codex_account(tag)
        path = f"{self.case.mktemp()}.json"
        with open(path, "wb") as file:
            file.write(login.auth_document())
        return f"{{tag: {tag}, credential_path: {path}}}"

    def add(
        self,
        port: int,
        credentials: Sequence[str],
        users: Sequence[str],
        more: str = "",
        start: bool = True,
    ) -> Instance:
        """An instance with these entries; see :func:`user`."""
        text = SERVICE.format(
            kind=self.kind,
            upstream=json.dumps(UPSTREAMS[self.kind]),
            port=port,
            credentials="\n".join(f"      - {each}" for each in credentials),
            users="\n".join(f"      - {each}" for each in users),
            more=more,
        )
        instance = Instance(self, port, text)
        self.instances.append(instance)
        if start:
            instance.service.startService()
            self.settle()
        return instance

    def settle(self) -> None:
        """Let everything happen that happens by itself."""
        for _ in range(10):
            self.network.flush()
            self.clock.advance(0)
        self.network.flush()

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Step by step."""
        while seconds > 0:
            self.network.advance(min(step, seconds))
            self.settle()
            seconds -= step

    def turns(self) -> list[ReceivedRequest]:
        """What reached the upstream."""
        return list(self.simulator.requests.of("turn"))

    def served_by(self) -> str:
        """The account that the last turn was sent with."""
        token = first_value(self.turns()[-1].headers, b"authorization")
        return next(
            tag for tag, login in self.logins.items() if token == f"Bearer {login.access_token}".encode()
        )

    def logged(self) -> str:
        """Everything logged, as text."""
        return "\n".join(
            f"{sorted(event.items(), key=lambda item: item[0])!r} {eventAsText(event)}"
            for event in self.events
        )

    def lines(self, words: str) -> list[str]:
        """The messages with these words in them."""
        return [
            text for event in self.events if words in (text := eventAsText(event, includeTimestamp=False))
        ]

    def close(self) -> None:
        """Stop everything, and check that nothing is left."""
        for pump in self.network.connections:
            if not pump.client.disconnected and not isinstance(pump.client._protocol, Client):
                continue
            if not pump.client.disconnected:
                pump.client.abortConnection()
        self.settle()
        stopped = [instance.service.stopService() for instance in self.instances if instance.service.running]
        self.pass_time(45)
        for each in stopped:
            self.case.successResultOf(each)
        for instance in self.instances:
            for credential in (
                *instance.entry.accounts.values(),
                *(remote.external for remote in instance.entry.externals.values()),
            ):
                self.case.assertEqual(credential.leases, set(), "a lease was not closed")
            self.case.assertEqual(
                instance.entry.forwarder.registry.exchanges, set(), "an exchange was not finished"
            )
            self.case.assertEqual(instance.entry.receiver.sessions, set(), "a session is open")
        self.simulator.factory.abort_all()
        self.settle()
        self.case.assertEqual(
            [call for call in self.clock.getDelayedCalls() if "simulator" not in repr(call)], []
        )
        logged = self.logged()
        for secret in (*TOKENS.values(), *SECRET_PREFIXES):
            # Not assertNotIn: it would print the secret.
            self.case.assertFalse(secret in logged, "a secret was logged")


def user(name: str, credential: str, **options: object) -> str:
    """An entry for a user."""
    more = "".join(f", {key}: {str(value).lower()}" for key, value in options.items())
    return f"{{name: {name}, token: {TOKENS[name]}, credential: {credential}{more}}}"


def external(tag: str, token: str, **options: object) -> str:
    """An entry for a remote; ``token``: whose."""
    more = "".join(
        f", {key}: {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
    )
    return f"{{tag: {tag}, type: external, token: {TOKENS[token]}{more}}}"
