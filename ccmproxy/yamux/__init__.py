"""Multiplexed streams on one connection, compatible with hashicorp/yamux, without I/O: bytes in, events and bytes out.

* :mod:`.session`: one side of a session, the interface for its owner; :mod:`.events`: what the owner is told.
* :mod:`.parameters`: the limits and time-outs of a session, each with its reason.
* :mod:`.frames`, :mod:`.window`, :mod:`.stream`, :mod:`.stream_table`, :mod:`.open_streams`, :mod:`.admission`,
  :mod:`.output`, :mod:`.keepalive`, :mod:`.timeouts`: the parts of a session.

Usage: feed received bytes to ``Session.receive``; act on ``Session.events``; write ``Session.data_to_send`` to the
carrier (pass 0 as ``max_bytes`` while the carrier is full); call ``Session.tick`` at ``Session.next_deadline``.
"""

from ccmproxy.yamux.errors import (
    CannotOpen,
    CarrierClosed,
    PeerFailed,
    ProtocolError,
    SessionError,
    SessionTimeout,
)
from ccmproxy.yamux.events import (
    DataReceived,
    DataSent,
    EndReceived,
    EndSent,
    Event,
    PeerGoesAway,
    PingAnswered,
    SessionEnded,
    StreamAcknowledged,
    StreamOpened,
    StreamReset,
)
from ccmproxy.yamux.parameters import Rate, SessionConfig
from ccmproxy.yamux.session import Session
from ccmproxy.yamux.stream import Direction, Stream

__all__ = [
    "CannotOpen",
    "CarrierClosed",
    "DataReceived",
    "DataSent",
    "Direction",
    "EndReceived",
    "EndSent",
    "Event",
    "PeerFailed",
    "PeerGoesAway",
    "PingAnswered",
    "ProtocolError",
    "Rate",
    "Session",
    "SessionConfig",
    "SessionEnded",
    "SessionError",
    "SessionTimeout",
    "Stream",
    "StreamAcknowledged",
    "StreamOpened",
    "StreamReset",
]
