"""What is measured: one entry per table of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

#: Events per block of the upstream's ``burst`` (upstream.c).
BLOCK_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    ``load``: the mode of load.c; ``upstream``: the arguments of upstream.c; ``body``: which request body is sent.
    """

    name: str
    title: str
    load: Literal["requests", "streams", "hold", "churn"]
    upstream: tuple[str, ...]
    body: Literal["small", "turn", "large"]
    connections: int
    #: One unit of work, in the singular and in the plural.
    unit: tuple[str, str] = ("request", "requests")
    #: Units per completed answer (``requests``) or per event (``streams``).
    units_per_count: float = 1.0
    seconds: float = 3.0
    warmup_ms: int = 500
    #: ``churn``: number of streams measured, and of those before.
    count: int = 0
    warmup_count: int = 0
    tls: bool = False
    #: Whether the requests ask for a WebSocket, on which the bodies are sent as messages.
    websocket: bool = False
    #: Whether memory is measured: the peer is then started anew for each round, without a direct connection to compare.
    memory: bool = False
    #: Seconds to let memory settle before it is read.
    settle: float = 1.0


_EVENTS = ("1,000 events", "thousand events")
_BURST_BLOCKS = 64

_PLAIN = (
    Scenario(
        "small",
        "Small requests: 300-byte JSON body, JSON answer, 32 keep-alive connections",
        "requests",
        ("--mode", "json"),
        "small",
        connections=32,
    ),
    Scenario(
        "body",
        "1 MB request bodies: a long conversation, JSON answer, 8 keep-alive connections",
        "requests",
        ("--mode", "json"),
        "large",
        connections=8,
    ),
    Scenario(
        "paced",
        "1,000 event streams, 20 events per second each",
        "streams",
        ("--mode", "paced", "--interval-us", "50000"),
        "turn",
        connections=1000,
        unit=_EVENTS,
        units_per_count=0.001,
        seconds=5.0,
        warmup_ms=1000,
    ),
    Scenario(
        "burst",
        f"Event streams as fast as possible: {_BURST_BLOCKS * BLOCK_EVENTS:,} events each, 32 at a time",
        "requests",
        ("--mode", "burst", "--blocks", str(_BURST_BLOCKS)),
        "turn",
        connections=32,
        unit=_EVENTS,
        units_per_count=_BURST_BLOCKS * BLOCK_EVENTS * 0.001,
    ),
    Scenario(
        "idle",
        "Memory of 1,000 open streams that are silent",
        "hold",
        ("--mode", "hold"),
        "turn",
        connections=1000,
        unit=("stream", "streams"),
        memory=True,
    ),
)

_TURN = ("turn", "turns")

_WEBSOCKET = (
    Scenario(
        "ws-small",
        "WebSocket turns: 300-byte message, answered by an event and the end of the turn, 32 connections",
        "requests",
        ("--mode", "json"),
        "small",
        connections=32,
        unit=_TURN,
        websocket=True,
    ),
    Scenario(
        "ws-body",
        "WebSocket turns with messages of 1 MB both ways, 8 connections",
        "requests",
        ("--mode", "json", "--answer-bytes", "1000000"),
        "large",
        connections=8,
        unit=_TURN,
        websocket=True,
    ),
    Scenario(
        "ws-paced",
        "500 WebSockets, 10 events per second each",
        "streams",
        ("--mode", "paced", "--interval-us", "100000"),
        "small",
        connections=500,
        unit=_EVENTS,
        units_per_count=0.001,
        seconds=5.0,
        warmup_ms=1000,
        websocket=True,
    ),
    Scenario(
        "ws-idle",
        "Memory of 500 open WebSockets that are silent after one turn",
        "hold",
        ("--mode", "json"),
        "small",
        connections=500,
        unit=("WebSocket", "WebSockets"),
        memory=True,
        websocket=True,
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    *_PLAIN,
    Scenario(
        "churn",
        "10,000 streams opened and closed, every second one broken off by the client, 200 at a time",
        "churn",
        ("--mode", "paced", "--events", "3", "--interval-us", "10000"),
        "turn",
        connections=200,
        unit=("stream", "streams"),
        count=10_000,
        # As many before: allocators reserve memory during the first thousands, which is not a leak.
        warmup_count=10_000,
        memory=True,
    ),
    *(
        replace(each, name=f"{each.name}-tls", title=f"{each.title}; TLS to the upstream", tls=True)
        for each in _PLAIN
    ),
    *_WEBSOCKET,
)


def shortened(scenario: Scenario) -> Scenario:
    """The scenario shortened for a first impression: seconds become fractions, streams become hundreds."""
    return replace(
        scenario,
        connections=min(scenario.connections, 200 if scenario.memory else 400),
        seconds=scenario.seconds / 5,
        warmup_ms=scenario.warmup_ms // 3,
        settle=scenario.settle / 2,
        count=scenario.count // 10,
        warmup_count=scenario.warmup_count // 10,
    )


def named(names: Sequence[str]) -> list[Scenario]:
    """The scenarios ``names`` in the order of the report; all if empty. Raises KeyError for an unknown name."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise KeyError(name)
    return [scenario for scenario in SCENARIOS if not names or scenario.name in names]
