"""The plugin for twistd: in a process of its own, as it runs in production."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.python.runtime import platform
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent

from ccmproxy.simulator.server import Simulator
from ccmproxy.simulator.steps import Pace
from tests.conversation import CONFIGURATION, TOKEN
from tests.source import ROOT

#: twistd without its script, which need not be installed where the tests run.
TWISTD = "from twisted.scripts.twistd import run; run()"


class Process(ProcessProtocol):
    """A child. ``output``, ``errors``: what it wrote; ``ended``: fires with its exit code, negative for a signal."""

    def __init__(self) -> None:
        self.output = ""
        self.errors = ""
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """Keep it."""
        self.output += data.decode()

    def errReceived(self, data: bytes) -> None:
        """Keep it."""
        self.errors += data.decode()

    def processEnded(self, reason: Failure) -> None:
        """Tell how."""
        error = reason.value
        assert isinstance(error, ProcessDone | ProcessTerminated)
        self.ended.callback(error.exitCode if error.signal is None else -error.signal)


class DaemonCase(TestCase):
    """A child process with the simulator, which runs in this one, as its upstream."""

    timeout = 30
    if platform.isWindows():
        skip = "signals"

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251

        self.reactor: Any = reactor
        self.simulator = Simulator(self.reactor, random.Random(1), pace=Pace(first=0.05, each=0.02))
        factory: Any = self.simulator.factory
        upstream: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self._stop_simulator, upstream)
        self.upstream = f"http://127.0.0.1:{upstream.getHost().port}"
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.login = os.path.join(self.directory, "login.json")
        Path(self.login).write_bytes(self.simulator.add_account().credentials_document())
        os.chmod(self.login, 0o600)
        self.file = os.path.join(self.directory, "ccmproxy.yaml")

    async def _stop_simulator(self, port: Any) -> None:
        await port.stopListening()
        self.simulator.factory.abort_all()
        await self.simulator.factory.drained()

    def configure(self, port: int | str, *, token: str = TOKEN, more: str = "") -> None:
        """Write the configuration file."""
        text = CONFIGURATION.replace("listen_port: 8080", f"listen_port: {port}")
        text = text.replace("http://127.0.0.1:9000", self.upstream)
        self.write(text.format(path=self.login, token=token, more=more))

    def write(self, text: str) -> None:
        """Write it as it is."""
        Path(self.file).write_text(text)
        os.chmod(self.file, 0o600)

    async def free_port(self) -> int:
        """A port that nobody listens on now."""
        from twisted.internet.protocol import Factory

        port = self.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        number: int = port.getHost().port
        await port.stopListening()
        return number

    def run_twistd(self, *arguments: str) -> Process:
        """twistd in the foreground, with ccmproxy."""
        return self.run_python("-c", TWISTD, "--nodaemon", "--pidfile=", "ccmproxy", *arguments)

    def run_python(self, *arguments: str, **environment: str) -> Process:
        """Python, with this project and further variables in its ``environment``."""
        process = Process()
        python_path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        transport = self.reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            path=self.directory,
        )

        async def end() -> None:
            if not process.ended.called:
                transport.signalProcess("KILL")
            try:
                await process.ended
            except CancelledError:
                pass

        self.addCleanup(end)
        return process

    async def until(self, condition: Any, process: Process) -> None:
        """Wait; fails with what the process said if it ended."""
        while not condition():
            self.assertFalse(process.ended.called, process.output + process.errors)
            await deferLater(self.reactor, 0.01)

    async def post(self, port: int, token: str = TOKEN) -> Any:
        """Begin a streamed turn; the response, when its head is there."""
        headers: Any = {"Authorization": f"Bearer {token}", "anthropic-version": "2023-06-01"}
        body = (
            b'{"model":"claude-opus-4-5","max_tokens":50,"stream":true,'
            b'"messages":[{"role":"user","content":"[[tokens:30]]"}]}'
        )
        return await treq.post(
            f"http://127.0.0.1:{port}/v1/messages",
            data=body,
            headers=headers,
            agent=Agent(self.reactor),
            unbuffered=True,
        )


class DaemonTests(DaemonCase):
    """What starts, stops and reloads it."""

    async def test_a_bad_configuration(self) -> None:
        """Exit status 1, every error on standard error, nothing started."""
        self.configure(0, more="    bogus: 1\n    users_: []")
        process = self.run_twistd("-c", self.file)
        self.assertEqual(await process.ended, 1)
        self.assertIn("bogus", process.errors)
        self.assertIn("users_", process.errors)
        self.assertNotIn("Traceback", process.errors)
        self.assertNotIn(TOKEN, process.errors + process.output)
        self.assertEqual(self.simulator.received, 0)

    async def test_a_taken_port(self) -> None:
        """Exit status 1, and the address in what it says."""
        from twisted.internet.protocol import Factory

        taken = self.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        self.configure(port)
        process = self.run_twistd("-c", self.file)
        self.assertEqual(await process.ended, 1)
        said = process.output + process.errors
        self.assertIn(f"cannot listen on 127.0.0.1:{port}", said)
        self.assertNotIn(TOKEN, said)

    async def test_a_certificate_that_cannot_be_read(self) -> None:
        """Exit status 1, and a sentence instead of a traceback."""
        self.configure(await self.free_port(), more="      ca_path: missing.pem")
        process = self.run_twistd("-c", self.file)
        self.assertEqual(await process.ended, 1)
        self.assertIn("missing.pem", process.errors)
        self.assertNotIn("Traceback", process.output + process.errors)

    async def test_its_life(self) -> None:
        """Start, SIGHUP with a bad and with a good file while a stream runs, SIGTERM while a stream runs.

        Once everything has ended in order twistd dies of the signal that ended it, as its users expect.
        """
        port = await self.free_port()
        self.configure(port)
        process = self.run_twistd("-c", self.file)
        await self.until(lambda: f"listens on 127.0.0.1:{port}" in process.output, process)
        stream = await self.post(port)
        self.assertEqual(stream.code, 200)

        self.write("services: [{type: nonsense}]")
        self._signal(process, signal.SIGHUP)
        await self.until(lambda: "configuration not reloaded" in process.output, process)
        self.assertEqual((await self.post(port, "wrong")).code, 401)

        self.configure(port, token="another-token-0815", more="log: {level: debug, format: json}")
        self._signal(process, signal.SIGHUP)
        await self.until(lambda: "configuration reloaded" in process.output, process)
        self.assertIn("takes effect at the next start", process.output)
        self.assertIn(b"event: message_stop", await stream.content())
        self.assertEqual((await self.post(port)).code, 401)

        last = await self.post(port, "another-token-0815")
        self.assertEqual(last.code, 200)
        self._signal(process, signal.SIGTERM)
        content = await last.content()
        self.assertIn(b"event: message_stop", content)
        self.assertIn(await process.ended, (0, -signal.SIGTERM), process.output + process.errors)
        self.assertIn("Server Shut Down", process.output)
        for secret in (TOKEN, "another-token-0815", *self.simulator_secrets()):
            self.assertNotIn(secret, process.output + process.errors)
        self.assertEqual(process.errors, "")

    def simulator_secrets(self) -> list[str]:
        """Tokens of the account."""
        account = self.simulator.claude.accounts[0]
        return [account.access_token, account.refresh_token]

    def _signal(self, process: Process, number: int) -> None:
        transport: Any = process.transport
        transport.signalProcess(number)
