"""Machines with a network between them, ccmproxy running on them, and one simulator that each of them reaches.

A :class:`Lab` is a switch with machines on it (namespaces, see :mod:`tests.interop.namespaces`); the simulator and the
clients live in the test's own process, with sockets in the machines' namespaces. ``Lab.close`` ends the processes and
checks what must hold after every conversation.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from ccmproxy.http.message import first_value
from ccmproxy.simulator import ClaudeAccount, Simulator, upstream_settings
from tests.conversation import SECRET_PREFIXES, message_request
from tests.federated import TOKENS
from tests.interop.namespaces import Namespace
from tests.interop.running import Caller, Running
from tests.source import ROOT

#: Where ccmproxy and the simulator listen, on every machine.
PORT = 8080
UPSTREAM_PORT = 9000
#: The machines are each other's neighbours, and nobody else's: no token that they send can be overheard.
_CONFIGURATION = f"""
services:
  - type: ccm
    listen: 0.0.0.0
    listen_port: {PORT}
    credentials:
{{credentials}}
    users:
{{users}}
    upstream:
      allow_insecure: true
{{upstream}}
shutdown_grace: 1s
outbounds:
"""
#: Seconds that something may take which happens by itself and at once, on a machine that has much to do.
SOON = 30.0
#: twistd without its script, which need not be installed where the tests run.
_TWISTD = "from twisted.scripts.twistd import run; run()"


class Machine:
    """A machine of the lab. ``address``: on the common network, or behind a router of its own. ``daemon``: ccmproxy."""

    daemon: Running

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        self.lab = lab
        self.name = name
        self.address = address
        self.namespace = Namespace()
        self.namespace.ip("link set lo up")
        lab.case.addCleanup(self.namespace.close)
        self.folder = lab.folder / name
        self.folder.mkdir()
        self._config: Path | None = None
        with self.namespace:
            port = lab.reactor.listenTCP(UPSTREAM_PORT, lab.simulator.factory, interface="127.0.0.1")
        lab.case.addCleanup(port.stopListening)

    def limit_buffers(self) -> None:
        """Let the kernel hold little of a connection made from now on: then it is up to ccmproxy what becomes of data
        that nobody reads."""
        with self.namespace:
            for direction in ("rmem", "wmem"):
                Path(f"/proc/sys/net/ipv4/tcp_{direction}").write_text("4096 65536 131072")

    def endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        """From here to there."""
        return _Endpoint(self, TCP4ClientEndpoint(self.lab.reactor, host, port, timeout=10))

    def listen(self, port: int, factory: IProtocolFactory) -> None:
        """Serve something on the loopback interface, to the end of the test."""
        with self.namespace:
            listening = self.lab.reactor.listenTCP(port, factory, interface="127.0.0.1")
        self.lab.case.addCleanup(listening.stopListening)

    def start(self, name: str, command: Sequence[str], **environment: str) -> Running:
        """Start a program that runs until the end of the test."""
        running = Running(f"{name} on {self.name}")
        with self.namespace:
            self.lab.reactor.spawnProcess(
                running, command[0], command, {**os.environ, **environment}, str(self.folder)
            )
        self.lab.started.append(running)
        return running

    def configure(
        self, credentials: Sequence[str], users: Sequence[str], outbounds: Sequence[str] = (), **upstream: str
    ) -> None:
        """Write what ccmproxy is to be here: entries of the configuration. ``upstream``: further settings there."""
        text = _CONFIGURATION.format(
            credentials="\n".join(f"      - {each}" for each in credentials),
            users="\n".join(f"      - {each}" for each in users),
            upstream="\n".join(
                f"      {key}: {value}"
                for key, value in {
                    **upstream_settings(f"http://127.0.0.1:{UPSTREAM_PORT}"),
                    **upstream,
                }.items()
            ),
        )
        self._config = self.folder / "ccmproxy.yaml"
        self._config.touch(mode=0o600)
        self._config.write_text(text + "".join(f"\n  - {each}" for each in outbounds))

    def run(self) -> Running:
        """Start ccmproxy, of this checkout."""
        arguments = ["--nodaemon", "--pidfile=", "ccmproxy", "--config", str(self._config)]
        self.daemon = self.start(
            "ccmproxy",
            [sys.executable, "-c", _TWISTD, *arguments],
            PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            PYTHONDONTWRITEBYTECODE="1",
        )
        return self.daemon

    async def up(self) -> None:
        """Wait until ccmproxy listens."""
        await self.lab.until(lambda: bool(self.daemon.lines("listens on")), f"{self.daemon.name} listens")

    def logged(self, words: str) -> list[str]:
        """Lines of ccmproxy's log."""
        return self.daemon.lines(words)

    async def logs(self, words: str, seconds: float = SOON, after: int = 0) -> None:
        """Wait for more than ``after`` such lines."""
        await self.lab.until(
            lambda: len(self.logged(words)) > after, f'{self.daemon.name} logs "{words}"', seconds
        )

    def ask(
        self,
        prompt: str = "hello",
        user: str = "alice",
        *,
        stream: bool = False,
        session: str | None = None,
        is_reading: bool = True,
    ) -> Caller:
        """A client on this machine asks ccmproxy here, and takes an answer of any length."""
        body = {
            "model": "claude-opus-4-5",
            "max_tokens": 1_000_000,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        request = message_request(token=TOKENS[user], session=session, body=json.dumps(body).encode())
        caller = Caller(self.lab.reactor, request, is_reading)
        connecting = self.endpoint("127.0.0.1", PORT).connect(Factory.forProtocol(lambda: caller))
        connecting.addErrback(caller.connectionLost)
        self.lab.callers.append(caller)
        return caller

    async def answer(self, prompt: str = "hello", user: str = "alice", **options: Any) -> Caller:
        """The same, to the end."""
        caller = self.ask(prompt, user, **options)
        await self.lab.until(lambda: caller.is_over, "the answer is there")
        return caller

    async def lent_again(self, since: float, seconds: float) -> float:
        """Ask until the answer comes from another machine's account, ``lent``; seconds from ``since``, at most
        ``seconds``. What is asked in vain until then does no harm."""
        prompt = f"[[say:again since {since}]]"
        while "lent" not in self.lab.served_by(prompt):
            caller = self.ask(prompt)
            await self.lab.until(lambda: caller.is_over, "an answer", since + seconds - self.lab.now)  # noqa: B023
            await self.lab.sleep(0.05)
        return self.lab.now - since


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """An endpoint whose sockets are made in a machine's namespace, whoever connects."""

    def __init__(self, machine: Machine, endpoint: TCP4ClientEndpoint) -> None:
        self._machine = machine
        self._endpoint = endpoint

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint."""
        with self._machine.namespace:
            connecting: Deferred[IProtocol] = self._endpoint.connect(protocol_factory)
        return connecting


class Lab:
    """A switch with machines on it, whose addresses are 10.0.0.1, 10.0.0.2, …"""

    def __init__(self, case: TestCase, reactor: Any) -> None:
        self.case = case
        self.reactor = reactor
        self.folder = Path(case.mktemp()).absolute()
        self.folder.mkdir()
        self.simulator = Simulator(reactor, random.Random(1))
        self.logins: dict[str, ClaudeAccount] = {}
        self.started: list[Running] = []
        self.callers: list[Caller] = []
        self._machines = 0
        self.switch = Namespace()
        self.switch.ip("link add name switch type bridge", "link set switch up")
        case.addCleanup(self.switch.close)
        case.addCleanup(self.close)

    # Building ---------------------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        """One more, on the switch, where its port has its name."""
        self._machines += 1
        machine = Machine(self, name, f"10.0.0.{self._machines}")
        self._plug(machine.namespace, "eth0", name, machine.address)
        return machine

    def machine_behind_a_router(self, name: str) -> Machine:
        """One that is not on the switch, but behind a router with address translation, as at home: it reaches the
        others, and they do not even have a route to it. Raises OSError where the kernel cannot do that."""
        self._machines += 1
        router = Namespace()
        self.case.addCleanup(router.close)
        self._plug(router, "wan", name, f"10.0.0.{self._machines}")
        with router:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        router.run(
            "nft",
            'table ip nat { chain outgoing { type nat hook postrouting priority 100; oifname "wan" masquerade; }; }',
        )
        machine = Machine(self, name, "192.168.0.2")
        router.join("lan", machine.namespace, "eth0")
        router.ip("addr add 192.168.0.1/24 dev lan")
        machine.namespace.ip("addr add 192.168.0.2/24 dev eth0", "route add default via 192.168.0.1")
        return machine

    def _plug(self, namespace: Namespace, interface: str, port: str, address: str) -> None:
        namespace.join(interface, self.switch, port)
        self.switch.ip(f"link set dev {port} master switch")
        namespace.ip(f"addr add {address}/24 dev {interface}")

    def pull(self, machine: Machine) -> None:
        """Nothing comes through to the machine, nor from it, and neither it nor the others are told."""
        self.switch.ip(f"link set dev {machine.name} nomaster")

    def push(self, machine: Machine) -> None:
        """And now it does again."""
        self.switch.ip(f"link set dev {machine.name} master switch")

    def account(self, tag: str) -> str:
        """An entry for an account of its own, logged in."""
        login = self.logins[tag] = self.simulator.add_account(tag)
        path = self.folder / f"{tag}.json"
        path.touch(mode=0o600)
        path.write_bytes(login.credentials_document())
        return f"{{tag: {tag}, credential_path: {path}}}"

    async def run(self, *machines: Machine) -> None:
        """Start ccmproxy on all of them, and wait for that."""
        for machine in machines:
            machine.run()
        for machine in machines:
            await machine.up()

    # Looking ----------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds of the reactor."""
        now: float = self.reactor.seconds()
        return now

    async def sleep(self, seconds: float) -> None:
        """Let the others go on for so long."""
        await deferLater(self.reactor, seconds)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = SOON) -> None:
        """Wait for ``condition``; the test fails where it does not become true, and says what all processes said."""
        deadline = self.now + seconds
        while not condition():
            if self.now > deadline:
                self.case.fail(f"not within {seconds:.1f} s: {what}{self._said()}")
            await deferLater(self.reactor, 0.01)

    def _said(self) -> str:
        return "".join(f"\n--- {each.name}\n{each.output[-4000:]}" for each in self.started)

    def served_by(self, prompt: str) -> list[str]:
        """The accounts that turns with these words were sent with, in order."""
        tokens = [
            first_value(turn.headers, b"authorization")
            for turn in self.simulator.requests.of("turn")
            if prompt.encode() in turn.body
        ]
        return [
            tag
            for token in tokens
            for tag, login in self.logins.items()
            if token == f"Bearer {login.access_token}".encode()
        ]

    # The end ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End everything that was started, and check what it said."""
        for caller in self.callers:
            if caller.transport is not None and not caller.broken:
                caller.transport.abortConnection()
        self.simulator.factory.abort_all()
        for running in self.started:
            running.kill(signal.SIGTERM)
        deadline = self.now + 10
        while not all(running.ended for running in self.started):
            if self.now > deadline:
                for running in self.started:
                    running.kill()
            await deferLater(self.reactor, 0.02)
        self.case.assertLess(self.now, deadline, f"had to be killed{self._said()}")
        for running in self.started:
            for word in ("Traceback", "Unhandled"):
                self.case.assertNotIn(word, running.output, running.name)
            for secret in (*TOKENS.values(), *SECRET_PREFIXES):
                # Not assertNotIn: it would print the secret.
                self.case.assertFalse(secret in running.output, f"{running.name} has told a secret")


def started(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    """Begin to do several things at the same time."""
    return Deferred.fromCoroutine(work)
