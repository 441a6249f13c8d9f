"""The real Claude Code CLI and the real Python SDK as programs to test against, where they are installed.

``CCMPROXY_INTEROP_DIR`` (default ``.interop`` in the checkout) holds ``claude-latest`` and ``claude-2.1.90``, each with
a ``node_modules`` folder that has ``@anthropic-ai/claude-code`` of that version in it, and ``sdk``, a virtual
environment with ``anthropic`` in it. What is missing is skipped, with a reason; so is everything where the variable is
set to nothing, for a run of all there is in ``tests`` but this.

Each run has a home folder of its own, talks to the loopback interface alone, and is bounded in time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.source import ROOT

#: Why nothing runs where nothing is to run.
NOT_ASKED_FOR = "the real clients take minutes: make interop runs them"

#: Seconds that one run of a program may take.
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. ``code`` is None where it had to be killed."""

    code: int | None
    output: str
    errors: str

    def json(self) -> dict[str, Any]:
        """The output as one JSON object."""
        decoded = json.loads(self.output)
        assert isinstance(decoded, dict)
        return decoded

    def lines(self) -> list[dict[str, Any]]:
        """The output as one JSON object per line."""
        return [json.loads(line) for line in self.output.splitlines() if line]


def interop_directory() -> Path | None:
    """Where the programs are installed; None where they are not to be run."""
    directory = os.environ.get("CCMPROXY_INTEROP_DIR", str(ROOT / ".interop"))
    return Path(directory).absolute() if directory else None


def claude_command(version: str) -> list[str] | str:
    """How to start a version of the CLI, or a sentence that says why it cannot be started."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    packages = directory / f"claude-{version}" / "node_modules" / "@anthropic-ai"
    script = packages / "claude-code" / "cli.js"
    if script.is_file():
        node = shutil.which("node")
        return [node, str(script)] if node else f"Claude Code {version} needs node"
    for binary in sorted(packages.glob("claude-code-*/claude")):
        if os.access(binary, os.X_OK):
            return [str(binary)]
    return f"Claude Code {version} is not installed in {packages.parent.parent}"


def sdk_command() -> list[str] | str:
    """A Python that has the SDK, or a sentence that says why there is none."""
    directory = interop_directory()
    if directory is None:
        return NOT_ASKED_FOR
    python = directory / "sdk" / "bin" / "python"
    if not python.is_file():
        return f"the Python SDK is not installed in {python.parent.parent}"
    return [str(python)]


def client_environment(home: Path, url: str, **settings: str) -> dict[str, str]:
    """The environment of one run: nothing of ours but the path; no request that is not to ``url``."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "DISABLE_AUTOUPDATER": "1",
        **settings,
    }


class _Program(ProcessProtocol):
    """Collects what a program prints, and kills it when its time is over."""

    def __init__(self, reactor: Any, timeout: float) -> None:
        self.ended: Deferred[Outcome] = Deferred()
        self._output = bytearray()
        self._errors = bytearray()
        self._killed = False
        self._deadline = reactor.callLater(timeout, self._kill)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._output += data

    def errReceived(self, data: bytes) -> None:
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        ending = reason.value
        assert isinstance(ending, ProcessDone | ProcessTerminated)
        code = None if self._killed else ending.exitCode
        self.ended.callback(
            Outcome(code, self._output.decode(errors="replace"), self._errors.decode(errors="replace"))
        )

    def _kill(self) -> None:
        self._killed = True
        assert self.transport is not None
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            pass


async def run_program(
    reactor: Any,
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    seconds: float = TIMEOUT,
) -> Outcome:
    """Run a program to its end, in ``directory``; after so many ``seconds`` it is killed."""
    protocol = _Program(reactor, seconds)
    reactor.spawnProcess(protocol, command[0], list(command), dict(environment), str(directory))
    return await protocol.ended
