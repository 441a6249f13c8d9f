"""One daemon in a process of its own: started, told to reload, killed, started again, measured, and ended."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

_ROOT = Path(__file__).parents[2]
_TWISTD = "from twisted.scripts.twistd import run; run()"
#: Seconds after SIGTERM after which a daemon is killed.
_GRACE = 15.0


class DaemonFailed(Exception):
    """A daemon did not start, or ended by itself; the message holds the end of its log."""


class _Output(ProcessProtocol):
    """Writes what the child says to its log, and looks for what somebody waits for."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._waiting: list[tuple[bytes, Deferred[bool]]] = []
        self._end = b""
        self.ended: Deferred[None] = Deferred()
        self.is_over = False

    def expect(self, words: str) -> Deferred[bool]:
        """Fires with True when the child says these words, with False when it ends before."""
        waiting: Deferred[bool] = Deferred(lambda waiting: self._forget(waiting))
        if self.is_over:
            waiting.callback(False)
        else:
            self._waiting.append((words.encode(), waiting))
        return waiting

    def _forget(self, waiting: Deferred[bool]) -> None:
        self._waiting = [each for each in self._waiting if each[1] is not waiting]
        waiting.callback(False)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        text = self._end + data
        self._end = text[-200:]
        for words, waiting in [each for each in self._waiting if each[0] in text]:
            self._waiting.remove((words, waiting))
            self._end = b""
            waiting.callback(True)

    def processEnded(self, reason: Failure) -> None:
        self.is_over = True
        self._log.close()
        waiting, self._waiting = self._waiting, []
        for _, each in waiting:
            each.callback(False)
        self.ended.callback(None)


class DaemonProcess:
    """``name``: of the log file. ``is_wanted``: it was started, and nobody has ended it."""

    def __init__(
        self,
        name: str,
        directory: Path,
        configuration: Callable[[int], str],
        reactor: Any,
        environment: Mapping[str, str],
    ) -> None:
        """``configuration``: makes the text of a variant. ``environment``: added to that of this process."""
        self.name = name
        self.log = directory / f"{name}.log"
        self.is_wanted = False
        self.variant = 0
        self._file = directory / f"{name}.yaml"
        self._directory = directory
        self._configuration = configuration
        self._reactor = reactor
        self._environment = environment
        self._output: _Output | None = None
        self._transport: Any = None

    @property
    def pid(self) -> int | None:
        """The process, or None if there is none."""
        return None if self._output is None or self._output.is_over else self._transport.pid

    async def start(self, ready: str, patience: float = 30.0) -> None:
        """Start it, and wait until it says ``ready``, ``patience`` seconds at most. Raises DaemonFailed."""
        self._write()
        self._output = output = _Output(self.log)
        told = output.expect(ready)
        python_path = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
        command = [
            sys.executable,
            "-c",
            _TWISTD,
            "--nodaemon",
            "--pidfile=",
            "ccmproxy",
            "-c",
            str(self._file),
        ]
        if (setpriv := shutil.which("setpriv")) is not None:
            command = [setpriv, "--pdeathsig", "KILL", *command]  # it ends with the driver, however that ends
        self._transport = self._reactor.spawnProcess(
            output,
            command[0],
            command,
            env={
                **os.environ,
                "PYTHONPATH": python_path,
                "PYTHONDONTWRITEBYTECODE": "1",
                **self._environment,
            },
            path=str(self._directory),
        )
        self.is_wanted = True
        if not await self._within(patience, told):
            raise DaemonFailed(f"{self.name} did not start: {self._tail()}")

    def _write(self) -> None:
        self._file.touch(mode=0o600)
        self._file.write_text(self._configuration(self.variant))

    async def reload(self, patience: float = 20.0) -> bool:
        """Let it take the next variant of its configuration. Whether it says that it has."""
        if self._output is None or self._output.is_over:
            return False
        self.variant += 1
        self._write()
        told = self._output.expect("configuration reloaded")
        self._signal(signal.SIGHUP)
        return await self._within(patience, told)

    def await_words(self, words: str, patience: float) -> Deferred[bool]:
        """Return a Deferred that fires with whether the daemon says these words in time."""
        assert self._output is not None
        return Deferred.fromCoroutine(self._within(patience, self._output.expect(words)))

    async def kill(self) -> None:
        """End it by SIGKILL."""
        self.is_wanted = False
        self._signal(signal.SIGKILL)
        if self._output is not None:
            await self._output.ended

    async def stop(self) -> bool:
        """End it by SIGTERM, or after a while by SIGKILL. Whether SIGTERM was enough."""
        self.is_wanted = False
        if self._output is None or self._output.is_over:
            return True
        timer = self._reactor.callLater(_GRACE, self._signal, signal.SIGKILL)
        self._signal(signal.SIGTERM)
        await self._output.ended
        if timer.active():
            timer.cancel()
            return True
        return False

    def kill_now(self) -> None:
        """End it by SIGKILL, without waiting: the last resort."""
        self.is_wanted = False
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            self._transport.signalProcess(number)

    async def _within(self, patience: float, told: Deferred[bool]) -> bool:
        timer = self._reactor.callLater(patience, told.cancel)
        try:
            return await told
        finally:
            if timer.active():
                timer.cancel()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    # Measuring

    def figures(self) -> tuple[float, float, float] | None:
        """Return resident memory in MiB, open descriptors and threads, or None if there is no process."""
        pid = self.pid
        if pid is None:
            return None
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return None
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in fields:
            return None
        return int(fields["VmRSS"].split()[0]) / 1024, float(descriptors), float(fields["Threads"])


async def pause(reactor: Any, seconds: float) -> None:
    """Wait."""
    await deferLater(reactor, seconds)
