"""The set-up of the demo: the simulator, the proxy in front of it, and requests to them."""

from __future__ import annotations

import json
import random
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.client import Agent, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ccmproxy.config import load_text
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.simulator.server import Simulator

ALICE = "demo-token-of-alice"
BOB = "demo-token-of-bob"
CAROL = "demo-token-of-carol"
DAVE = "demo-token-of-dave"
LENT = "demo-token-between-instances"
MODEL = "claude-sonnet-4-5"

CONFIGURATION = """\
services:
  - type: ccm
    listen: 127.0.0.1
    listen_port: {port}
    credentials:
      - {{tag: main, credential_path: {directory}/main.json}}
      - {{tag: spent, credential_path: {directory}/spent.json}}
      - {{tag: small, credential_path: {directory}/small.json}}
      - {{tag: pool, type: balancer, credentials: [small, main], strategy: fallback}}
      - {{tag: neighbour, type: external, url: "http://127.0.0.1:{neighbour_port}", reverse: true, token: {lent}}}
    users:
      - {{name: alice, token: {alice}, credential: main}}
      - {{name: bob, token: {bob}, credential: spent}}
      - {{name: carol, token: {carol}, credential: pool}}
      - {{name: neighbour, token: {lent}, credential: main}}
    upstream:
      api_url: {upstream}
      token_url: {upstream}/v1/oauth/token
      usage_url: {upstream}/api/oauth/usage
      profile_url: {upstream}/api/oauth/profile
  - type: ccm
    listen: 127.0.0.1
    listen_port: {neighbour_port}
    credentials:
      - {{tag: lender, type: external, token: {lent}}}
    users:
      - {{name: dave, token: {dave}, credential: lender, allow_external_usage: true}}
  - type: ocm
    listen: 127.0.0.1
    listen_port: {codex_port}
    credential_path: {directory}/codex.json
    users:
      - {{name: alice, token: {alice}}}
    upstream:
      api_url: {upstream}/backend-api/codex
      token_url: {upstream}/oauth/token
      usage_url: {upstream}/backend-api/wham/usage
"""


class Demo:
    """Simulator and service, on ports of the loopback address.

    ``directory``: where the accounts' credential files are written. ``port``, ``codex_port``, ``neighbour_port``: where
    the services listen; 0 before the start if any free ports will do.
    """

    def __init__(self, reactor: Any, directory: Path, port: int | None) -> None:
        """``port``: of the Claude side; Codex and the neighbour instance get the next two. None: any free ports."""
        self.reactor = reactor
        self.token = ALICE
        self._directory = directory
        self.port, self.codex_port, self.neighbour_port = (
            (0, 0, 0) if port is None else (port, port + 1, port + 2)
        )
        self.simulator = Simulator(reactor, random.Random(1))
        self.main = self.simulator.add_account("main", "max_20x")
        self.spent = self.simulator.add_account("spent", "pro")
        self.spent.exhaust("five_hour", resets_in=7980)
        self.small = self.simulator.add_account("small", "max_5x")
        self.codex = self.simulator.add_codex_account("codex")
        self.client = HTTPClient(Agent(reactor))
        self._simulator_port: Any = None
        self._service: ProxyService | None = None

    async def start(self) -> None:
        """Listen. Raises CannotListenError or ListenFailed if a port is in use."""
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        self._simulator_port = await endpoint.listen(self.simulator.factory)
        upstream = f"http://127.0.0.1:{self._simulator_port.getHost().port}"
        if not self.port:
            # Not before: the system could give one of them to the simulator.
            self.port, self.codex_port, self.neighbour_port = _free_ports()
        for account in (self.main, self.spent, self.small):
            self._write(account.name, account.credentials_document())
        self._write("codex", self.codex.auth_document())
        text = CONFIGURATION.format(
            port=self.port,
            codex_port=self.codex_port,
            neighbour_port=self.neighbour_port,
            directory=self._directory,
            alice=ALICE,
            bob=BOB,
            carol=CAROL,
            dave=DAVE,
            lent=LENT,
            upstream=upstream,
        )
        config = load_text(text, "demo")
        self._service = ProxyService(config, Surroundings.of_reactor(self.reactor, random.SystemRandom()))
        self._service.startService()

    def _write(self, name: str, document: bytes) -> None:
        """Write an account's credential file as the official CLI would."""
        path = self._directory / f"{name}.json"
        path.touch(mode=0o600)
        path.write_bytes(document)

    def end(self) -> Deferred[None]:
        """Call :meth:`stop`; returns a Deferred."""
        return Deferred.fromCoroutine(self.stop())

    async def stop(self) -> None:
        """Stop both, without waiting for open streams. Idempotent."""
        port, self._simulator_port = self._simulator_port, None
        if port is not None:
            self.simulator.factory.abort_all()
            await (port.stopListening() or _done())
        service, self._service = self._service, None
        if service is not None:
            await service.stopService()

    @property
    def url(self) -> str:
        """Base URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def invitation(self) -> str:
        """The instructions for trying the demo by hand."""
        body = json.dumps(
            {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
        )
        return "\n".join(
            (
                "",
                "ccmproxy runs in front of a simulated upstream; no account is used. Try, in another terminal:",
                "",
                f"  curl {self.url}/v1/messages -H 'Authorization: Bearer {ALICE}' -H 'anthropic-version: 2023-06-01'"
                f" -d '{body}'",
                f"  curl '{self.url}/ccm/v1/status?watch=true' -H 'Authorization: Bearer {ALICE}'",
                f"  ANTHROPIC_BASE_URL={self.url} ANTHROPIC_AUTH_TOKEN={ALICE} claude -p 'Say hello'",
                "",
                f"Codex is at http://127.0.0.1:{self.codex_port}/v1, with the same token: see docs/clients.md.",
                f"With {BOB} in place of {ALICE} you meet an account that is used up, with {CAROL} a pool of two.",
                f"{DAVE}, on port {self.neighbour_port}, is a user of another instance, which borrows from this one.",
                "Ctrl-C ends it.",
                "",
            )
        )

    async def post(self, path: str, body: dict[str, Any]) -> tuple[IResponse, bytes, bool]:
        """A request to the Codex side: the response, its body as far as it arrived, and whether it was complete."""
        headers = Headers({"Authorization": [f"Bearer {self.token}"], "Content-Type": ["application/json"]})
        response = await self.client.post(
            f"http://127.0.0.1:{self.codex_port}{path}",
            headers=headers,
            data=json.dumps(body).encode(),
            unbuffered=True,
        )
        return response, *await _collect(response)

    async def ask(
        self,
        prompt: str,
        *,
        stream: bool = False,
        token: str = ALICE,
        simulate: str | None = None,
        session: str | None = None,
        port: int | None = None,
    ) -> tuple[IResponse, bytes, bool]:
        """A message request: the response, its body as far as it arrived, and whether it was complete."""
        headers: dict[bytes | str, bytes | str] = {
            "Authorization": f"Bearer {token}",
            "anthropic-version": "2023-06-01",
            "Content-Type": "application/json",
        }
        if simulate is not None:
            headers["x-simulate"] = simulate
        if session is not None:
            headers["X-Claude-Code-Session-Id"] = session
        body = {
            "model": MODEL,
            "max_tokens": 200,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        response = await self.client.post(
            f"http://127.0.0.1:{port or self.port}/v1/messages",
            headers=headers,
            data=json.dumps(body).encode(),
            unbuffered=True,
        )
        return response, *await _collect(response)


async def _collect(response: Any) -> tuple[bytes, bool]:
    """The body as far as it arrived, and whether it was complete."""
    received: list[bytes] = []
    try:
        await response.collect(received.append)
    except ResponseFailed:
        return b"".join(received), False
    return b"".join(received), True


def _free_ports() -> list[int]:
    """Three free ports of the loopback address."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _done() -> None:
    """Return at once."""
