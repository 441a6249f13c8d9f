"""TLS for connections that we make, on top of any stream transport.

The standard library's ``ssl.MemoryBIO`` does the cryptography, and OpenSSL itself checks the name (or the IP address)
in the certificate. Compared to Twisted's own TLS protocol this costs about half as much per relayed piece, and an
endpoint's ``connect`` fires only after the handshake, so that a certificate that does not verify is a failure to
connect: nothing was sent.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.stall import unsent_measure
from ccmproxy.transports.tcp import direct_writer

KIB: Final = 1024

#: Most plain text that one TLS record carries (RFC 8446 section 5.1).
_RECORD: Final = 16 * KIB
#: What is put into or left in a MemoryBIO at a time, bytes: its buffer never shrinks, and stays with the connection
#: for as long as its stream lasts.
_BIO_PIECE: Final = 16 * KIB
#: Plain text of one read of the transport (64 KiB) fits in here, with what was left of a record before.
_SCRATCH: Final = memoryview(bytearray(96 * KIB))
#: Sessions that are remembered, one for each origin.
_SESSIONS: Final = 256


class ClientTLS:
    """How our side of TLS is done: whom we trust, TLS 1.2 at least, ALPN ``http/1.1``; and what earlier connections
    left behind for shortening the next handshake.

    ``ca_file``: PEM file with certificates to trust besides the system's. Reads it at once; raises OSError or
    ssl.SSLError. ``handshake_timeout`` in seconds. One object serves any number of origins and connections.
    """

    def __init__(self, ca_file: str | None = None, handshake_timeout: float = 10.0) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # so that a write never has to wait for a read
        context.set_alpn_protocols(["http/1.1"])
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if ca_file is not None:
            context.load_verify_locations(cafile=ca_file)
        self._context = context
        self._sessions: dict[tuple[str, int], ssl.SSLSession] = {}
        self.handshake_timeout = handshake_timeout

    def wrap(self, endpoint: IStreamClientEndpoint, host: str, port: int, clock: IReactorTime) -> TLSEndpoint:
        """An endpoint that speaks TLS with ``host`` over what ``endpoint`` connects to.

        ``host`` is a DNS name (sent as SNI) or an IP address, as the certificate must name it; ``port`` only tells
        origins apart. Raises ValueError for a name that is none.
        """
        return TLSEndpoint(self, endpoint, _ascii_host(host), port, clock)

    def begin(
        self, origin: tuple[str, int], incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> ssl.SSLObject:
        """The TLS state of a new connection."""
        session = self._sessions.get(origin)
        return self._context.wrap_bio(incoming, outgoing, server_hostname=origin[0], session=session)

    def forget(self, origin: tuple[str, int]) -> None:
        """Let the next connection to ``origin`` begin from nothing."""
        self._sessions.pop(origin, None)

    def remember(self, origin: tuple[str, int], session: ssl.SSLSession) -> None:
        """Keep ``session`` for the next connection to ``origin``."""
        self._sessions.pop(origin, None)
        self._sessions[origin] = session
        if len(self._sessions) > _SESSIONS:
            del self._sessions[next(iter(self._sessions))]


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Connects through another endpoint and does the handshake; made by :meth:`ClientTLS.wrap`.

    ``connect`` fails with what the other endpoint fails with, with ssl.SSLError (ssl.SSLCertVerificationError where
    the certificate does not verify), with TimeoutError after ``handshake_timeout``, or with ConnectionLost. The
    protocol is built only after the handshake.
    """

    def __init__(
        self, tls: ClientTLS, endpoint: IStreamClientEndpoint, host: str, port: int, clock: IReactorTime
    ) -> None:
        self._tls = tls
        self._endpoint = endpoint
        self._origin = host, port
        self._clock = clock

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of ``protocol_factory``. Cancelling closes the connection at once."""
        return _Connecting(self._tls, self._origin, self._clock, protocol_factory).begin(self._endpoint)


@implementer(IProtocolFactory)
class _Connecting:
    """One ``connect`` of a TLSEndpoint, until its Deferred fires."""

    def __init__(
        self, tls: ClientTLS, origin: tuple[str, int], clock: IReactorTime, factory: IProtocolFactory
    ) -> None:
        self._tls = tls
        self._origin = origin
        self._clock = clock
        self._factory = factory
        self._transport: TLSTransport | None = None
        self._deadline: IDelayedCall | None = None
        self._over = False

    def begin(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        self._result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._below = endpoint.connect(self)
        self._below.addCallbacks(self._connected, self.failed)
        return self._result

    # IProtocolFactory, for the endpoint below

    def buildProtocol(self, address: IAddress) -> TLSTransport | None:
        return None if self._over else TLSTransport(self._tls, self._origin, self)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def _connected(self, transport: IProtocol) -> None:
        assert isinstance(transport, TLSTransport)
        if self._over:
            transport.abortConnection()
            return
        self._transport = transport
        self._deadline = self._clock.callLater(self._tls.handshake_timeout, self._time_out)
        transport.shake_hands()

    # What the transport tells

    def established(self, transport: TLSTransport) -> IProtocol | None:
        """The handshake is done: the protocol that goes on from here; None if nobody wants it."""
        if self._over:
            return None
        return self._factory.buildProtocol(transport.getPeer())

    def succeeded(self, protocol: IProtocol) -> None:
        if not self._over:
            self._finish()
            self._result.callback(protocol)

    def failed(self, reason: Failure) -> None:
        if not self._over:
            self._finish()
            self._result.errback(reason)

    def _time_out(self) -> None:
        self._deadline = None
        if self._transport is not None:
            self._transport.abortConnection()
        self.failed(Failure(TimeoutError(string="no TLS handshake in time")))

    def _cancelled(self, result: Deferred[IProtocol]) -> None:
        transport = self._transport
        self._finish()
        if transport is not None:
            transport.abortConnection()
        else:
            self._below.cancel()

    def _finish(self) -> None:
        self._over = True
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@implementer(IProtocol, ITransport, IConsumer, IPushProducer)
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
        "_producing",
        "_protocol",
        "_reason",
        "_remembered",
        "_send",
        "_shut",
        "_tls",
        "transport",
    )

    def __init__(self, tls: ClientTLS, origin: tuple[str, int], connecting: _Connecting) -> None:
        self._tls = tls
        self._origin = origin
        self._connecting: _Connecting | None = connecting
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = tls.begin(origin, self._incoming, self._outgoing)
        self._protocol: IProtocol | None = None
        self.transport: Any
        self._closing = False  # we close: nothing more is delivered
        self._shut = False  # nothing more is written
        self._ended = False  # the peer has said that it is done
        self._reason: Exception | None = None
        self._producing = False
        self._remembered = False

    @property
    def session_reused(self) -> bool:
        """Whether the handshake was shortened by an earlier connection's session."""
        return bool(self._object.session_reused)

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """What ALPN chose; None if the peer does not know ALPN."""
        chosen = self._object.selected_alpn_protocol()
        return None if chosen is None else chosen.encode("ascii")

    # IProtocol, for the transport below

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self._send = direct_writer(transport)

    def connectionMade(self) -> None:
        """Part of IProtocol; nothing is to be done."""

    def dataReceived(self, data: bytes) -> None:
        if self._connecting is not None:
            self._incoming.write(data)
            self.shake_hands()
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

    def shake_hands(self) -> None:
        """Begin the handshake, or go on with it."""
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
            self._tls.forget(self._origin)
            self.transport.loseConnection()
            connecting.failed(Failure(error))
            return
        self._flush()
        self._connecting = None
        protocol = connecting.established(self)
        if protocol is None:
            self.abortConnection()
            connecting.failed(Failure(ConnectionLost("nobody wants the connection")))
            return
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
            self.loseConnection()
        else:
            self._flush()  # an answer of TLS's own, to a change of keys

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
                self._tls.remember(self._origin, session)
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
        if not self._producing:
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
        self._producing = True
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._producing = False
        self.transport.unregisterProducer()
        if self._closing and not self._shut:
            self._shut_down()


def _ascii_host(host: str) -> str:
    """A host as TLS knows it. Raises ValueError (UnicodeError is one)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.rstrip(".").encode("idna").decode("ascii")
