"""Processes that are killed in the middle of a refresh: no login that reached the disk is lost (spec 3.2 point 6)."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.runtime import platform
from twisted.trial.unittest import TestCase

from ccmproxy.dialects.claude.account_format import ClaudeAccountFormat
from ccmproxy.dialects.oauth import CredentialFileError, OAuthToken
from ccmproxy.simulator.server import Simulator
from tests.source import ROOT

#: How many processes are killed. More by hand: ``CCMPROXY_KILLS=200 make test-system``.
KILLS = int(os.environ.get("CCMPROXY_KILLS", "50"))
#: A process is killed within this time after it has begun to read the login, or has read it (seconds): two or three
#: refreshes.
LONGEST_LIFE = 0.15
log = Logger()
log = Logger()


class Forking(ProcessProtocol):
    """The process that forks. ``told``: the lines of JSON that the forked ones print; ``errors``: what they write to
    their standard error; ``ended``: fires when it has ended."""

    def __init__(self) -> None:
        self.told: DeferredQueue[dict[str, Any]] = DeferredQueue()
        self.errors = b""
        self.ended: Deferred[None] = Deferred()
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        """Read the lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.told.put(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        """Keep it."""
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """Tell it."""
        self.ended.callback(None)


class KillTests(TestCase):
    """The refresh tokens rotate, and whoever uses an old one is logged out."""

    timeout = 60 + 2 * KILLS
    if platform.isWindows():
        skip = "signals"

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251

        self.reactor: Any = reactor
        seed = random.randrange(1_000_000)
        self.random = random.Random(seed)
        self.seed = f"seed {seed}"
        self.simulator = Simulator(self.reactor, random.Random(1))
        factory: Any = self.simulator.factory
        upstream: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self._stop_simulator, upstream)
        self.directory = os.path.realpath(self.mktemp())
        self.config = os.path.join(self.directory, "config")
        os.makedirs(self.config, 0o700)
        self.path = os.path.join(self.config, ".credentials.json")
        # A token that lasts for less than the margin is due for a refresh at once.
        self.account = self.simulator.add_account(token_lifetime=20.0)
        self.log_in()
        self.process = Forking()
        url = f"http://127.0.0.1:{upstream.getHost().port}/v1/oauth/token"
        self.transport: Any = self.reactor.spawnProcess(
            self.process,
            sys.executable,
            [sys.executable, "-m", "tests.system.refreshing", self.path, url],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.addCleanup(self._end)

    async def _stop_simulator(self, port: Any) -> None:
        await port.stopListening()
        self.simulator.factory.abort_all()
        await self.simulator.factory.drained()

    async def _end(self) -> None:
        if not self.process.ended.called:
            self.transport.signalProcess("KILL")
        await self.process.ended

    def log_in(self) -> None:
        """Log in with the official client, which writes the login."""
        self.account.log_in()
        with open(self.path + ".new", "wb") as file:
            file.write(self.account.credentials_document())
        os.replace(self.path + ".new", self.path)

    async def told(self) -> dict[str, Any]:
        """The next line."""
        facts: dict[str, Any] = await self.process.told.get()
        return facts

    async def begin(self, what: str) -> int:
        """Fork a process, and return its id."""
        self.transport.write(what.encode() + b"\n")
        pid: int = (await self.told())["pid"]
        return pid

    async def end(self) -> dict[str, Any]:
        """Everything that the present process told, when it has ended."""
        facts: dict[str, Any] = {}
        while not facts.get("ended"):
            facts |= await self.told()
        self.assertEqual(self.process.errors, b"")
        return facts

    def newest(self) -> tuple[str, int]:
        """The refresh token of the newest login that is whole on the disk, and how many files lie beside the login."""
        format = ClaudeAccountFormat()
        found = []
        names = os.listdir(self.config)
        for name in names:
            try:
                login = format.parse(Path(self.config, name).read_bytes())
            except CredentialFileError:
                self.assertNotEqual(name, ".credentials.json", f"the login is not whole: {self.seed}")
                continue
            assert isinstance(login, OAuthToken)
            found.append((login.expires_at or 0.0, login.refresh_token or ""))
        return max(found)[1], len(names) - 1

    def age_lock(self) -> None:
        """Let the ten seconds pass after which the lock of a process that was killed is stale."""
        lock = self.config + ".lock"
        if os.path.isdir(lock):
            os.utime(lock, (self.reactor.seconds() - 60,) * 2)

    async def test_whatever_the_moment(self) -> None:
        """The file is whole after each kill, the newest login that reached the disk is the one in use, and no file is
        left behind."""
        recovered = lost = left_files = 0
        for _ in range(KILLS):
            pid = await self.begin("on")
            facts = await self.told() if self.random.random() < 0.8 else {}
            self.assertNotIn("ended", facts, self.process.errors)
            await deferLater(self.reactor, self.random.uniform(0, LONGEST_LIFE))
            os.kill(pid, signal.SIGKILL)
            facts = await self.end()
            self.assertNotIn("problem", facts, self.seed)
            newest, left = self.newest()
            left_files += bool(left)
            self.age_lock()
            is_lost = newest != self.account.refresh_token
            # Half of the time the next process that refreshes finds it like this, and may be killed at that.
            if is_lost or self.random.random() < 0.5:
                recovered += bool(left)
                await self.begin("read")
                facts = await self.end()
                self.assertEqual(facts["refresh_token"], newest, self.seed)
                self.assertEqual(facts["folder"], [".credentials.json"], self.seed)
                self.assertEqual(self.newest(), (newest, 0), self.seed)
            if is_lost:
                # Nobody can help that: it was killed between the answer and the disk.
                lost += 1
                self.log_in()
        await self.begin("once")
        facts = await self.end()
        self.assertNotIn("problem", facts, self.seed)
        self.assertEqual(self.newest(), (self.account.refresh_token, 0))
        self.assertEqual(os.listdir(self.directory), ["config"], self.seed)
        refreshes = self.account.counters.refreshes
        told = f"{refreshes} refreshes, {left_files} files left, {lost} logins lost before the disk"
        self.assertTrue(
            refreshes > KILLS // 4 and left_files and recovered, f"the kills meet no write: {told}"
        )
        log.info("{kills} kills: {told}", kills=KILLS, told=told)
