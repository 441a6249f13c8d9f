"""What happens to the daemons while they serve: reloads, kills, a clock that is set, a full disk, refused tokens."""

from __future__ import annotations

import errno
import glob
import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.soak.daemon_process import DaemonProcess, pause
from bench.soak.judging import DISK_FULL, KILLED
from bench.soak.outcomes import Event
from ccmproxy.simulator.server import Simulator

#: Seconds between reloads, between kills of the lender, and so on; each begins after its own first wait.
RELOADS = (20.0, 60.0)
KILLS = (45.0, 180.0)
CLOCKS = (75.0, 150.0)
DISKS = (100.0, 600.0)
ENDPOINT_FAULTS = (15.0, 40.0)
#: For so long the clock is wrong, and the disk full (seconds).
WRONG_TIME = 40.0
FULL_TIME = 60.0
#: So long a killed lender is away (seconds), at least and at most.
_AWAY = (0.0, 20.0)
#: How the clock is set; between these it is right again.
_JUMPS = ("-3h", "+20h", "-40m", "+90m")
#: Faults of the token and usage endpoints: answers only. A login whose new tokens are lost on the way is lost by the
#: provider's rules, which would say nothing about the daemon.
_ENDPOINT_FAULTS = ("unavailable", "rate_limited;retry_after=5", "server_error", "nonsense", "html", "empty")

#: Variable that is set in a process with a mount namespace of its own.
IN_NAMESPACE = "CCMPROXY_SOAK_NAMESPACE"
_DISK_SIZE = "256k"


def faketime_environment(file: Path) -> dict[str, str] | None:
    """Return the environment in which a program takes its time of day from ``file``, None without libfaketime.

    Only the time of day: its monotonic clock and the times of files stay the machine's.
    """
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        return None
    file.write_text("+0\n")
    return {
        "LD_PRELOAD": libraries[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def mount_small_disk(directory: Path) -> str | None:
    """Mount a small file system in memory at ``directory``. Returns None, or why that is not possible.

    It is mounted in a mount namespace of this process alone, with which it ends.
    """
    if not os.environ.get(IN_NAMESPACE):
        return "no mount namespace of its own can be had"
    directory.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_SIZE},mode=700", "soak", str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        return f"cannot mount: {str(said).strip()}"
    return None


class Disturbances:
    """``events``: what has happened so far. ``counts``: how often. ``failures``: what a daemon did not do in time."""

    def __init__(
        self,
        reactor: Any,
        rng: random.Random,
        now: Callable[[], float],
        daemon: DaemonProcess,
        lender: DaemonProcess,
        simulator: Simulator,
        clock_file: Path | None,
        disk: Path | None,
    ) -> None:
        """``clock_file``: where the daemon takes its time from; ``disk``: a small disk. None: not to be had."""
        self._reactor = reactor
        self._rng = rng
        self._now = now
        self._daemon = daemon
        self._lender = lender
        self._simulator = simulator
        self._clock_file = clock_file
        self._disk = disk
        self.events: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.is_over = False

    def loops(self) -> list[Any]:
        """Return the coroutines that disturb, each until the run is over."""
        found = [
            self._repeat(*RELOADS, self._reload),
            self._repeat(*KILLS, self._kill),
            self._repeat(*ENDPOINT_FAULTS, self._refuse_at_endpoint),
        ]
        if self._clock_file is not None:
            found.append(self._repeat(*CLOCKS, self._set_clock))
        if self._disk is not None:
            found.append(self._repeat(*DISKS, self._fill_disk))
        return found

    async def _repeat(self, first: float, period: float, disturb: Callable[[], Any]) -> None:
        due = self._now() + first
        while not self.is_over:
            await self._while_running(due - self._now())
            if not self.is_over:
                await disturb()
                due = max(due + period, self._now() + 1.0)

    async def _while_running(self, seconds: float) -> None:
        """Wait for so long, or until the run is over."""
        until = self._now() + seconds
        while not self.is_over and self._now() < until:
            await pause(self._reactor, 0.5)

    def _begin(self, name: str) -> Event:
        event = Event(name, self._now(), float("inf"))
        self.events.append(event)
        return event

    def _end(self, event: Event) -> None:
        self.events[self.events.index(event)] = Event(event.name, event.began, self._now(), event.service)

    async def _reload(self) -> None:
        self.counts["reloads"] += 1
        if not await self._daemon.reload():
            self.failures.append(f"reload {self._daemon.variant} was not confirmed in time")

    async def _kill(self) -> None:
        self.counts["kills of the lender"] += 1
        event = self._begin(KILLED)
        await self._lender.kill()
        await pause(self._reactor, self._rng.uniform(*_AWAY))
        await self._lender.start("listens on")
        # Both services dial at once; the second one comes within the same second, or is found missing by the judge.
        if not await self._lender.await_words("reverse connection is up", 30.0):
            self.failures.append("a lender that was started again had no reverse connection within 30 s")
        await pause(self._reactor, 2.0)
        self._end(event)

    async def _set_clock(self) -> None:
        assert self._clock_file is not None
        ahead = _JUMPS[self.counts["clocks set"] % len(_JUMPS)]
        self.counts["clocks set"] += 1
        self._clock_file.write_text(f"{ahead}\n")
        await self._while_running(WRONG_TIME)
        self._clock_file.write_text("+0\n")

    async def _fill_disk(self) -> None:
        assert self._disk is not None
        self.counts["full disks"] += 1
        filler = self._disk / "filler"
        event = self._begin(DISK_FULL)
        fill(filler)
        await self._while_running(FULL_TIME)
        filler.unlink(missing_ok=True)
        self._end(event)

    async def _refuse_at_endpoint(self) -> None:
        rng = self._rng
        self.counts["refusals of token and usage endpoints"] += 1
        endpoint = rng.choice(("token", "token", "usage"))
        if endpoint == "token":
            self._simulator.faults.next(
                rng.choice(_ENDPOINT_FAULTS), endpoint="token", times=rng.randint(1, 2)
            )
        else:
            self._simulator.faults.next(rng.choice(_ENDPOINT_FAULTS), endpoint="usage")


def fill(file: Path) -> None:
    """Write to ``file`` until its disk is full. Raises OSError for another reason."""
    size = 4096
    with file.open("wb", buffering=0) as filler:
        while size:
            try:
                filler.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
