"""What each fault makes of a turn's messages, and of the opening handshake."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.websocket_steps import (
    Binary,
    CloseFrame,
    FrameStep,
    Ping,
    Text,
    perform_messages,
    perform_opening,
)
from ccmproxy.simulator.faults import DELIVERIES, MESSAGES, Fault
from ccmproxy.simulator.steps import Abort, Fin, Hang, Pace, Raw, Wait

MESSAGE = ['{"n":1}', '{"n":2}', '{"n":3}', '{"n":4}']
A, B, C, D = map(Text, MESSAGE)
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def deliver(fault: str | None, pace: Pace = Pace()) -> list[FrameStep]:  # noqa: B008 (frozen)
    """The steps of a turn with four messages."""
    parsed = None if fault is None else Fault.parse(fault)
    return perform_messages(MESSAGE, parsed, lambda code: f"failed:{code}", pace, random.Random(0))


class MessageTests(SynchronousTestCase):
    """A turn."""

    def test_plainly(self) -> None:
        self.assertEqual(deliver(None), [A, B, C, D])
        self.assertEqual(deliver(None, Pace(2.0, 1.0))[:4], [Wait(2.0), A, Wait(1.0), B])

    def test_faults(self) -> None:
        for fault, steps in (
            ("slow;seconds=2", [Wait(2.0), A, B, C, D]),
            ("stall", [A, B, Hang(), C, D]),
            ("stall;at=before_stop;seconds=3", [A, B, C, Wait(3.0), D]),
            ("cut;how=fin;at=before_head", [Fin()]),
            ("cut;seconds=0", [A, B, Wait(0.0), Abort()]),
            ("truncated", [A, B, C, CloseFrame(1000)]),
            ("close;code=1012", [A, B, CloseFrame(1012, "simulated")]),
            ("close;at=before_head", [CloseFrame(1011, "simulated")]),
            ("error_first;type=x", [Text("failed:x")]),
            ("error_mid;type=x", [A, B, Text("failed:x")]),
            ("pieces;size=3", [Text(message, 3) for message in MESSAGE]),
            ("pings;size=1", [Ping(), A, Ping(), B, Ping(), C, Ping(), D]),
            ("binary_frame", [A, B, Binary(b'{"n":3}'), D]),
            ("invalid_event", [A, B, Text('{"n":3'), C, D]),
            ("half_head", [A, B, C, D]),
            ("none", [A, B, C, D]),
        ):
            self.assertEqual(deliver(fault), steps, fault)

    def test_huge_message(self) -> None:
        first, *rest = deliver("huge_message;size=5000")
        assert isinstance(first, Text)
        self.assertEqual((len(first.text), rest), (5000, [A, B, C, D]))

    def test_every_fault_can_be_asked_for(self) -> None:
        for name in {**DELIVERIES, **MESSAGES}:
            self.assertTrue(deliver(name), name)


class OpeningTests(SynchronousTestCase):
    """The end of the opening handshake."""

    def deliver(self, fault: str | None) -> list[FrameStep]:
        """The steps of one."""
        parsed = None if fault is None else Fault.parse(fault)
        return perform_opening(HEAD, parsed, "early", random.Random(0))

    def test_faults(self) -> None:
        for fault, steps in (
            (None, [Raw(HEAD)]),
            ("pieces", [Raw(HEAD)]),
            ("slow;seconds=2", [Wait(2.0), Raw(HEAD)]),
            ("stall", [Hang(), Raw(HEAD)]),
            ("cut", [Abort()]),
            ("cut;how=fin", [Fin()]),
            ("half_head", [Raw(HEAD[:18]), Fin()]),
            ("close;code=4000", [Raw(HEAD), CloseFrame(4000, "simulated")]),
            ("early_text", [Raw(HEAD), Text("early")]),
        ):
            self.assertEqual(self.deliver(fault), steps, fault)
        garbage, end = self.deliver("garbage")
        assert isinstance(garbage, Raw)
        self.assertFalse(garbage.data.startswith(b"HTTP"))
        self.assertEqual(end, Fin())
