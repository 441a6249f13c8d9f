"""What runs on a machine of a lab: clients, and processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.python.failure import Failure

from tests.conversation import Client, Response


class Caller(Client):
    """A client on a real connection. ``asked``: what it sends; ``began``, ``first`` and ``ended``: when it did so, when
    the first byte came, and when the answer was whole or broke off (seconds of the reactor)."""

    transport: Any
    first: float | None = None
    ended: float | None = None

    def __init__(self, reactor: Any, asked: bytes, is_reading: bool = True) -> None:
        super().__init__()
        self._reactor = reactor
        self._asked = asked
        self._is_reading = is_reading
        self.began: float = reactor.seconds()

    def connectionMade(self) -> None:
        if not self._is_reading:
            self.transport.pauseProducing()
        self.transport.write(self._asked)

    def dataReceived(self, data: bytes) -> None:
        """Keep it; an answer in chunks ends with an empty one, others are looked at."""
        super().dataReceived(data)
        if self.first is None:
            self.first = self._reactor.seconds()
        if self.received.endswith(b"\r\n0\r\n\r\n") or (len(self.received) < 65536 and self._is_whole()):
            self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._end()

    def read_on(self) -> None:
        """Read what it did not want to read before."""
        self.transport.resumeProducing()

    def _is_whole(self) -> bool:
        return any(response.complete for response in self.responses())

    def _end(self) -> None:
        if self.ended is None:
            self.ended = self._reactor.seconds()

    @property
    def is_over(self) -> bool:
        """The answer is whole, or broke off."""
        return self.ended is not None

    @property
    def seconds(self) -> float:
        """How long it took."""
        assert self.ended is not None
        return self.ended - self.began

    @property
    def response(self) -> Response:
        """The answer, as far as it came; status 0 where nothing did."""
        responses = self.responses()
        return responses[0] if responses else Response()

    @property
    def text(self) -> str:
        """What is readable of it."""
        return self.response.body.decode("utf-8", "replace")


class Running(ProcessProtocol):
    """A process on a machine. ``output``: all that it printed; ``ended``: it has."""

    transport: Any

    def __init__(self, name: str) -> None:
        self.name = name
        self.output = ""
        self.ended = False

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep it."""
        self.output += data.decode("utf-8", "replace")

    def processEnded(self, reason: Failure) -> None:
        """It has."""
        self.ended = True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it is there."""
        try:
            self.transport.signalProcess(number)
        except ProcessExitedAlready:
            pass

    @property
    def memory(self) -> int:
        """Bytes that it has in memory now."""
        (line,) = (
            line
            for line in Path(f"/proc/{self.transport.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        )
        return int(line.split()[1]) * 1024

    @property
    def cpu(self) -> float:
        """Seconds of a processor that it has used so far."""
        fields = Path(f"/proc/{self.transport.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lines(self, words: str) -> list[str]:
        """Lines of its output with these words in them."""
        return [line for line in self.output.splitlines() if words in line]
