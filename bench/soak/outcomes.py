"""What is known of one request: how it ended at its client, and what the simulator recorded of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class End(Enum):
    """How an answer ended at the client."""

    #: The framing says that the answer is complete.
    WHOLE = "whole"
    #: The connection ended before the answer did.
    BROKEN = "broken"
    #: The client went away, because it was meant to.
    LEFT = "left"
    #: Nothing ended the request before the client's patience did.
    HUNG = "hung"


@dataclass(slots=True)
class Outcome:
    """One request as its client saw it. Times are seconds of the driver's monotonic clock.

    ``service``: ``claude`` or ``codex``. ``kind``: of request (see :mod:`bench.soak.requests`). ``user``: its sender.
    ``status``: of the answer, 0 if none began. ``error``: the word in ``X-CCM-Error``, empty if the answer has none.
    ``is_right``: the answer holds exactly the text that was asked for, and its final event. ``failed``: the answer
    tells of a failure within a stream. ``reused``: the client's connection had carried an earlier request. ``reaches``:
    the request is meant for the upstream. ``expected``: the status of the answer that is meant, e.g. 401 for a wrong
    token. ``streamed``: the answer is a stream of events, or messages of a WebSocket. ``closed``: the code with which
    a WebSocket was closed (RFC 6455 section 7.4), 0: it was not.
    """

    id: str
    service: str
    kind: str
    user: str
    began: float
    ended: float = 0.0
    end: End = End.HUNG
    status: int = 0
    error: str = ""
    is_right: bool = False
    failed: bool = False
    reused: bool = False
    reaches: bool = True
    expected: int = 200
    streamed: bool = False
    closed: int = 0

    @property
    def is_websocket(self) -> bool:
        """Whether the request travelled by WebSocket, or opened one."""
        return self.kind.startswith("websocket")

    @property
    def shape(self) -> str:
        """In a few words what the client got."""
        if self.end in (End.HUNG, End.LEFT):
            return "hung" if self.end is End.HUNG else "left"
        if self.end is End.BROKEN:
            return "broken off" if self.status else "no answer"
        if self.error:
            return f"refused here: {self.error}"
        if self.status >= 400:
            return f"refused: {self.status}"
        if self.failed:
            return "failure in the stream"
        return "served" if self.is_right else "other content"


@dataclass(slots=True)
class Try:
    """One request as the simulator recorded it. ``at``: seconds of the driver's monotonic clock.

    ``account``: name of the simulated account. ``fault``: name of the fault that it met. ``status``: of the answer.
    ``state``: how the answer went (see :class:`ccmproxy.simulator.record.ReceivedRequest`). ``connection``: where it
    came from. ``reused``: that connection had carried an earlier request. ``endpoint``: kind of request.
    """

    at: float
    account: str
    fault: str | None
    status: int
    state: str
    connection: str = ""
    reused: bool = False
    endpoint: str = "turn"

    @property
    def is_served(self) -> bool:
        """Whether the simulator did its part without any fault that a client could notice."""
        return self.status in (101, 200) and self.state == "finished" and self.fault in HARMLESS


#: Faults after which an answer is still whole and right; None: there was no fault.
HARMLESS = frozenset({None, "none", "slow", "slow_first_token", "pieces", "random_pieces", "pings", "gzip"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the whole run. ``name``: see :mod:`bench.soak.judging`.

    ``service``: the one that it concerns; empty: all. ``ended``: infinite while it lasts.
    """

    name: str
    began: float
    ended: float
    service: str = ""
