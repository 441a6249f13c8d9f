"""Stand-ins for the borrower and the lender of sing-box (its ccm and ocm services), as far as they differ from ours.

What they do was observed of the real ones, which were run against ccmproxy in both directions. It is written from
those observations alone. Both run in the memory network of :mod:`tests.federated`.

The borrower reads of a 429 which window closes and when that resets, and leaves the whole lender alone until then:

- Claude: ``anthropic-ratelimit-unified-representative-claim`` is ``5h`` or ``7d``, and the reset is in the field
  ``anthropic-ratelimit-unified-5h-reset`` or ``-7d-reset``. Without them it panics.
- Codex: ``x-codex-active-limit`` and ``x-codex-primary-reset-at``.

It reads the answer to a refused upgrade until the connection ends, for up to 300 s. Of the status it reads five
numbers, and takes 100 for used up. It sends none of our own header fields.

The lender answers 429 without any header field where its provider answered 400. Its own errors and the answers that it
passes on carry none of our header fields, and its status has the five numbers and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from tests.conversation import Client, Response
from tests.federated import TOKENS, Federation, Instance

#: How long the borrower reads the answer to a refused upgrade (seconds).
UPGRADE_PATIENCE = 300
_FIGURES = ("five_hour_utilization", "five_hour_reset", "weekly_utilization", "weekly_reset", "plan_weight")
_FAMILY = "anthropic-ratelimit-unified-"


class BorrowerCrashed(Exception):
    """The borrower has read something that it cannot go on with."""


class Borrower:
    """Borrows from ``lender`` as ``user``. ``alone_until``: until when it leaves the lender alone (Unix seconds)."""

    def __init__(self, federation: Federation, lender: Instance, user: str) -> None:
        self.alone_until = 0.0
        self._federation = federation
        self._lender = lender
        self._token = TOKENS[user]

    @property
    def leaves_alone(self) -> float:
        """How long it leaves the lender alone from now on (seconds)."""
        return max(0.0, self.alone_until - self._federation.clock.seconds())

    def ask(self, prompt: str = "hello", model: str = "", *fields: str) -> Response:
        """Send a turn of a client of its own, and return the answer after judging it. Raises BorrowerCrashed when a 429
        lacks what it reads."""
        response = self.send(prompt, model, *fields).responses()[-1]
        if response.status == 429:
            self.alone_until = self._reset(response)
        return response

    def send(self, prompt: str = "hello", model: str = "", *fields: str) -> Client:
        """Send a turn, whose answer may take its time."""
        if self._federation.kind == "ccm":
            path = "/v1/messages"
            body: dict[str, Any] = {
                "model": model or "claude-opus-4-5",
                "max_tokens": 100,
                "messages": [{"role": "user", "content": prompt}],
            }
        else:
            path = "/v1/responses"
            content = [{"type": "input_text", "text": prompt}]
            item = {"type": "message", "role": "user", "content": content}
            body = {"model": model or "gpt-5.4", "stream": True, "store": False, "input": [item]}
        raw = json.dumps(body).encode()
        client = ("Content-Type: application/json", "anthropic-version: 2023-06-01")
        return self._send(f"POST {path}", *client, *fields, body=raw)

    def upgrade(self) -> tuple[int, int]:
        """Ask for a WebSocket, and read the refusal until the connection ends; return its status and how long that took
        (seconds)."""
        client = self._send(
            "GET /v1/responses",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        waited = 0
        while not client.broken and waited < UPGRADE_PATIENCE:
            self._federation.pass_time(1)
            waited += 1
        return client.responses()[-1].status, waited

    def status(self) -> dict[str, float]:
        """Ask for the lender's state. Raises BorrowerCrashed where a figure is none."""
        kind = self._federation.kind
        document = self._send(f"GET /{kind}/v1/status").responses()[-1].json()
        for name in _FIGURES:
            if not isinstance(document.get(name), int | float):
                raise BorrowerCrashed(f"{name} is {document.get(name)!r}")
        return {name: document[name] for name in _FIGURES}

    def _send(self, line: str, *fields: str, body: bytes = b"") -> Client:
        head = [f"{line} HTTP/1.1", "Host: lender", f"Authorization: Bearer {self._token}", *fields]
        if body:
            head.append(f"Content-Length: {len(body)}")
        return self._lender.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def _reset(self, response: Response) -> float:
        if self._federation.kind == "ccm":
            claim = response.header(f"{_FAMILY}representative-claim")
            if claim not in ("5h", "7d"):
                raise BorrowerCrashed(f"no window is called {claim}")
            value = response.header(f"{_FAMILY}{claim}-reset")
        else:
            if not response.header("x-codex-active-limit"):
                raise BorrowerCrashed("no limit is named")
            value = response.header("x-codex-primary-reset-at")
        if value is None or not value.isdigit():
            raise BorrowerCrashed(f"the reset is {value!r}")
        return float(value)


class Lender(Factory):
    """Lends at 127.0.0.1:``port`` what ``provider`` answers, which is called with the body of a turn.

    ``turns`` and ``polls``: how many of either it was sent. ``is_refused``: it answers every turn with a 400 of its
    own, because it has no account. ``fails_polls``: its status endpoint fails.
    """

    def __init__(
        self, federation: Federation, port: int, provider: Callable[[bytes], tuple[int, bytes]]
    ) -> None:
        self.provider = provider
        self.is_refused = self.fails_polls = False
        self.turns = self.polls = 0
        self.status = dict.fromkeys(_FIGURES, 0) | {"plan_weight": 20}
        federation.network.listen("127.0.0.1", port, self)

    def buildProtocol(self, addr: object) -> Protocol:
        """One more connection."""
        return _LenderConnection(self)

    def answer(self, target: bytes, body: bytes) -> bytes:
        """Return the whole answer to one request."""
        if b"/v1/status" in target:
            if b"watch=true" in target:
                return _answer(404, b"")
            self.polls += 1
            return _answer(500, b"") if self.fails_polls else _answer(200, json.dumps(self.status).encode())
        self.turns += 1
        if self.is_refused:
            return _answer(400, b"")
        status, content = self.provider(body)
        if status == 400:
            return _answer(429, b"")
        return _answer(status, content, b"Content-Type: application/json\r\n")


class _LenderConnection(Protocol):
    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        if len(rest) < size:
            return
        self._received = rest[size:]
        assert self.transport is not None
        self.transport.write(self._lender.answer(head.split(b" ")[1], rest[:size]))


def _answer(status: int, body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)
