"""Many streams on one connection, compatible with hashicorp/yamux, without I/O: bytes in, events and bytes out.

* :mod:`.session`: one side of a session, what an owner works with; :mod:`.events`, what it is told.
* :mod:`.parameters`: what a session may take, each number with its reason.
* :mod:`.frames`, :mod:`.window`, :mod:`.stream`, :mod:`.stream_table`, :mod:`.open_streams`, :mod:`.admission`,
  :mod:`.output`, :mod:`.keepalive`, :mod:`.timeouts`: its parts.

How it goes: feed what comes to ``Session.receive``; act on ``Session.events``; write ``Session.data_to_send`` to the
carrier, with 0 while that is full; call ``Session.tick`` when ``Session.next_deadline`` has come.
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
