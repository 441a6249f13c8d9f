"""Answers are read as a client reads them."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bench.soak.answers import Reading, read_stream, read_whole
from bench.soak.requests import claude_body, codex_turn
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.server import Simulator

TEXT = "größer, 日本語 and 🙂 too"


class AnswerTests(SynchronousTestCase):
    """The simulator's own answers."""

    def setUp(self) -> None:
        self.simulator = Simulator(Clock(), random.Random(1))
        self.claude = self.simulator.add_account()
        self.codex = self.simulator.add_codex_account()

    def pieces(self, upstream: Any, target: bytes, token: str, body: bytes) -> list[bytes]:
        """The pieces of an answer."""
        headers = [
            (b"authorization", f"Bearer {token}".encode()),
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"oauth-2025-04-20"),
        ]
        delivery = upstream.answer(ReceivedRequest(1, 0.0, b"POST", target, headers, body, "here"))
        pieces: list[bytes] = delivery.reply.pieces
        return pieces

    def claude_pieces(self, streamed: bool) -> list[bytes]:
        """Of a Claude message."""
        body = claude_body("soak-c1-1", TEXT, streamed)
        return self.pieces(self.simulator.claude, b"/v1/messages", self.claude.access_token, body)

    def codex_pieces(self) -> list[bytes]:
        """Of a Codex stream."""
        body = json.dumps(codex_turn("soak-c1-1", TEXT)).encode()
        target = b"/backend-api/codex/responses"
        return self.pieces(self.simulator.codex, target, self.codex.access_token, body)

    def test_whole(self) -> None:
        body = b"".join(self.claude_pieces(False))
        self.assertEqual(read_whole("claude", body), Reading(TEXT, True, False))
        self.assertEqual(read_whole("claude", gzip.compress(body), "gzip"), Reading(TEXT, True, False))
        self.assertFalse(read_whole("claude", body[: len(body) // 2]).is_complete)

    def test_streams(self) -> None:
        for service, pieces in (("claude", self.claude_pieces(True)), ("codex", self.codex_pieces())):
            self.assertEqual(read_stream(service, b"".join(pieces)), Reading(TEXT, True, False), service)
            self.assertFalse(read_stream(service, b"".join(pieces[:-1])).is_complete, service)
            doubled = read_stream(service, b"".join(pieces) * 2)
            self.assertFalse(doubled.is_complete, service)
            middle = len(pieces) // 2
            self.assertNotEqual(
                read_stream(service, b"".join(pieces[:middle] + pieces[middle + 1 :])).text, TEXT, service
            )

    def test_failures(self) -> None:
        for service, event in (("claude", {"type": "error"}), ("codex", {"type": "response.failed"})):
            data = b"data: " + json.dumps(event).encode() + b"\n\n"
            self.assertEqual(read_stream(service, data), Reading("", False, True))
