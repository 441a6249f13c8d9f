"""What one provider's side of the simulator offers to the server: a request in, an answer out. Pure types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.interfaces import IProtocol, IReactorTime

from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.player import Ending
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.steps import Reply


class TurnCounter(Protocol):
    """What counts the turns that are being answered: an account."""

    def begin_turn(self) -> None:
        """A turn begins."""

    def end_turn(self) -> None:
        """It is over, however it ended."""


class Switch(Protocol):
    """Makes the protocol that takes a connection over from HTTP."""

    def __call__(
        self,
        clock: IReactorTime,
        on_request: Callable[[ReceivedRequest], None],
        on_end: Callable[[Ending], None],
    ) -> IProtocol:
        """``on_request`` is to be told of what counts as a request, ``on_end`` once of the connection's end."""


@dataclass(slots=True)
class Delivery:
    """What is to be sent, what goes wrong with it, and whose turn it is (None: nobody's, or no turn).

    ``switch``: sends it, and everything that follows, in place of the HTTP server.
    """

    reply: Reply
    fault: Fault | None = None
    turn: TurnCounter | None = None
    switch: Switch | None = None


class SimulatedUpstream(Protocol):
    """One provider. No I/O."""

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The answer to ``request``, whose ``account`` and ``endpoint`` are filled in; None: not one of its paths."""
