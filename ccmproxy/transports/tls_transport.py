"""TLS on one outgoing connection: plain text above, TLS records below."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final, cast

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IProducer, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.stall import unsent_measure
from ccmproxy.transports.tcp import direct_writer
from ccmproxy.transports.tls_sessions import Origin, SessionCache
from ccmproxy.transports.wrapping import Connecting, INegotiator

#: Maximum plain text of one TLS record, in bytes (RFC 8446 section 5.1).
_RECORD: Final = 16 * 1024
#: Maximum number of bytes in a MemoryBIO at a time: its buffer never shrinks, and lives as long as the connection.
_BIO_PIECE: Final = 16 * 1024
#: Most bytes in a row that may bring no plain text, such as tickets and key updates (F64). A record and a few tickets
#: come to less than a tenth of it.
_MOST_BARREN: Final = 256 * 1024
#: Buffer for decrypted data, shared by all connections. It has room for the plain text of one read of the transport
#: (64 KiB) and the rest of an earlier record.
_SCRATCH: Final = memoryview(bytearray(96 * 1024))


@implementer(INegotiator, IByteStream)
class TLSTransport:
    """TLS on one connection: a protocol for the transport below, a transport for the protocol above.

    After the handshake a write never has to wait for a read (no renegotiation), so nothing is buffered here. Producers
    are registered with the transport below, which does the flow control. It does not provide Twisted's ISSLTransport,
    whose users expect pyOpenSSL behind it.
    """

    __slots__ = (
        "_barren",
        "_closing",
        "_connecting",
        "_ended",
        "_incoming",
        "_object",
        "_origin",
        "_outgoing",
        "_producer",
        "_protocol",
        "_reason",
        "_remembered",
        "_send",
        "_sessions",
        "_shut",
        "transport",
    )

    def __init__(
        self, context: ssl.SSLContext, sessions: SessionCache, origin: Origin, connecting: Connecting
    ) -> None:
        """``context``: the TLS settings. ``sessions``: holds the session of an earlier connection to ``origin``."""
        self._sessions = sessions
        self._origin = origin
        self._connecting: Connecting | None = connecting
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=origin[0], session=sessions.get(origin)
        )
        self._protocol: IProtocol | None = None
        self.transport: Any
        self._closing = False  # we are closing: no more data is delivered
        self._shut = False  # no more data is written
        self._ended = False  # the peer has sent close_notify
        self._reason: Exception | None = None
        self._producer: IProducer | None = None
        self._remembered = False
        #: Bytes received since the last plain text.
        self._barren = 0

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed the session of an earlier connection."""
        return bool(self._object.session_reused)

    # IProtocol, for the transport below

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self._send = direct_writer(transport)

    def connectionMade(self) -> None:
        """Do nothing; part of IProtocol."""

    def dataReceived(self, data: bytes) -> None:
        if self._connecting is not None:
            self._incoming.write(data)
            self.negotiate()
            data = b""
        if self._protocol is not None:
            self._read(data)

    def connectionLost(self, reason: Failure) -> None:
        protocol, self._protocol = self._protocol, None
        connecting, self._connecting = self._connecting, None
        if self._ended:
            reason = Failure(ConnectionDone())
        elif self._reason is not None:
            reason = Failure(self._reason)
        elif reason.check(ConnectionDone) and not self._closing:
            # Anybody on the network path can forge the end of the TCP connection, but only the peer a close_notify.
            reason = Failure(ConnectionLost("TLS was cut off"))
        self._closing = self._shut = True
        if protocol is not None:
            protocol.connectionLost(reason)
        elif connecting is not None:
            connecting.failed(reason)

    # The handshake

    def negotiate(self) -> None:
        """See INegotiator. Also called to continue the handshake with the data received since."""
        connecting = self._connecting
        if connecting is None:
            return
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # sends the alert that tells the peer the reason
            self._connecting = None
            self._closing = self._shut = True
            self._sessions.forget(self._origin)
            self.transport.loseConnection()
            connecting.failed(Failure(error))
            return
        self._flush()
        self._connecting = None
        protocol = connecting.established(self)
        if protocol is not None:
            self._protocol = protocol
            protocol.makeConnection(self)
            connecting.succeeded(protocol)

    # Reading

    def _read(self, data: bytes) -> None:
        """Decrypt ``data``, and deliver it in as few pieces as possible."""
        size = 0
        try:
            if len(data) <= _BIO_PIECE:
                self._incoming.write(data)
                size = self._decrypt(0)
            else:
                view = memoryview(data)
                for start in range(0, len(data), _BIO_PIECE):
                    self._incoming.write(view[start : start + _BIO_PIECE])
                    size = self._decrypt(size)
        except ssl.SSLError as error:
            self._reason = ConnectionLost(f"TLS failed: {error}")
        if size:
            self._barren = 0
            self._deliver(size)
        else:
            self._barren += len(data)
            if self._barren > _MOST_BARREN and self._reason is None:
                self._reason = ConnectionLost("TLS brought too much without any data")
        if self._reason is not None:
            self._flush()
            self.abortConnection()
        elif self._ended:
            self._close_with_peer()
        else:
            self._flush()  # TLS itself may have to answer, for example to a key update

    def _close_with_peer(self) -> None:
        """Close because the peer has closed, as over TCP: send what was written, without waiting for the producer."""
        self._closing = True
        producer, self._producer = self._producer, None
        if producer is not None:
            self.transport.unregisterProducer()
            producer.stopProducing()
        self._shut_down()

    def _decrypt(self, size: int) -> int:
        """Append what can be decrypted to the ``size`` bytes in the scratch buffer; return the new number of bytes.

        A full buffer is delivered, and then filled anew. Raises ssl.SSLError when the peer violates TLS.
        """
        incoming, tls_object = self._incoming, self._object
        try:
            while (incoming.pending or tls_object.pending()) and not self._ended:
                # typeshed does not declare that the result is a number when a buffer is passed.
                got = cast(int, tls_object.read(len(_SCRATCH) - size, _SCRATCH[size:]))
                if not got:
                    self._ended = True
                size += got
                if size == len(_SCRATCH):
                    self._deliver(size)
                    size = 0
        except ssl.SSLWantReadError:
            pass  # the rest of a record has not arrived yet
        return size

    def _deliver(self, size: int) -> None:
        if not self._remembered:
            # Done at the first data, because TLS 1.3 sends its tickets after the handshake, ahead of the data.
            self._remembered = True
            session = self._object.session
            if session is not None and (session.has_ticket or session.id):
                self._sessions.remember(self._origin, session)
        if self._protocol is not None and not self._closing:
            self._protocol.dataReceived(bytes(_SCRATCH[:size]))

    # ITransport

    def write(self, data: bytes) -> None:
        if self._shut or not data:
            return
        tls_object = self._object
        try:
            if len(data) <= _RECORD:
                tls_object.write(data)
            else:
                view = memoryview(data)
                encrypted = []
                written = 0
                while written < len(view):
                    written += tls_object.write(view[written : written + _RECORD])
                    encrypted.append(self._outgoing.read())
                self.transport.writeSequence(encrypted)
        except ssl.SSLError as error:
            self._reason = ConnectionLost(f"TLS failed: {error}")
            self.abortConnection()
            return
        self._flush()

    def unsent_bytes(self) -> int:
        """Return the number of encrypted bytes that the transport below has not sent yet."""
        return unsent_measure(self.transport)()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._closing = True
        if self._producer is None:
            self._shut_down()

    def _shut_down(self) -> None:
        """Send close_notify, and close the transport below once that is written."""
        if not self._shut:
            self._shut = True
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # the peer has not sent close_notify; we need not wait for it (RFC 8446 section 6.1)
            self._flush()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        self._closing = self._shut = True
        self.transport.abortConnection()

    def getPeer(self) -> IAddress:
        return self.transport.getPeer()  # type: ignore[no-any-return]

    def getHost(self) -> IAddress:
        return self.transport.getHost()  # type: ignore[no-any-return]

    def getHandle(self) -> Any:
        """Return the handle of the transport below: its socket."""
        return self.transport.getHandle()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.transport.setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.transport.setTcpKeepAlive(enabled)

    def _flush(self) -> None:
        """Pass encrypted data to the transport below."""
        if self._outgoing.pending:
            self._send(self._outgoing.read())

    # IPushProducer

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._producer is None:  # otherwise the transport below raises
            self._producer = producer
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self.transport.unregisterProducer()
        if self._closing and not self._shut:
            self._shut_down()
