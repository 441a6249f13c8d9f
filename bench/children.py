"""Processes that the driver starts, each on its own core; they end with the driver, however it ends."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO


class ChildFailed(Exception):
    """A child did not start, ended early, or did not print what was expected; the message holds the end of its log."""


def pause(seconds: float) -> None:
    """Sleep."""
    select.select([], [], [], seconds)


class Child(AbstractContextManager["Child"]):
    """A running program, pinned to ``core``. Its standard error, and its output unless ``talks``, go to ``log``.

    The child has its own session, so that Ctrl-C reaches the driver alone, which then ends its children in order; the
    kernel sends the child SIGTERM if the driver is killed.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        core: int,
        log: Path,
        talks: bool = False,
        environment: Mapping[str, str] | None = None,
        nice: int = 0,
    ) -> None:
        self._log = log
        prefix = ["nice", "-n", str(nice)] if nice else []
        prefix += ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core)]
        command = [*prefix, *map(str, arguments)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self._process.pid
        if nice:
            # The kernel schedules sessions as groups, each with its own nice value (sched(7), autogroup).
            with suppress(OSError):
                Path(f"/proc/{self.pid}/autogroup").write_text(str(nice))
        self._received = b""

    def await_port(self, port: int, timeout: float = 20.0) -> None:
        """Wait until the child accepts connections on ``port`` of the loopback address."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._failure("ended")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                pause(0.02)
        raise self._failure(f"did not listen within {timeout:.0f} s")

    def read_line(self, timeout: float = 60.0) -> str:
        """The next line of the child's output, without the line end."""
        output = _pipe(self._process.stdout)
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failure(f"said nothing for {timeout:.0f} s")
            data = os.read(output.fileno(), 65536)
            if not data:
                self._process.wait(5)
                raise self._failure("ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def proceed(self) -> None:
        """Send the child an empty line, the signal to go on."""
        try:
            os.write(_pipe(self._process.stdin).fileno(), b"\n")
        except BrokenPipeError:
            raise self._failure("ended") from None

    def ask_to_end(self) -> None:
        """Ask the child to end, without waiting, so that its last output can still be read."""
        self._process.terminate()

    def stop(self) -> None:
        """End the child: with SIGTERM, and after 5 s with SIGKILL."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _failure(self, what: str) -> ChildFailed:
        try:
            tail = self._log.read_text(errors="replace")[-600:].strip()
        except OSError:
            tail = ""
        return ChildFailed(f"{self._log.stem} {what}{': ' + tail if tail else ''}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "only for a child that talks"
    return pipe
