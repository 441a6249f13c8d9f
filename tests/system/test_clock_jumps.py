"""The daemon, and a program that embeds the service, while the clock of the machine is set (spec 11, F65).

libfaketime lies to the child about the time of day, and about nothing else: its monotonic clock and its sockets are the
machine's. Without a monotonic clock of our own, nothing below would happen before the clock has caught up.
"""

from __future__ import annotations

import glob
import time
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.conversation import TOKEN, message_request
from tests.system.test_daemon import TWISTD, DaemonCase, Process

#: The library for programs with threads, where Debian's package faketime has it.
LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")

#: Every time-out is 2 to 3 s, and there is a remote to dial again and again.
CONFIGURATION = """
services:
  - type: ccm
    listen_port: {port}
    users:
      - {{name: alice, token: {token}, credential: own}}
    credentials:
      - {{tag: own, type: default, credential_path: {login}}}
      - {{tag: friend, type: external, url: "{remote}", token: a-token-of-the-remote, reverse: true}}
    upstream:
      api_url: {upstream}
      token_url: {upstream}/v1/oauth/token
      usage_url: {upstream}/api/oauth/usage
      profile_url: {upstream}/api/oauth/profile
      first_byte_timeout: 3s
      idle_timeout: 3s
    head_timeout: 2s
    body_timeout: 2s
    keepalive_timeout: 2s
    ping_interval: 1s
"""

#: A program that embeds the service, on a reactor that it leaves as it is.
EMBEDDING = """
import sys
from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver
from ccmproxy import loadConfig, makeService
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
makeService(loadConfig(sys.argv[1]), reactor).startService()
reactor.run()
"""

#: Prints what the reactor's clock differs by from the monotonic one, once twistd has made the service.
REACTOR = """
import sys, time
from ccmproxy.root.tap import Options, makeService
options = Options()
options.parseOptions(["-c", sys.argv[1]])
options.parent = None
makeService(options)
from twisted.internet import reactor
print(reactor.seconds() - time.monotonic())
"""

#: Seconds that a time-out may be late: it is looked for once a second, and the machine may be busy.
LATE = 8.0


class Connection(Protocol):
    """A client. ``received``: what has come; ``lost``: fires when the connection is over."""

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Note it."""
        self.is_lost = True


class Remote(Factory):
    """A remote that hangs up at once. ``dialled``: how often it was dialled."""

    noisy = False

    def __init__(self) -> None:
        self.dialled = 0

    def buildProtocol(self, addr: IAddress | None) -> None:
        """Refuse it."""
        self.dialled += 1


class ClockJumpTests(DaemonCase):
    """The clock is set while every kind of timer is pending."""

    timeout = 120
    if not LIBRARIES:
        skip = "libfaketime is not installed (Debian: faketime)"

    def set_clock(self, ahead: str) -> None:
        """Set the child's clock to so much ahead of ours."""
        Path(self.directory, "ahead").write_text(ahead + "\n")

    def run_in_false_time(self, *arguments: str) -> Process:
        """Python, with a clock that :meth:`set_clock` sets."""
        self.set_clock("+0")
        return self.run_python(
            *arguments,
            LD_PRELOAD=LIBRARIES[0],
            FAKETIME_TIMESTAMP_FILE=str(Path(self.directory, "ahead")),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            DONT_FAKE_MONOTONIC="1",
            NO_FAKE_STAT="1",
        )

    async def connect(self, port: int, data: bytes) -> Connection:
        """A client that sends ``data``."""
        endpoint = HostnameEndpoint(self.reactor, "127.0.0.1", port)
        connected = await endpoint.connect(Factory.forProtocol(Connection))
        assert isinstance(connected, Connection)
        transport: Any = connected.transport
        transport.write(data)
        self.addCleanup(transport.abortConnection)
        return connected

    async def soon(self, what: str, condition: Any, seconds: float, process: Process) -> None:
        """Wait for the condition; fails if it does not hold in time."""
        began = time.monotonic()
        while not condition():
            self.assertFalse(process.ended.called, process.output + process.errors)
            late = time.monotonic() - began
            self.assertLess(late, seconds, f"{what}\n{process.output[-3000:]}")
            await deferLater(self.reactor, 0.02)

    async def started(self, *command: str) -> tuple[Process, int, Remote]:
        """The program with a remote."""
        remote = Remote()
        listening = self.reactor.listenTCP(0, remote, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        port = await self.free_port()
        self.write(
            CONFIGURATION.format(
                port=port,
                token=TOKEN,
                login=self.login,
                remote=f"http://127.0.0.1:{listening.getHost().port}",
                upstream=self.upstream,
            )
        )
        process = self.run_in_false_time(*command, self.file)
        await self.until(lambda: f"listens on 127.0.0.1:{port}" in process.output, process)
        await self.until(lambda: self.polls and remote.dialled, process)
        return process, port, remote

    @property
    def polls(self) -> int:
        """How often the usage has been polled."""
        return len(self.simulator.requests.of("usage"))

    async def jump(self, ahead: str, process: Process, port: int, remote: Remote) -> None:
        """Set the clock while all timers are pending, and see every one of them fire."""
        idle = await self.connect(port, message_request())
        hanging = await self.connect(port, message_request("[[simulate:hang]]"))
        stalled = await self.connect(port, message_request("[[simulate:stall;at=mid]]", stream=True))
        await self.until(lambda: b"200 OK" in idle.received and b"200 OK" in stalled.received, process)
        head = await self.connect(port, b"POST /v1/messages HTTP/1.1\r\nHost: ")
        body = await self.connect(port, message_request().partition(b"\r\n\r\n")[0] + b"\r\n\r\n{")
        await deferLater(self.reactor, 0.5)
        polls, dialled, signs = self.polls, remote.dialled, stalled.received.count(b"event: ping")
        said = len(process.output)
        self.set_clock(ahead)
        await self.soon("notice", lambda: "clock was set" in process.output[said:], LATE, process)
        await self.soon("poll", lambda: self.polls > polls, LATE, process)
        await self.soon("request head", lambda: head.is_lost, 2 + LATE, process)
        await self.soon("request body", lambda: b" 408 " in body.received, 2 + LATE, process)
        await self.soon("keep-alive", lambda: idle.is_lost, 2 + LATE, process)
        await self.soon("first byte", lambda: b" 504 " in hanging.received, 3 + LATE, process)
        await self.soon("idle upstream", lambda: stalled.is_lost, 3 + LATE, process)
        self.assertGreater(stalled.received.count(b"event: ping"), signs, "no sign of life")
        await self.soon("redial", lambda: remote.dialled > dialled, 20 + LATE, process)
        answered = await self.connect(port, message_request())
        await self.soon("a request", lambda: b"200 OK" in answered.received, LATE, process)

    async def jumps(self, *command: str) -> None:
        """Set the clock back, and forward, in one life of a program."""
        process, port, remote = await self.started(*command)
        for ahead in ("-3h", "+20h"):
            await self.jump(ahead, process, port, remote)
        self.assertNotIn("held up", process.output, "a jump is no lag")
        self.assertNotIn("Traceback", process.output + process.errors)
        self.assertNotIn(TOKEN, process.output + process.errors)

    async def test_the_reactor_of_the_daemon(self) -> None:
        """It does not know the time of day, so that what Twisted times by itself is right as well."""
        port = await self.free_port()
        self.configure(port)
        process = self.run_in_false_time("-c", REACTOR, self.file)
        self.assertEqual(await process.ended, 0, process.errors)
        self.assertLess(abs(float(process.output)), 10)

    async def test_the_daemon(self) -> None:
        await self.jumps("-c", TWISTD, "--nodaemon", "--pidfile=", "ccmproxy", "-c")

    async def test_a_program_that_embeds_the_service(self) -> None:
        """Its reactor goes on with the time of day, and is as late as that; the service is not."""
        await self.jumps("-c", EMBEDDING)
