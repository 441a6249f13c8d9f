"""Sessions of yamux on Twisted's transports, and their streams as transports and endpoints.

* :mod:`.carrier`: a session on a connection; :mod:`.stream_transport`: one of its streams; :mod:`.address`.
* :mod:`.endpoints`: connecting to and listening on streams, as on anything else.
* :mod:`.stream_errors`: how they end.
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
