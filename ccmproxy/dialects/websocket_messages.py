"""The meaning of WebSocket messages, independent of the dialect (spec 10). Values only."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import ResponseHead
from ccmproxy.state.limits import LimitsUpdate


@dataclass(frozen=True, slots=True)
class ClientFrame:
    """A message of the client.

    ``begins_turn``: it requests a response. ``is_warm_up``: it requests a response that costs nothing and has no
    output. ``model``: None where the message names none.
    """

    begins_turn: bool = False
    is_warm_up: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedTurn:
    """An error message on the connection, equivalent to an HTTP response with this head and body."""

    head: ResponseHead
    body: bytes


@dataclass(frozen=True, slots=True)
class UpstreamFrame:
    """A message of the upstream.

    ``is_hidden``: the message describes a single account, so it never reaches the client. ``limits``: the state of the
    account that it reports. ``refusal``: the turn was refused. ``connection_limit``: the connection has reached its
    limit. ``is_output``: the output of the turn has begun. ``ends_turn``: nothing more follows for this turn.
    ``reading``: usage of the turn, where reported.
    """

    is_hidden: bool = False
    limits: LimitsUpdate | None = None
    refusal: RefusedTurn | None = None
    connection_limit: bool = False
    is_output: bool = False
    ends_turn: bool = False
    reading: MeterReading | None = None


#: Most messages: relevant to the client alone.
PASSING = UpstreamFrame()
#: A message for the client that is part of the output.
OUTPUT = UpstreamFrame(is_output=True)
