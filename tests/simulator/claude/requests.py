"""Requests to Claude's side of the simulator, and its answers, without any network."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.task import Clock

from ccmproxy.http.message import Headers, first_value
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount
from ccmproxy.simulator.claude.upstream import ClaudeUpstream
from ccmproxy.simulator.faults import FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.upstream import Delivery

#: Unix seconds at which the tests begin.
NOW = 1_795_000_000.0


def turn(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a request for a message."""
    return {
        "model": "claude-opus-5",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": prompt}],
        **fields,
    }


def events(answer: Delivery) -> list[tuple[str, dict[str, Any]]]:
    """The events of a streamed answer, decoded."""
    found = []
    for piece in answer.reply.pieces:
        name, data = piece.decode().removesuffix("\n\n").split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class Service:
    """An upstream with one account and one key."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rng = random.Random(0)
        self.faults = FaultPlan(self.rng)
        self.upstream = ClaudeUpstream(self.faults, self.rng, self.clock.seconds)
        self.account = self.add_account("a")
        self.key = ApiKeyAccount("k", rng=self.rng, time=self.clock.seconds)
        self.upstream.keys.append(self.key)
        self.last: ReceivedRequest

    def add_account(self, name: str, plan: str = "max_20x", **options: Any) -> ClaudeAccount:
        """One more account."""
        account = ClaudeAccount(name, plan, rng=self.rng, time=self.clock.seconds, **options)
        self.upstream.accounts.append(account)
        return account

    def headers(self, account: ClaudeAccount | None = None) -> Headers:
        """What the official client sends for an account."""
        token = (account or self.account).access_token
        return [
            (b"Authorization", b"Bearer " + token.encode()),
            (b"anthropic-beta", b"claude-code-20250219, oauth-2025-04-20"),
            (b"anthropic-version", b"2023-06-01"),
        ]

    def ask(
        self,
        method: bytes,
        target: bytes,
        body: object = b"",
        headers: Headers | None = None,
        account: ClaudeAccount | None = None,
    ) -> Delivery:
        """One request, by default with an account's token."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = self.headers(account) if headers is None else headers
        self.last = ReceivedRequest(1, self.clock.seconds(), method, target, sent, content, "test")
        answer = self.upstream.answer(self.last)
        assert answer is not None, target
        return answer

    def message(self, body: object, **arguments: Any) -> Delivery:
        """A request for a message."""
        return self.ask(b"POST", b"/v1/messages?beta=true", body, **arguments)

    def refresh(self, token: str, **fields: str) -> Delivery:
        """A request to the token endpoint."""
        return self.ask(
            b"POST",
            b"/v1/oauth/token",
            {
                "grant_type": "refresh_token",
                "refresh_token": token,
                "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
                **fields,
            },
            headers=[(b"content-type", b"application/json")],
        )


def document(answer: Delivery) -> dict[str, Any]:
    """The JSON body of an answer."""
    decoded = json.loads(answer.reply.body)
    assert isinstance(decoded, dict)
    return decoded


def header(answer: Delivery, name: str) -> str | None:
    """A header of an answer."""
    value = first_value(answer.reply.head.headers, name.encode())
    return None if value is None else value.decode()
