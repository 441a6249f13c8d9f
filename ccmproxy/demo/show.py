"""``ccmproxy demo``: the proxy in front of a simulated upstream, to try by hand, or through a scripted set of requests.

Everything is real but the upstream: accounts with credential files in a temporary directory, users, and a service for
each dialect, made from a configuration. Nothing leaves the loopback address.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater, react
from twisted.logger import globalLogBeginner
from twisted.web.client import Agent, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ccmproxy.config import load_text
from ccmproxy.demo.codex import a_codex_turn, two_codex_turns_on_a_websocket
from ccmproxy.demo.outcome import Outcome, report
from ccmproxy.root.logs import daemon_observer
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ccmproxy demo``."""
    parser.add_argument(
        "--once", action="store_true", help="send a scripted set of requests, show what happened, end"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=None,
        metavar="N",
        help="where the proxy listens, for Codex on the next port, as somebody else's instance on the one after that"
        " (8080; with --once on free ports)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. The exit status: 0, or 1 if a scripted request did not go as it should."""
    port = arguments.port if arguments.port is not None else (None if arguments.once else 8080)
    verdict: list[bool] = []

    async def main(reactor: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="ccmproxy-demo-") as directory:
            demo = Demo(reactor, Path(directory), port)
            await demo.start()
            try:
                if arguments.once:
                    verdict.append(report([await step(demo) for step in SCRIPT]))
                else:
                    # Ctrl-C stops the reactor, which waits for this.
                    reactor.addSystemEventTrigger("before", "shutdown", demo.end)
                    print(demo.invitation(), flush=True)
                    await Deferred()
            finally:
                await demo.stop()

    if not arguments.once:
        globalLogBeginner.beginLoggingTo([daemon_observer(None, "info", "text")], redirectStandardIO=False)
    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    except SystemExit as ending:
        if ending.code:
            return 1
    return 0 if not arguments.once or verdict == [True] else 1


class Demo:
    """Simulator and service, on ports of the loopback address. ``directory`` gets the accounts' credential files.

    ``port``, ``codex_port``, ``neighbour_port``: where the services listen; 0 before the start.
    """

    def __init__(self, reactor: Any, directory: Path, port: int | None) -> None:
        """``port``: of the Claude side, Codex on the next one, the neighbour on the one after; None: free ones."""
        self.reactor = reactor
        self.token = ALICE
        self._directory = directory
        self._first_port = port
        self.port = self.codex_port = self.neighbour_port = 0
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
        """Listen. Raises CannotListenError or ListenFailed where a port is taken."""
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        self._simulator_port = await endpoint.listen(self.simulator.factory)
        upstream = f"http://127.0.0.1:{self._simulator_port.getHost().port}"
        # Not before: the system could give one of them to the simulator.
        first = self._first_port
        ports = _free_ports() if first is None else (first, first + 1, first + 2)
        self.port, self.codex_port, self.neighbour_port = ports
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
        """:meth:`stop`, for whoever waits for a Deferred."""
        return Deferred.fromCoroutine(self.stop())

    async def stop(self) -> None:
        """End both; open streams are not waited for. Idempotent."""
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
        """What to type to see it work."""
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
        """A request to the Codex side: the answer, its body as far as it came, and whether it came whole."""
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
        """One message request: the answer, its body as far as it came, and whether it came whole."""
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
    """The body as far as it came, and whether it came whole."""
    received: list[bytes] = []
    try:
        await response.collect(received.append)
    except ResponseFailed:
        return b"".join(received), False
    return b"".join(received), True


def _free_ports() -> list[int]:
    """Three ports of the loopback address that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _done() -> None:
    """Nothing to wait for."""


# The script -------------------------------------------------------------------------------------------------


Step = Callable[[Demo], Coroutine[Deferred[Any], Any, Outcome]]


def _error(body: bytes) -> tuple[str, str]:
    """Type and message of an error in the dialect's shape."""
    try:
        error = json.loads(body)["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "unreadable", ""


async def a_turn(demo: Demo) -> Outcome:
    """A message, answered as JSON."""
    response, body, whole = await demo.ask("[[say:It works.]]")
    text = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[1]
    return Outcome(
        "a turn", "200, whole: It works.", f"{response.code}, {'whole' if whole else 'broken'}: {text}"
    )


async def a_streamed_turn(demo: Demo) -> Outcome:
    """A message, answered as an event stream."""
    response, body, whole = await demo.ask("[[tokens:60]]", stream=True)
    end = "with its end" if whole and b"event: message_stop" in body else "without its end"
    return Outcome("a streamed turn", "200, with its end", f"{response.code}, {end}")


async def an_expired_token(demo: Demo) -> Outcome:
    """The account's token expires; the client must not notice."""
    before = demo.main.counters.refreshes
    demo.main.expire_access_token()
    response, _, _ = await demo.ask("still there?")
    refreshes = demo.main.counters.refreshes - before
    return Outcome("an expired token", "200, 1 refresh", f"{response.code}, {refreshes} refresh")


async def an_overloaded_upstream(demo: Demo) -> Outcome:
    """A 529 is the client's business."""
    response, body, _ = await demo.ask("hello", simulate="overloaded")
    return Outcome(
        "an overloaded upstream",
        "529 overloaded_error, relayed",
        f"{response.code} {_error(body)[0]}, relayed",
    )


async def a_cut(demo: Demo) -> Outcome:
    """The upstream breaks off in the middle of a stream: the client must see that it did."""
    response, body, whole = await demo.ask("[[tokens:60]]", stream=True, simulate="cut;at=mid")
    began = "begun" if b"event: message_start" in body else "not begun"
    return Outcome(
        "a cut upstream", "200, begun, broken", f"{response.code}, {began}, {'whole' if whole else 'broken'}"
    )


async def a_used_up_account(demo: Demo) -> Outcome:
    """The only account of this user is used up: told once, and not to be tried again."""
    response, body, _ = await demo.ask("hello", token=BOB)
    kind, message = _error(body)
    retry = response.headers.getRawHeaders("x-should-retry", ["-"])[0]
    return Outcome(
        "a used-up account",
        "429 rate_limit_error, x-should-retry: false, all credentials rate-limited",
        f"{response.code} {kind}, x-should-retry: {retry}, {message.partition(',')[0]}",
    )


async def an_account_that_runs_out(demo: Demo) -> Outcome:
    """In the middle of a conversation; the pool's other account goes on with it, and the client never learns."""
    answers = []
    for prompt in ("[[say:one]]", "[[say:two]]", "[[say:three]]"):
        response, body, _ = await demo.ask(prompt, token=CAROL, session="demo-conversation")
        said = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[0]
        answers.append(said)
        demo.small.exhaust("five_hour")
    refused = demo.small.counters.refused_turns
    return Outcome(
        "an account that runs out",
        "one two three, 1 refusal behind the scenes",
        f"{' '.join(answers)}, {refused} refusal behind the scenes",
    )


async def a_borrowed_turn(demo: Demo) -> Outcome:
    """Another instance, which cannot dial this one, is served over a connection that this one has made to it."""
    for _ in range(50):
        state = await demo.client.get(
            f"http://127.0.0.1:{demo.neighbour_port}/ccm/v1/status",
            headers=Headers({"Authorization": [f"Bearer {DAVE}"]}),
        )
        if (await state.json())["availability"]["state"] == "usable":
            break
        await deferLater(demo.reactor, 0.1)
    response, body, _ = await demo.ask("[[say:lent]]", token=DAVE, port=demo.neighbour_port)
    text = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[1]
    return Outcome("a borrowed turn", "200: lent", f"{response.code}: {text}")


async def an_unknown_token(demo: Demo) -> Outcome:
    """Nobody is let in without a token of the operator's."""
    response, body, _ = await demo.ask("hello", token="guessed")
    return Outcome("an unknown token", "401 authentication_error", f"{response.code} {_error(body)[0]}")


async def the_status(demo: Demo) -> Outcome:
    """What a user is told of the pool."""
    response = await demo.client.get(
        f"{demo.url}/ccm/v1/status", headers=Headers({"Authorization": [f"Bearer {ALICE}"]})
    )
    state = await response.json()
    return Outcome(
        "the status",
        "200, usable, weight 10",
        f"{response.code}, {state['availability']['state']}, weight {state['plan_weight']:g}",
    )


SCRIPT: tuple[Step, ...] = (
    a_turn,
    a_streamed_turn,
    an_expired_token,
    an_overloaded_upstream,
    a_cut,
    a_used_up_account,
    an_account_that_runs_out,
    a_borrowed_turn,
    an_unknown_token,
    the_status,
    a_codex_turn,
    two_codex_turns_on_a_websocket,
)
