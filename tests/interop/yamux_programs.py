"""Yamux peers that are not ours as programs to test against, where they are installed, and what is said to them.

``CCMPROXY_INTEROP_DIR`` (see :mod:`tests.interop.claude_cli`) may hold ``yamux/yamux_peer``, built of the Go program in
``yamux_peer/``, and ``yamux-node/node_modules``, what ``yamux_node/peer.mjs`` needs. What is missing is skipped, with a
reason.

Whoever accepts a stream does what the first line on it says, as the comment of ``serveStream`` tells in
``yamux_peer/main.go``; both programs understand it, and :class:`Commands` does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.reverse import StreamTransport, YamuxProtocol
from tests.interop.claude_cli import NOT_ASKED_FOR, Outcome, interop_directory

#: Seconds that one run of a program may take.
TIMEOUT = 60.0


def go_peer() -> list[str] | str:
    """How to start the Go program, or a sentence that says why it cannot be started."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    program = directory / "yamux" / "yamux_peer"
    return [str(program)] if os.access(program, os.X_OK) else f"no {program}: go build makes it of yamux_peer"


def node_peer() -> list[str] | str:
    """How to start the Node program, or a sentence that says why it cannot be started."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    packages = directory / "yamux-node"
    script = packages / "peer.mjs"
    if not script.is_file() or not (packages / "node_modules").is_dir():
        return f"@chainsafe/libp2p-yamux is not installed in {packages}"
    node = shutil.which("node")
    return [node, str(script)] if node else "the peer on libp2p-yamux needs node"


class Program(ProcessProtocol):
    """A program that goes on until it is done, or killed. ``listening``: fires with its port, where it has one."""

    def __init__(self, reactor: Any, command: list[str], directory: Path) -> None:
        self.listening: Deferred[int] = Deferred()
        self.ended: Deferred[Outcome] = Deferred()
        self._output = bytearray()
        self._errors = bytearray()
        self._killed = False
        self._deadline = reactor.callLater(TIMEOUT, self.kill)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory)}
        reactor.spawnProcess(self, command[0], command, environment, str(directory))

    def outReceived(self, data: bytes) -> None:
        self._output += data
        line = self._output.partition(b"\n")[0]
        if line.startswith(b"listening ") and not self.listening.called:
            self.listening.callback(int(line.rpartition(b":")[2]))

    def errReceived(self, data: bytes) -> None:
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        code = None if self._killed else getattr(reason.value, "exitCode", None)
        output, errors = (data.decode(errors="replace") for data in (self._output, self._errors))
        self.ended.callback(Outcome(code, output, errors))

    def signal(self, name: str) -> None:
        """Send it a signal, if it still runs."""
        assert self.transport is not None
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass

    def kill(self) -> None:
        """It has to go now."""
        self._killed = True
        self.signal("KILL")


#: After so many bytes it begins again.
_PATTERN: Final = bytes((at * 7 + (at >> 9)) & 255 for at in range(512 * 256))


def pattern(size: int) -> bytes:
    """The bytes that the programs send as a source."""
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]


@implementer(IHalfCloseableProtocol)
class Commands(Protocol):
    """Does what the first line says."""

    transport: StreamTransport

    def __init__(self, session: Callable[[], YamuxProtocol]) -> None:
        self._session = session
        self._line = b""
        self._command = b""
        self._hash = hashlib.sha256()
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        if not self._command:
            self._line += data
            line, found, data = self._line.partition(b"\n")
            if not found:
                return
            self._begin(line)
        if self._command == b"echo" and data:
            self.transport.write(data)
        self._hash.update(data)
        self._size += len(data)

    def _begin(self, line: bytes) -> None:
        self._command, *arguments = line.split()
        transport = self.transport
        match self._command:
            case b"echo":
                transport.registerProducer(transport, True)  # what is not taken is not read
            case b"source":
                transport.write(pattern(int(arguments[0])))
                transport.loseConnection()
            case b"hold":
                transport.pauseProducing()
            case b"goaway":
                self._session().close()
                self._answer(b"gone")
            case b"ping":
                self._session().ping().addCallback(lambda _: self._answer(b"pong"))

    def _answer(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        if self._command == b"sink":
            self._answer(b"%d %b" % (self._size, self._hash.hexdigest().encode()))
        else:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing more is said."""


class Building(Factory):
    """Builds what it is told to."""

    noisy = False

    def __init__(self, build: Callable[[], Protocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Protocol:
        return self._build()


def commands(session: Callable[[], YamuxProtocol]) -> Factory:
    """A factory for the streams that the peer opens."""
    return Building(lambda: Commands(session))


@implementer(IHalfCloseableProtocol)
class Question(Protocol):
    """Says a line, then data, and keeps what comes."""

    transport: StreamTransport

    def __init__(self, command: bytes, data: bytes, end: bool) -> None:
        self._said = command + b"\n" + data
        self._end = end
        self._waiting: list[tuple[int, Deferred[bytes]]] = []
        self.received = bytearray()
        self._outcome: bytes | Failure | None = None
        self._asking: list[Deferred[bytes]] = []

    @property
    def ended(self) -> Deferred[bytes]:
        """Fires with all that came, when the peer has ended; fails with how it broke off."""
        asking: Deferred[bytes] = Deferred()
        self._asking.append(asking)
        self._tell()
        return asking

    def _tell(self) -> None:
        if self._outcome is not None:
            while self._asking:
                self._asking.pop().callback(self._outcome)

    def connectionMade(self) -> None:
        self.transport.write(self._said)
        if self._end:
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        while self._waiting and len(self.received) >= self._waiting[0][0]:
            self._waiting.pop(0)[1].callback(bytes(self.received))

    def until(self, size: int) -> Deferred[bytes]:
        """Fires with all that has come, when that is so many bytes."""
        waiting: Deferred[bytes] = Deferred()
        self._waiting.append((size, waiting))
        self.dataReceived(b"")
        return waiting

    def readConnectionLost(self) -> None:
        self._outcome = bytes(self.received)
        self._tell()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing more is said."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self._outcome is None:
            self._outcome = reason
            self._tell()


async def ask(session: YamuxProtocol, command: str, data: bytes = b"", *, end: bool = False) -> Question:
    """Open a stream and say that. ``end``: and nothing more."""
    question = Question(command.encode(), data, end)
    await session.open(Building(lambda: question))
    return question
