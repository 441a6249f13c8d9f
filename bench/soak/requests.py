"""What clients ask for: kinds of requests, their bodies and the text that must come back; all by a seed. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ccmproxy.simulator.faults import Fault, Scenario

#: A word in every prompt. Prompts are private: it must not stand in any log.
CANARY = "cormorant-lighthouse-tangerine"

CLAUDE_MODEL = "claude-haiku-4-5"
CODEX_MODEL = "gpt-5.4"

#: Kind of request → how often it is drawn, relative to the others.
WEIGHTS: Mapping[str, int] = {
    "claude message": 20,
    "claude stream": 24,
    "claude count_tokens": 8,
    "claude models": 4,
    "claude status": 4,
    "claude wrong token": 2,
    "claude large": 2,
    "claude lent": 10,
    "codex stream": 18,
    "codex lent": 5,
    "websocket": 6,
}
#: Kinds that a client may read slowly, or leave.
_READABLE = frozenset({"claude message", "claude stream", "claude large", "claude lent", "codex stream"})
_SLOW = 0.08
_VANISHING = 0.08
#: Of the vanishing clients, so many leave while they send.
_WHILE_SENDING = 0.25

#: What goes wrong at the simulator by itself: probabilities per turn. Waits are short, so that many faults fit.
FAULTS = Scenario(
    (
        (0.015, Fault("overloaded")),
        (0.010, Fault("rate_limited", retry_after=2)),
        (0.005, Fault("rate_limited")),
        (0.015, Fault("server_error")),
        (0.010, Fault("unavailable", retry_after=1)),
        (0.010, Fault("bad_gateway")),
        (0.003, Fault("unauthorized")),
        (0.015, Fault("cut", at="before_head", how="rst")),
        (0.010, Fault("cut", at="before_head", how="fin")),
        (0.010, Fault("cut", at="before_head", how="rst", seconds=3.0)),
        (0.010, Fault("cut", at="after_head", how="fin")),
        (0.015, Fault("cut", at="mid", how="rst")),
        (0.010, Fault("cut", at="before_stop", how="fin")),
        (0.010, Fault("error_first")),
        (0.010, Fault("error_mid")),
        (0.010, Fault("truncated")),
        (0.005, Fault("stall", at="mid")),
        (0.004, Fault("hang")),
        (0.005, Fault("garbage")),
        (0.005, Fault("half_head")),
        (0.005, Fault("bad_chunk")),
        (0.005, Fault("no_last_chunk")),
        (0.005, Fault("long_content_length")),
        (0.020, Fault("slow", seconds=3.0)),
        (0.020, Fault("slow_first_token", seconds=3.0)),
        (0.020, Fault("random_pieces", size=200)),
        (0.020, Fault("pings")),
        (0.010, Fault("gzip")),
    )
)

_WORDS = "the proxy relays every byte in the order in which it came — größer, 日本語 and 🙂 too".split(" ")
#: Words of a usual answer, and bytes of a large one.
_SHORTEST, _LONGEST = 3, 120
_LARGE = 1_500_000


@dataclass(frozen=True, slots=True)
class Request:
    """One request to make, or one conversation by WebSocket.

    ``text``: what must come back; for other answers than the model's: a piece of them. ``user``: whose token is sent.
    ``leaves``: seconds after which the client goes away, None: never. ``sends``: the part of the request (0 to 1) that
    it sends before that. ``reads_slowly``: with a pause after each read. ``turns``: of a WebSocket, each with its id
    and text.
    """

    id: str
    kind: str
    user: str
    method: str = "POST"
    path: str = ""
    body: bytes = b""
    text: str = ""
    streamed: bool = False
    reaches: bool = True
    expected: int = 200
    leaves: float | None = None
    sends: float = 1.0
    reads_slowly: bool = False
    turns: Sequence[tuple[str, str, bytes]] = field(default_factory=tuple)

    @property
    def service(self) -> str:
        """The service that the request goes to."""
        return "claude" if self.kind.startswith("claude") else "codex"


class Requests:
    """Makes one client's requests. ``name``: of the client, part of each id. The seed decides everything."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self._name = name
        self._rng = rng
        self._number = 0
        self._kinds = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())

    def next(self) -> Request:
        """Return the next request."""
        rng = self._rng
        kind = rng.choices(self._kinds, self._weights)[0]
        request = self._make(kind)
        if kind not in _READABLE:
            return request
        drawn = rng.random()
        if drawn < _SLOW or kind == "claude large":
            return replace(request, reads_slowly=True)
        if drawn < _SLOW + _VANISHING:
            sends = rng.random() if rng.random() < _WHILE_SENDING else 1.0
            return replace(request, leaves=rng.random() * 1.5, sends=sends)
        return request

    def pause(self) -> float:
        """Return how long the client waits before its next request (seconds)."""
        return self._rng.expovariate(0.5)

    def _make(self, kind: str) -> Request:
        identity, text = self._identity(), self._text()
        match kind:
            case "claude message" | "claude stream" | "claude lent" | "claude large":
                streamed = kind == "claude stream" or (kind == "claude lent" and self._rng.random() < 0.7)
                if kind == "claude large":
                    text = f"{identity} {'x' * _LARGE}"
                user = "borrower" if kind == "claude lent" else self._rng.choice(("alice", "alice", "bob"))
                body = claude_body(identity, text, streamed)
                return Request(
                    identity, kind, user, "POST", "/v1/messages?beta=true", body, text, streamed=streamed
                )
            case "claude count_tokens":
                body = claude_body(identity, text, None)
                return Request(
                    identity, kind, "alice", "POST", "/v1/messages/count_tokens", body, '"input_tokens"'
                )
            case "claude models":
                return Request(identity, kind, "alice", "GET", "/v1/models", text='"claude-')
            case "claude status":
                return Request(identity, kind, "alice", "GET", "/ccm/v1/status", text="{", reaches=False)
            case "claude wrong token":
                body = claude_body(identity, text, False)
                return Request(
                    identity, kind, "nobody", "POST", "/v1/messages", body, reaches=False, expected=401
                )
            case "codex stream" | "codex lent":
                user = "borrower" if kind == "codex lent" else "carol"
                body = json.dumps(codex_turn(identity, text)).encode()
                return Request(identity, kind, user, "POST", "/v1/responses", body, text, streamed=True)
            case _:
                turns = []
                for _ in range(self._rng.randint(1, 6)):
                    turn, said = self._identity(), self._text()
                    message = {"type": "response.create", **codex_turn(turn, said)}
                    turns.append((turn, said, json.dumps(message).encode()))
                return Request(
                    identity, kind, "carol", "GET", "/v1/responses", expected=101, streamed=True, turns=turns
                )

    def _identity(self) -> str:
        self._number += 1
        return f"soak-{self._name}-{self._number}"

    def _text(self) -> str:
        rng = self._rng
        return " ".join(rng.choices(_WORDS, k=rng.randint(_SHORTEST, _LONGEST)))


def claude_body(identity: str, text: str, streamed: bool | None) -> bytes:
    """Return the body of a request that is answered with ``text``. ``streamed`` None: for counting tokens."""
    document: dict[str, Any] = {
        "model": CLAUDE_MODEL,
        "messages": [{"role": "user", "content": f"{identity} {CANARY} [[say:{text}]]"}],
    }
    if streamed is not None:
        document |= {"max_tokens": 1024, "stream": streamed}
    return json.dumps(document).encode()


def codex_turn(identity: str, text: str) -> dict[str, Any]:
    """Return a turn of Codex that is answered with ``text``."""
    content = [{"type": "input_text", "text": f"{identity} {CANARY} [[say:{text}]]"}]
    return {
        "model": CODEX_MODEL,
        "stream": True,
        "store": False,
        "input": [{"type": "message", "role": "user", "content": content}],
    }
