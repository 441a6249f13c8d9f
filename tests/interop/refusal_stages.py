"""The ways from a real client to upstreams that refuse: straight to an account, and through ccmproxy.

The same script is played on every way, to a client of its own, so that what the client shows, how it ends and what
reached the upstream can be compared.
"""

from __future__ import annotations

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.config import load_text
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.simulator import ClaudeAccount, CodexAccount
from tests.interop.scripted import Answer, ScriptedSimulator

#: ``direct``: as the account ``a`` itself. ``single``: through ccmproxy to ``a``. ``pool``: to ``a``, and if ``a``
#: cannot serve, to ``b``. ``external`` and ``external_pool``: through an instance whose only credential is another
#: instance, reached by its URL, which serves as on ``single`` and on ``pool``.
Way = Literal["direct", "single", "pool", "external", "external_pool"]
WAYS: tuple[Way, ...] = ("direct", "single", "pool", "external", "external_pool")
#: The ways through ccmproxy on which nobody but ``a`` can serve.
ALONE: tuple[Way, ...] = ("single", "external")
#: The ways on which ``b`` serves what ``a`` cannot.
SHARED: tuple[Way, ...] = ("pool", "external_pool")

#: The token of the only user of ccmproxy, and that of an instance of ccmproxy at another one.
TOKEN = "interop-token-of-alice"
INSTANCE_TOKEN = "interop-token-of-an-instance"

#: What differs from run to run in what a client shows: addresses, ids and times of day.
_CHANGING = re.compile(
    r"127\.0\.0\.1:\d+[^\s,)]*|req_\w+|request id: [\w-]+|\d{1,2}:\d\d ?[ap]m|\d{1,2}[ap]m", re.IGNORECASE
)


@dataclass(frozen=True)
class Seen:
    """One run of a client. ``code``: its exit status, None where it had to be killed; ``said``: what it showed at its
    end, without what differs from run to run; ``output``: all that it showed.

    ``turns``: account and status of each turn that the upstream got in this run.
    """

    code: int | None
    said: str
    output: str
    turns: tuple[tuple[str | None, int], ...]

    @property
    def accounts(self) -> list[str | None]:
        """Which accounts were asked, in order."""
        return [account for account, _ in self.turns]


class Stage:
    """One way, with accounts, a script and a home folder of its own. ``url``: what the client talks to, without a
    path; ``token``: what it presents there."""

    def __init__(self, case: RefusalCase, way: Way, home: Path) -> None:
        self.way = way
        self.home = home
        self.reactor = case.reactor
        home.mkdir(parents=True)
        self.simulator = ScriptedSimulator(case.reactor, random.Random(1))
        self.accounts: dict[str, ClaudeAccount | CodexAccount] = {
            name: case.add_account(self.simulator, name) for name in ("a", "b")
        }
        port = case.reactor.listenTCP(0, self.simulator.factory, interface="127.0.0.1")
        case.addCleanup(port.stopListening)
        case.addCleanup(self.simulator.factory.abort_all)
        upstream = f"http://127.0.0.1:{port.getHost().port}"
        if way == "direct":
            self.url, self.token = upstream, self.accounts["a"].access_token
            return
        serving = "pool" if way in SHARED else "a"
        self.token = TOKEN
        if way in ("single", "pool"):
            self.url = self._accounts(case, upstream, user("alice", TOKEN, serving))
        else:
            lender = self._accounts(case, upstream, user("friend", INSTANCE_TOKEN, serving))
            self.url = self._borrower(case, upstream, lender)

    def _accounts(self, case: RefusalCase, upstream: str, served: Mapping[str, Any]) -> str:
        """Start the instance that has the accounts. Returns its URL."""
        credentials: list[Mapping[str, Any]] = []
        for name, account in self.accounts.items():
            file = self.home / "accounts" / name / "login.json"
            file.parent.mkdir(parents=True)
            file.touch(mode=0o600)
            file.write_bytes(case.login(account))
            credentials.append({"tag": name, "credential_path": str(file)})
        pool = {"tag": "pool", "type": "balancer", "credentials": ["a", "b"], "strategy": "fallback"}
        return self._start(case, upstream, [*credentials, pool], served)

    def _borrower(self, case: RefusalCase, upstream: str, url: str) -> str:
        """Start an instance that has nothing but the one at ``url``. Returns its own URL."""
        remote = {"tag": "friend", "type": "external", "url": url, "token": INSTANCE_TOKEN}
        alice = user("alice", TOKEN, "friend", allow_external_usage=True)
        return self._start(case, upstream, [remote], alice)

    def _start(
        self,
        case: RefusalCase,
        upstream: str,
        credentials: Sequence[Mapping[str, Any]],
        served: Mapping[str, Any],
    ) -> str:
        """Start an instance of ccmproxy, until the end of the test. Returns its URL."""
        service = {
            "type": case.service_type,
            "listen": "127.0.0.1",
            "listen_port": 0,
            "credentials": credentials,
            "users": [served],
            "upstream": case.upstream_settings(upstream),
        }
        config = load_text(json.dumps({"services": [service]}), "interop")
        proxy = ProxyService(config, Surroundings.of_reactor(case.reactor, random.Random(1)))
        proxy.startService()
        case.addCleanup(proxy.stopService)
        (running,) = proxy.services.values()
        assert running.port is not None
        return f"http://127.0.0.1:{running.port.getHost().port}"  # type: ignore[attr-defined]

    def turns(self) -> tuple[tuple[str | None, int], ...]:
        """Account and status of every turn so far."""
        return tuple((turn.account, turn.status) for turn in self.simulator.requests.of("turn"))


class RefusalCase(TestCase, ABC):
    """Runs of a real client on every way; a provider's tests implement the abstract methods."""

    timeout = 300
    service_type: str
    reactor: Any

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - real programs need real sockets

        self.reactor = reactor
        found = self.find_command()
        if isinstance(found, str):
            raise SkipTest(found)
        self.command = found
        self.folder = Path(self.mktemp()).absolute()
        self.stages = {way: Stage(self, way, self.folder / way) for way in WAYS}

    @abstractmethod
    def find_command(self) -> list[str] | str:
        """How to start the client, or why it cannot be."""

    @abstractmethod
    def add_account(self, simulator: ScriptedSimulator, name: str) -> Any:
        """Add an account to the upstream."""

    @abstractmethod
    def login(self, account: Any) -> bytes:
        """The content of an account's credential file."""

    @abstractmethod
    def upstream_settings(self, url: str) -> Mapping[str, str]:
        """Options of ``upstream`` for a simulator at ``url``."""

    @abstractmethod
    async def run_client(self, stage: Stage, *arguments: str) -> Seen:
        """One run of the client on one way."""

    # What tests do ------------------------------------------------------------------------------------------------

    def say(
        self,
        answer: Answer,
        endpoint: str = "turn",
        *,
        account: str | None = None,
        model: str | None = None,
        times: int | None = None,
    ) -> None:
        """Give the upstream of every way the same line of a script (:meth:`tests.interop.scripted.Script.say`)."""
        for stage in self.stages.values():
            stage.simulator.script.say(answer, endpoint, account=account, model=model, times=times)

    async def everywhere(self, *arguments: str) -> dict[Way, Seen]:
        """One run on every way, all at the same time: most of their time goes into waits between tries."""
        seen: list[Seen] = await gatherResults(
            [Deferred.fromCoroutine(self.run_client(stage, *arguments)) for stage in self.stages.values()],
            consumeErrors=True,
        )
        return dict(zip(self.stages, seen, strict=True))

    def same(self, seen: Mapping[Way, Seen], ways: Sequence[Way] = ALONE) -> None:
        """The client noticed no difference, and the upstream got no more."""
        direct = seen["direct"]
        for way in ways:
            proxied = seen[way]
            self.assertEqual((proxied.code, proxied.said), (direct.code, direct.said), way)
            self.assertLessEqual(len(proxied.turns), len(direct.turns), (way, proxied.turns))

    def better(self, seen: Mapping[Way, Seen], said: str) -> None:
        """The other account served what was refused: the client succeeded, and the upstream was asked once more at most
        than without ccmproxy."""
        for way in SHARED:
            proxied = seen[way]
            self.assertEqual((proxied.code, proxied.said), (0, said), (way, proxied.output))
            self.assertEqual(proxied.turns[-1], ("b", 200), way)
            self.assertLessEqual(len(proxied.turns), len(seen["direct"].turns) + 1, (way, proxied.turns))

    def no_better(self, seen: Mapping[Way, Seen]) -> None:
        """The other account refused it as well: the client got the first refusal as it came, and the other account was
        asked once."""
        direct = seen["direct"]
        for way in SHARED:
            proxied = seen[way]
            self.assertEqual((proxied.code, proxied.said), (direct.code, direct.said), way)
            self.assertLessEqual(len(proxied.turns), len(direct.turns) + 1, (way, proxied.turns))


def user(name: str, token: str, credential: str, **options: object) -> Mapping[str, Any]:
    """An entry for a user of ccmproxy."""
    return {"name": name, "token": token, "credential": credential, **options}


def without_changes(text: str) -> str:
    """``text`` without what differs from run to run."""
    return _CHANGING.sub("…", text).strip()
