"""Requests to Codex's side of the simulator, and its answers, without any network."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.task import Clock

from ccmproxy.http.message import Headers, first_value
from ccmproxy.simulator.codex.simulated_account import CLIENT_ID, CodexAccount, OpenAIKey
from ccmproxy.simulator.codex.upstream import CodexUpstream
from ccmproxy.simulator.faults import FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.upstream import Delivery

#: Unix seconds at which the tests begin.
NOW = 1_795_000_000.0

BACKEND = b"/backend-api/codex/responses"


def user(text: str) -> dict[str, Any]:
    """A message of the user."""
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    }


def turn(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a request as the official client makes it."""
    return {
        "model": "gpt-5.4",
        "stream": True,
        "store": False,
        "input": [user(prompt)],
        **fields,
    }


def events(answer: Delivery) -> list[dict[str, Any]]:
    """The events of a streamed response, decoded; checks that each is named after the type in its data."""
    found = []
    for piece in answer.reply.pieces:
        name, data = piece.decode().removesuffix("\n\n").split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}", name
        found.append(event)
    return found


def document(answer: Delivery) -> dict[str, Any]:
    """The JSON body of an answer."""
    decoded = json.loads(answer.reply.body)
    assert isinstance(decoded, dict)
    return decoded


def header(answer: Delivery, name: str) -> str | None:
    """A header of an answer."""
    value = first_value(answer.reply.head.headers, name.encode())
    return None if value is None else value.decode()


class Service:
    """An upstream with one account and one key."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rng = random.Random(0)
        self.faults = FaultPlan(self.rng)
        self.upstream = CodexUpstream(self.faults, self.rng, self.clock.seconds)
        self.account = self.add_account("a")
        self.key = OpenAIKey("k", rng=self.rng, time=self.clock.seconds)
        self.upstream.keys.append(self.key)
        self.last: ReceivedRequest

    def add_account(self, name: str, plan: str = "pro", **options: Any) -> CodexAccount:
        """One more account."""
        account = CodexAccount(name, plan, rng=self.rng, time=self.clock.seconds, **options)
        self.upstream.accounts.append(account)
        return account

    def headers(self, account: CodexAccount | None = None) -> Headers:
        """What the official client sends for an account."""
        login = account or self.account
        return [
            (b"Authorization", b"Bearer " + login.access_token.encode()),
            (b"ChatGPT-Account-Id", login.account_id.encode()),
        ]

    def key_headers(self) -> Headers:
        """What a client sends for the key."""
        return [(b"Authorization", b"Bearer " + self.key.key.encode())]

    def ask(
        self,
        method: bytes,
        target: bytes,
        body: object = b"",
        headers: Headers | None = None,
        more: Headers = [],  # noqa: B006 (not changed)
    ) -> Delivery:
        """One request, by default with the account's token."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = [*(self.headers() if headers is None else headers), *more]
        self.last = ReceivedRequest(1, self.clock.seconds(), method, target, sent, content, "test")
        answer = self.upstream.answer(self.last)
        assert answer is not None, target
        return answer

    def respond(self, body: object, account: CodexAccount | None = None, more: Headers = []) -> Delivery:  # noqa: B006
        """A turn of a ChatGPT account."""
        return self.ask(b"POST", BACKEND, body, self.headers(account), more)

    def respond_to_key(self, body: object, path: bytes = b"/v1/responses") -> Delivery:
        """A turn of the key."""
        return self.ask(b"POST", path, body, self.key_headers())

    def refresh(self, token: str, **fields: str) -> Delivery:
        """A request to the token endpoint."""
        request = {
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": token,
            **fields,
        }
        return self.ask(b"POST", b"/oauth/token", request, headers=[(b"content-type", b"application/json")])
