"""From the events of a turn and a fault to the frames of a WebSocket. Pure; :mod:`.websocket_server` sends them.

The counterpart of :mod:`ccmproxy.simulator.steps` for messages in place of a response.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.steps import RESET_DELAY, Abort, Fin, Hang, Pace, Raw, Wait, garbage, pause

_DEFAULT_CLOSE = 1011
_DEFAULT_HUGE = 16 * 1024 * 1024

#: Smallest close code (RFC 6455 section 7.4); a smaller number is the status that a fault has by default.
_FIRST_CODE = 1000


@dataclass(frozen=True, slots=True)
class Text:
    """A text message. ``frame_size``: bytes per frame; None: a single frame."""

    text: str
    frame_size: int | None = None


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping frame."""


@dataclass(frozen=True, slots=True)
class CloseFrame:
    """Begin the closing handshake; nothing follows."""

    code: int
    reason: str = ""


FrameStep = Text | Binary | Ping | CloseFrame | Wait | Hang | Abort | Raw | Fin


def perform_messages(
    messages: Sequence[str],
    fault: Fault | None,
    failed: Callable[[str], str],
    pace: Pace,
    rng: random.Random,
) -> list[FrameStep]:
    """The steps that deliver a turn's ``messages`` under ``fault``; a fault that does not apply here is ignored.

    ``failed`` renders the event that ends a turn with an error code.
    """
    if fault is None:
        return _paced(messages, pace)
    before, after = _divided(messages, fault.at)
    match fault.name:
        case "slow" | "slow_first_token":
            return [Wait(fault.delay), *_paced(messages, pace)]
        case "stall":
            return [*map(Text, before), pause(fault), *map(Text, after)]
        case "cut" if fault.how == "fin":
            return [*map(Text, before), Fin()]
        case "cut":
            delay = RESET_DELAY if fault.seconds is None else fault.seconds
            return [*map(Text, before), Wait(delay), Abort()]
        case "truncated":
            return [*map(Text, messages[: -(fault.size or 1)]), CloseFrame(1000)]
        case "close":
            code = fault.code if fault.code >= _FIRST_CODE else _DEFAULT_CLOSE
            return [*map(Text, before), CloseFrame(code, "simulated")]
        case "error_first":
            return [Text(failed(fault.type))]
        case "error_mid":
            return [*map(Text, before), Text(failed(fault.type))]
        case "pieces":
            return [Text(message, fault.size or 1) for message in messages]
        case "random_pieces":
            return [Text(message, rng.randint(1, fault.size or 64)) for message in messages]
        case "pings":
            steps: list[FrameStep] = []
            for message in messages:
                steps += [*[Ping()] * (fault.size or 3), Text(message)]
            return steps
        case "garbage":
            return [*map(Text, before), Raw(b"\xff\xff" + rng.randbytes(64)), Fin()]
        case "binary_frame":
            return [*map(Text, before), Binary(after[0].encode()), *map(Text, after[1:])]
        case "invalid_event":
            return [*map(Text, before), Text(after[0][:-1]), *map(Text, after)]
        case "huge_message":
            size = fault.size or _DEFAULT_HUGE
            start, end = '{"type":"keepalive","padding":"', '"}'
            return [Text(start + "x" * (size - len(start) - len(end)) + end), *map(Text, messages)]
        case _:
            return _paced(messages, pace)


def perform_opening(head: bytes, fault: Fault | None, early: str, rng: random.Random) -> list[FrameStep]:
    """The steps that deliver ``head``, the end of the opening handshake; ``early``: a message sent along with it."""
    if fault is None:
        return [Raw(head)]
    match fault.name:
        case "slow" | "slow_first_token":
            return [Wait(fault.delay), Raw(head)]
        case "stall":
            return [pause(fault), Raw(head)]
        case "cut":
            return [Fin() if fault.how == "fin" else Abort()]
        case "half_head":
            return [Raw(head[: len(head) // 2]), Fin()]
        case "garbage":
            return [garbage(rng), Fin()]
        case "close":
            code = fault.code if fault.code >= _FIRST_CODE else _DEFAULT_CLOSE
            return [Raw(head), CloseFrame(code, "simulated")]
        case "early_text":
            return [Raw(head), Text(early)]
        case _:
            return [Raw(head)]


def _paced(messages: Sequence[str], pace: Pace) -> list[FrameStep]:
    steps: list[FrameStep] = []
    for index, message in enumerate(messages):
        if seconds := pace.before(index):
            steps.append(Wait(seconds))
        steps.append(Text(message))
    return steps


def _divided(messages: Sequence[str], at: str) -> tuple[Sequence[str], Sequence[str]]:
    """The messages before and after a place in a turn; the second part is never empty."""
    match at:
        case "before_head" | "after_head":
            index = 0
        case "before_stop":
            index = len(messages) - 1
        case _:
            index = len(messages) // 2
    return messages[:index], messages[index:]
