"""A client that sees every byte: requests to a simulator in memory, and what came back, however broken."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ccmproxy.http.framing import ChunkedDecoder, FramingError, split_head
from ccmproxy.http.message import Headers, first_value
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.server import Simulator
from ccmproxy.testing.pump import Pump

NOW = 1_795_000_000.0


class RawClient(Protocol):
    """Keeps what was received, and how the connection ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        self.lost = reason

    def take(self) -> Response:
        """The response that has been received so far; later calls begin anew."""
        response = Response(bytes(self.received))
        self.received.clear()
        return response


class Response:
    """A received response. ``complete``: its framing says that it has ended; ``pieces``: the chunks of its body."""

    def __init__(self, raw: bytes) -> None:
        head, blank, rest = raw.partition(b"\r\n\r\n")
        line, self.headers = split_head(head + blank)
        self.status = int(line.split(b" ")[1])
        self.body = rest
        self.pieces = [rest]
        length = first_value(self.headers, b"content-length")
        if length is not None:
            self.complete = len(rest) == int(length)
        elif first_value(self.headers, b"transfer-encoding") == b"chunked":
            decoder = ChunkedDecoder()
            try:
                self.pieces = decoder.feed(rest)
            except FramingError:
                self.pieces = []
            self.body = b"".join(self.pieces)
            self.complete = decoder.finished
        else:
            self.complete = False

    def header(self, name: bytes) -> bytes | None:
        """First value of the field ``name``."""
        return first_value(self.headers, name)

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Conversation:
    """A simulator with one account, and connections to it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.simulator = Simulator(self.clock, random.Random(0), **options)
        self.account = self.simulator.add_account("a")
        self.pumps: list[Pump] = []

    def connect(self, **options: Any) -> RawClient:
        """A new connection."""
        client = RawClient()
        server = self.simulator.factory.buildProtocol(None)
        assert server is not None
        self.pumps.append(Pump(client, server, **options))
        return client

    def flush(self) -> None:
        """Let everything travel that is on its way."""
        for pump in self.pumps:
            pump.flush()

    def advance(self, seconds: float) -> None:
        """Let time pass, then flush."""
        self.clock.advance(seconds)
        self.flush()

    def send(
        self,
        client: RawClient,
        method: str,
        target: str,
        body: object = None,
        account: ClaudeAccount | None = None,
        headers: Headers = [],  # noqa: B006 (not changed)
    ) -> None:
        """One request with an account's token."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        token = (account or self.account).access_token
        fields: Headers = [
            (b"Host", b"simulator"),
            (b"Authorization", b"Bearer " + token.encode()),
            (b"anthropic-beta", b"oauth-2025-04-20"),
            (b"anthropic-version", b"2023-06-01"),
            (b"Content-Length", b"%d" % len(content)),
            *headers,
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        assert client.transport is not None
        client.transport.write(f"{method} {target} HTTP/1.1\r\n".encode() + head + b"\r\n" + content)
        self.flush()

    def ask(self, client: RawClient, prompt: str, *, stream: bool = True, **arguments: Any) -> None:
        """A request for a message."""
        body = {
            "model": "claude-opus-5",
            "max_tokens": 10000,
            "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        self.send(client, "POST", "/v1/messages?beta=true", body, **arguments)
