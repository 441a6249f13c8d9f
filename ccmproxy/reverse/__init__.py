"""Yamux sessions on Twisted's transports, their streams as transports and endpoints, and reverse connections.

* :mod:`.carrier`: a session on a connection; :mod:`.stream_transport`: one of its streams as a transport;
  :mod:`.address`: the address of a stream.
* :mod:`.endpoints`: endpoints that connect and listen by streams.
* :mod:`.stream_errors`: the reasons for which streams are lost or not opened.
* :mod:`.connector` and :mod:`.receiver`: both sides of a reverse connection; :mod:`.upgrading`: its handshake.
"""

from ccmproxy.reverse.address import StreamAddress
from ccmproxy.reverse.carrier import YamuxProtocol
from ccmproxy.reverse.endpoints import StreamClientEndpoint, StreamServerEndpoint
from ccmproxy.reverse.stream_errors import SessionLost, StreamAborted, StreamNotOpened
from ccmproxy.reverse.stream_transport import StreamTransport

__all__ = [
    "SessionLost",
    "StreamAborted",
    "StreamAddress",
    "StreamClientEndpoint",
    "StreamNotOpened",
    "StreamServerEndpoint",
    "StreamTransport",
    "YamuxProtocol",
]
