"""TLS on one connection that we made: plain text above, records below."""

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

#: Most plain text that one TLS record carries, bytes (RFC 8446 section 5.1).
_RECORD: Final = 16 * 1024
#: What is put into or left in a MemoryBIO at a time, bytes: its buffer never shrinks, and stays with the connection
#: for as long as its stream lasts.
_BIO_PIECE: Final = 16 * 1024
#: Plain text of one read of the transport (64 KiB) fits in here, with what was left of a record before.
_SCRATCH: Final = memoryview(bytearray(96 * 1024))


@implementer(INegotiator, IByteStream)
class TLSTransport:
    """TLS on one connection: a protocol to the transport below, a transport to the protocol above.

    After the handshake a write never has to wait for a read (no renegotiation), so nothing is buffered here: flow
    control is that of the transport below, to which producers are passed on. Does not claim to be Twisted's
    ISSLTransport, whose users expect pyOpenSSL behind it.
    """

    __slots__ = (
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
        """``context``: how TLS is spoken. ``sessions``: what earlier connections to ``origin`` left behind."""
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
        self._closing = False  # we close: nothing more is delivered
        self._shut = False  # nothing more is written
        self._ended = False  # the peer has said that it is done
        self._reason: Exception | None = None
        self._producer: IProducer | None = None
        self._remembered = False

    @property
    def session_reused(self) -> bool:
        """Whether the handshake was shortened by an earlier connection's session."""
        return bool(self._object.session_reused)

    # IProtocol, for the transport below

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self._send = direct_writer(transport)

    def connectionMade(self) -> None:
        """Part of IProtocol; nothing is to be done."""

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
            # Anybody on the way can forge the end of the connection, only the peer the end of TLS.
            reason = Failure(ConnectionLost("TLS was cut off"))
        self._closing = self._shut = True
        if protocol is not None:
            protocol.connectionLost(reason)
        elif connecting is not None:
            connecting.failed(reason)

    # The handshake

    def negotiate(self) -> None:
        """See INegotiator; also goes on with the handshake, with what has come."""
        connecting = self._connecting
        if connecting is None:
            return
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
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
        """Decrypt ``data``, and pass it on in as few pieces as possible."""
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
            self._deliver(size)
        if self._reason is not None:
            self._flush()
            self.abortConnection()
        elif self._ended:
            self._close_with_peer()
        else:
            self._flush()  # an answer of TLS's own, to a change of keys

    def _close_with_peer(self) -> None:
        """The peer is done, and so are we, as over TCP: the producer is not waited for, only what it has written."""
        self._closing = True
        producer, self._producer = self._producer, None
        if producer is not None:
            self.transport.unregisterProducer()
            producer.stopProducing()
        self._shut_down()

    def _decrypt(self, size: int) -> int:
        """Put what can be decrypted behind the ``size`` bytes in the scratch buffer; how many there are then.

        What does not fit is delivered. Raises ssl.SSLError.
        """
        incoming, tls_object = self._incoming, self._object
        try:
            while (incoming.pending or tls_object.pending()) and not self._ended:
                # typeshed does not know that the result is a number if there is a buffer.
                got = cast(int, tls_object.read(len(_SCRATCH) - size, _SCRATCH[size:]))
                if not got:
                    self._ended = True
                size += got
                if size == len(_SCRATCH):
                    self._deliver(size)
                    size = 0
        except ssl.SSLWantReadError:
            pass  # a part of a record is left
        return size

    def _deliver(self, size: int) -> None:
        if not self._remembered:
            # Not earlier: TLS 1.3 sends its tickets after the handshake, in front of the first data.
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
        """Bytes that the transport below has not sent yet, encrypted."""
        return unsent_measure(self.transport)()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._closing = True
        if self._producer is None:
            self._shut_down()

    def _shut_down(self) -> None:
        """Say that we are done, and close the transport below once that is written."""
        if not self._shut:
            self._shut = True
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # the peer has not said that it is done; we need not wait for it (RFC 8446 section 6.1)
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
        """What the transport below rests on: its socket."""
        return self.transport.getHandle()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.transport.setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.transport.setTcpKeepAlive(enabled)

    def _flush(self) -> None:
        """Hand down what was encrypted."""
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
        if self._producer is None:  # else the transport below refuses
            self._producer = producer
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self.transport.unregisterProducer()
        if self._closing and not self._shut:
            self._shut_down()
