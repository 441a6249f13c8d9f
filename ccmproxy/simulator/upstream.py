"""What one provider's side of the simulator offers to the server: a request in, an answer out. Pure types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.steps import Reply


class TurnCounter(Protocol):
    """What counts the turns that are being answered: an account."""

    def begin_turn(self) -> None:
        """A turn begins."""

    def end_turn(self) -> None:
        """It is over, however it ended."""


@dataclass(slots=True)
class Answer:
    """What is to be sent, what goes wrong with it, and whose turn it is (None: nobody's, or no turn)."""

    reply: Reply
    fault: Fault | None = None
    turn: TurnCounter | None = None


class Upstream(Protocol):
    """One provider. No I/O."""

    def answer(self, request: ReceivedRequest) -> Answer | None:
        """The answer to ``request``, whose ``account`` and ``endpoint`` are filled in; None: not one of its paths."""
