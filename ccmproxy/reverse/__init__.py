"""Sessions of yamux on Twisted's transports, and their streams as transports and endpoints.

* :mod:`.protocol`: a session on a connection; :mod:`.stream`: one of its streams, :mod:`.address`, where it is.
* :mod:`.endpoints`: connecting to and listening on streams, as on anything else.
* :mod:`.errors`: how they end.
"""

from ccmproxy.reverse.address import StreamAddress
from ccmproxy.reverse.endpoints import StreamClientEndpoint, StreamServerEndpoint
from ccmproxy.reverse.errors import SessionLost, StreamAborted, StreamNotOpened
from ccmproxy.reverse.protocol import YamuxProtocol
from ccmproxy.reverse.stream import StreamTransport

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
