"""Upstreams whose accounts each answer turns as a test says, while the simulator answers everything else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import first_value
from ccmproxy.simulator.accounts import SimulatedAccount
from ccmproxy.simulator.codex.simulated_account import CodexAccount
from tests.conversation import World
from tests.proxy.raw_upstream import http_response

#: What an account says to a turn: these bytes; or by the request, where None means that the simulator answers.
Script = bytes | Callable[[bytes], bytes | None]
#: Paths of logins and polls, which no script is for.
_CONTROL = (b"/v1/oauth", b"/api/oauth", b"/oauth/", b"/backend-api/wham")

_STATE = {
    "five_hour_utilization": 1,
    "five_hour_reset": 0,
    "weekly_utilization": 1,
    "weekly_reset": 0,
    "plan_weight": 10,
}

CODEX_POOL = """
services:
  - type: ocm
    listen_port: 8080
    credentials:
{credentials}
      - {{tag: pool, type: balancer, credentials: [a1, a2]}}
    users:
      - {{name: alice, token: {token}, credential: pool}}
    upstream:
      api_url: http://127.0.0.1:9000/backend-api/codex
      token_url: http://127.0.0.1:9000/oauth/token
      usage_url: http://127.0.0.1:9000/backend-api/wham/usage
{more}
"""


def refusal(status: int, message: str, *headers: tuple[str, str], kind: str = "error", **more: Any) -> bytes:
    """A refusal with an ``error`` object, which both dialects read."""
    body = {"type": "error", "error": {"type": kind, "message": message, **more}}
    return http_response(status, *headers, body=json.dumps(body).encode())


class _Connection(Protocol):
    def __init__(self, upstream: ScriptedUpstream | Remote, behind: Protocol) -> None:
        self._upstream = upstream
        self._behind = behind
        self._received = b""
        #: The simulator was asked for a WebSocket: from here on everything is its own.
        self._is_passed_on = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._behind.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Answer once a request is complete."""
        if self._is_passed_on:
            self._upstream.passed_on.append(data)
            self._behind.dataReceived(data)
            return
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        size = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        if not blank or len(body) < size:
            return
        request, self._received = self._received, b""
        answer = self._upstream.answer(request)
        if answer is None:
            self._is_passed_on = b"upgrade: websocket" in request.lower()
            self._behind.dataReceived(request)
        else:
            assert self.transport is not None
            self.transport.write(answer)

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        self._behind.connectionLost(reason)


class ScriptedUpstream(Factory):
    """Stands before the simulator of ``world``.

    ``scripts``: tag → what that account says to every request that is no login and no poll; without one, the simulator
    answers. ``sends``: tags of the accounts that such requests were sent with, in order. ``passed_on``: the bytes of
    WebSockets, as they came.
    """

    noisy = False

    def __init__(self, world: World, logins: Mapping[str, SimulatedAccount] | None = None) -> None:
        self._logins = logins or {f"a{number}": login for number, login in enumerate(world.logins, 1)}
        self._tags: dict[str, str] = {}
        self._simulator = world.simulator.factory
        self.scripts: dict[str, Script] = {}
        self.sends: list[str] = []
        self.passed_on: list[bytes] = []
        world.upstream.factory = self

    def buildProtocol(self, addr: Any) -> Protocol:
        """One more connection."""
        behind = self._simulator.buildProtocol(addr)
        assert isinstance(behind, Protocol)
        return _Connection(self, behind)

    def answer(self, request: bytes) -> bytes | None:
        """What is said to ``request``; None: what the simulator says."""
        self._tags |= {login.access_token: tag for tag, login in self._logins.items()}
        line, *fields = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
        if line.split(b" ")[1].startswith(_CONTROL):
            return None
        pairs = [
            (name.lower(), value.strip()) for name, _, value in (each.partition(b":") for each in fields)
        ]
        token = (first_value(pairs, b"authorization") or b"").decode().removeprefix("Bearer ")
        tag = self._tags.get(token, "key")
        self.sends.append(tag)
        script = self.scripts.get(tag)
        return script(request) if callable(script) else script

    def asked(self) -> list[str]:
        """The accounts that were asked since this was called last."""
        asked, self.sends = self.sends, []
        return asked


class CodexPoolWorld(World):
    """Two ChatGPT accounts, ``a1`` and ``a2``, behind one pool; ``upstream_says`` is told what they say.

    ``resets_in``: seconds until their windows of five hours end, which are half used. ``is_same_workspace``: both are
    logins of one workspace.
    """

    def __init__(
        self, case: SynchronousTestCase, resets_in: float | None = None, is_same_workspace: bool = False
    ) -> None:
        super().__init__(case, configuration=CODEX_POOL, plan=("pro", "pro"), start=False, with_file=False)
        self.codex: list[CodexAccount] = [self.simulator.add_codex_account()]
        workspace = self.codex[0] if is_same_workspace else None
        self.codex.append(self.simulator.add_codex_account(same_workspace_as=workspace))
        for login in self.codex if resets_in is not None else ():
            login.set_utilization("five_hour", 50.0, resets_in)
        for login, path in zip(self.codex, self.paths, strict=True):
            with open(path, "wb") as file:
                file.write(login.auth_document())
        self.upstream_says = ScriptedUpstream(
            self, {f"a{number}": login for number, login in enumerate(self.codex, 1)}
        )
        self.start()


class Remote(Factory):
    """A remote instance at 127.0.0.1:7000 in the network of ``world``, whose status is usable.

    ``script``: what it says to turns. ``turns``: how many it was sent. It has no WebSockets.
    """

    noisy = False

    def __init__(self, world: World) -> None:
        self.script = b""
        self.turns = 0
        self.passed_on: list[bytes] = []
        world.network.listen("127.0.0.1", 7000, self)

    def buildProtocol(self, addr: Any) -> Protocol:
        """One more connection."""
        return _Connection(self, Protocol())

    def answer(self, request: bytes) -> bytes:
        """What is said to ``request``."""
        if b"?watch=true" in request:
            return http_response(404)
        if b"/ccm/v1/status" in request:
            return http_response(200, body=json.dumps(_STATE).encode())
        self.turns += 1
        return self.script
