"""The interface between one provider's side of the simulator and the server: request in, response out. Pure types."""

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
    """Counts the turns that are in progress: an account or a key."""

    def begin_turn(self) -> None:
        """A turn begins."""

    def end_turn(self) -> None:
        """The turn has ended, in whatever way."""


class Switch(Protocol):
    """Makes the protocol that takes over a connection from HTTP."""

    def __call__(
        self,
        clock: IReactorTime,
        on_request: Callable[[ReceivedRequest], None],
        on_end: Callable[[Ending], None],
    ) -> IProtocol:
        """Make the protocol. It calls ``on_request`` for every request, and ``on_end`` once, at the end."""


@dataclass(slots=True)
class Delivery:
    """The response to send, the fault to apply, and the account whose turn it is (None: no account, or no turn).

    ``switch``: makes the protocol that sends it, and everything that follows, in place of the HTTP server.
    """

    reply: Reply
    fault: Fault | None = None
    turn: TurnCounter | None = None
    switch: Switch | None = None


class SimulatedUpstream(Protocol):
    """One provider. No I/O."""

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The response to ``request``, whose ``account`` and ``endpoint`` it sets; None: not one of its paths."""
