"""One run: the simulator and the clients in this process, the daemons in theirs, and a judgement of every request."""

from __future__ import annotations

import random
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint

from bench.machine import free_port
from bench.soak import configurations, disturbances
from bench.soak.configurations import Places
from bench.soak.daemon_process import DaemonProcess, pause
from bench.soak.disturbances import Disturbances
from bench.soak.http_client import PATIENCE, HTTPClient
from bench.soak.judging import AFTERMATH, Scene, judge
from bench.soak.logs import LogFindings, look_through
from bench.soak.outcomes import Event, Outcome
from bench.soak.requests import CANARY, Requests
from bench.soak.slopes import trend
from bench.soak.summary import BOUNDS, Row, Tally, rows
from bench.soak.upstream import Upstream, consequences, make_upstream
from bench.soak.websocket_client import converse

#: Clients at a time: with their pauses they make 200 to 300 requests a minute.
CLIENTS = 16
#: Seconds between the end of a request and its judgement, in which the simulator learns of it.
_SETTLES = 12.0
_SAMPLES = 5.0
_USERS = ("alice", "bob", "carol", "borrower", "extra", "lender", "nobody")


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds``: of load. ``without``: names of disturbances to leave out (``clock``, ``disk``)."""

    seconds: float
    seed: int
    directory: Path
    without: frozenset[str] = frozenset()
    say: Callable[[str], None] = print


class Soak:
    """One run. ``tally``: of the requests that were judged so far. ``samples``: figure → (seconds, value) pairs."""

    def __init__(self, reactor: Any, options: Options) -> None:
        self._reactor = reactor
        self._options = options
        self._now = time.monotonic
        self._began = self._now()
        self.tally = Tally()
        self._upstream: Upstream = make_upstream(reactor, options.seed, self._now)
        self._to_judge: deque[Outcome] = deque()
        self._consequences: list[Event] = []
        self.samples: dict[str, list[tuple[float, float]]] = {name: [] for name in BOUNDS}
        self._is_loading = True
        self._left_out: dict[str, str] = {}
        self._judged: set[str] = set()
        self._processes: list[DaemonProcess] = []
        self._disturbances: Disturbances | None = None

    # Setting up

    async def _set_up(self, url: str) -> None:
        directory, reactor = self._options.directory, self._reactor
        disk = self._small_disk(directory / "disk")
        self._places = places = self._make_places(url, disk)
        clock_file = directory / "clock"
        environment = self._clock_environment(clock_file)
        self._daemon = DaemonProcess(
            "daemon",
            directory,
            lambda variant: configurations.daemon(places, variant),
            reactor,
            environment,
        )
        self._lender = DaemonProcess(
            "lender", directory, lambda _: configurations.lender(places), reactor, {}
        )
        self._processes += [self._daemon, self._lender]
        reactor.addSystemEventTrigger("before", "shutdown", self._kill_all)
        await self._daemon.start("codex listens on")
        await self._lender.start("listens on")
        self._disturbances = Disturbances(
            reactor,
            random.Random(f"{self._options.seed} disturbances"),
            self._now,
            self._daemon,
            self._lender,
            self._upstream.simulator,
            clock_file if environment else None,
            disk,
        )
        await pause(reactor, 5.0)

    def _small_disk(self, directory: Path) -> Path | None:
        """The disk that is full now and then, or None where there can be none."""
        is_left_out = "disk" in self._options.without
        why = "left out" if is_left_out else disturbances.mount_small_disk(directory)
        if why is not None:
            self._left_out["full disks"] = why
        return directory if why is None else None

    def _clock_environment(self, file: Path) -> Mapping[str, str]:
        """The environment of a process whose clock can be set, or nothing where that is not possible."""
        if "clock" in self._options.without:
            self._left_out["clocks set"] = "left out"
            return {}
        environment = disturbances.faketime_environment(file)
        if environment is None:
            self._left_out["clocks set"] = "libfaketime is not installed"
        return environment or {}

    def _make_places(self, url: str, disk: Path | None) -> Places:
        directory = self._options.directory
        ports = {name: free_port() for name in ("claude", "codex", "lender claude", "lender codex", "extra")}
        logins = {}
        for account in self._upstream.accounts:
            folder = (
                disk if disk is not None and account.name.endswith("own-1") else directory
            ) / account.name
            folder.mkdir(mode=0o700)
            logins[account.name] = folder / "login.json"
            logins[account.name].touch(mode=0o600)
            logins[account.name].write_bytes(account.credentials_document())
        tokens = {user: f"{user}-{secrets.token_urlsafe(24)}" for user in _USERS}
        return Places(ports, logins, url, tokens)

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill_now()

    # The run

    async def run(self) -> list[Row]:
        """Run, and return the table. Raises DaemonFailed when a daemon does not start."""
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1")
        port: Any = await endpoint.listen(self._upstream.simulator.factory)
        try:
            await self._set_up(f"http://127.0.0.1:{port.getHost().port}")
            await self._load()
        finally:
            for process in self._processes:
                if not await process.stop() and self._disturbances is not None:
                    self._disturbances.failures.append(f"{process.name} had to be killed at the end")
            await port.stopListening()
        return self._conclude()

    async def _load(self) -> None:
        assert self._disturbances is not None
        self._began = self._now()
        self._upstream.record.secrets |= set(self._places.tokens.values())
        loops = [
            *(self._client(number) for number in range(CLIENTS)),
            *self._disturbances.loops(),
            self._watch(),
        ]
        running = gatherResults([Deferred.fromCoroutine(each) for each in loops], consumeErrors=True)
        self._reactor.callLater(self._options.seconds, self._stop_load)
        try:
            await running  # until every request that is still on its way has ended as well
        except FirstError as error:
            error.subFailure.raiseException()
        await pause(self._reactor, _SETTLES)
        self._judge(0.0)

    def _stop_load(self) -> None:
        self._is_loading = False
        if self._disturbances is not None:
            self._disturbances.is_over = True

    async def _client(self, number: int) -> None:
        name = f"c{number}"
        requests = Requests(name, random.Random(f"{self._options.seed} {name}"))
        client = HTTPClient(self._reactor, self._now, dict(self._places.ports), dict(self._places.tokens))
        while self._is_loading:
            await pause(self._reactor, requests.pause())
            request = requests.next()
            if request.turns:
                port, token = self._places.ports["codex"], self._places.tokens[request.user]
                self._to_judge.extend(await converse(self._reactor, self._now, port, token, request))
            else:
                self._to_judge.append(await client.ask(request))
        client.close()

    async def _watch(self) -> None:
        """Judge, measure and tell, all the time."""
        sampled = told = self._now()
        while self._is_loading:
            await pause(self._reactor, 1.0)
            now = self._now()
            self._judge(_SETTLES)
            if now - sampled >= _SAMPLES:
                sampled = now
                self._sample(now)
            if now - told >= 60.0:
                told += 60.0
                self._tell(now)
            for process in self._processes:
                if process.is_wanted and process.pid is None:
                    process.is_wanted = False
                    assert self._disturbances is not None
                    self._disturbances.failures.append(f"{process.name} has ended by itself")

    def _sample(self, now: float) -> None:
        self._upstream.secrets()
        figures = self._daemon.figures()
        if figures is not None:
            for name, figure in zip(BOUNDS, figures, strict=True):
                self.samples[name].append((now, figure))

    def _tell(self, now: float) -> None:
        tally = self.tally
        problems = ", ".join(f"{name} {len(found)}" for name, found in tally.findings.items())
        memory, descriptors, threads = self._daemon.figures() or (0.0, 0.0, 0.0)
        self._options.say(
            f"{(now - self._began) / 60:5.1f} min: {tally.total} requests, {tally.shapes['served']} served,"
            f" {sum(tally.repeats.values())} repeated, {problems};"
            f" {memory:.0f} MiB, {descriptors:.0f} descriptors, {threads:.0f} threads"
        )

    # Judging

    def _judge(self, settled: float) -> None:
        """Judge the requests that ended so many seconds ago."""
        assert self._disturbances is not None
        now = self._now()
        longest = max(AFTERMATH.values()) + 2 * PATIENCE
        self._consequences = [each for each in self._consequences if now - each.ended < longest]
        ended = [each for each in self._to_judge if now - each.ended >= settled]
        if not ended:
            return
        self._consequences += self._upstream.record.take_refusals()
        taken = [(outcome, self._upstream.record.take(outcome.id)) for outcome in ended]
        for outcome, tries in taken:
            self._consequences += consequences(outcome.service, tries)
        scene = Scene(
            [*self._disturbances.events, *self._consequences],
            frozenset(account.name for account in self._upstream.lent.values()),
            frozenset({"borrower"}),
            frozenset({"bob"}),  # of own-1
        )
        for outcome, tries in taken:
            self._to_judge.remove(outcome)
            self._judged.add(outcome.id)
            judgement = judge(outcome, tries, scene)
            if found := self.tally.add(outcome, judgement, outcome.began - self._began):
                # Now, while the logs still say what went on.
                self._options.say(f"{judgement.problem}: {found}")

    def _conclude(self) -> list[Row]:
        assert self._disturbances is not None
        for identity in self._upstream.record.left:
            if identity in self._judged:
                self.tally.findings["doubled"].append(f"{identity}: sent again after its end")
        found = LogFindings()
        words = {*self._upstream.secrets(), CANARY, "the-token-of-a-guest-who-comes-and-goes"}
        for process in self._processes:
            text = process.log.read_text(errors="replace")
            each = look_through(process.name, text, words)
            found.secrets += each.secrets
            found.tracebacks += each.tracebacks
        leave_out = min(600.0, self._options.seconds * 0.4)
        trends = {name: trend(samples, leave_out) for name, samples in self.samples.items()}
        names = ("reloads", "kills of the lender", "clocks set", "full disks")
        events = {name: self._left_out.get(name) or str(self._disturbances.counts[name]) for name in names}
        events |= {name: str(n) for name, n in self._disturbances.counts.items() if name not in events}
        refreshes = sum(account.counters.refreshes for account in self._upstream.accounts)
        events["tokens refreshed"] = str(refreshes)
        return rows(self.tally, found, trends, events, self._disturbances.failures)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)
