"""TLS for connections that we make, on top of any stream transport.

The standard library's ``ssl.MemoryBIO`` does the cryptography, and OpenSSL itself verifies the name (or IP address) in
the certificate. This costs about half as much per relayed piece as Twisted's own TLS protocol. An endpoint's
``connect`` fires only after the handshake, so that a certificate which does not verify is a failure to connect: no
request has been sent.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from ccmproxy.transports.tls_sessions import SessionCache
from ccmproxy.transports.tls_transport import TLSTransport
from ccmproxy.transports.wrapping import Connecting


class ClientTLS:
    """TLS settings of our connections: trusted certificates, at least TLS 1.2, ALPN ``http/1.1``.

    ``ca_file``: PEM file with certificates to trust besides the system's. It is read at once; raises OSError or
    ssl.SSLError if that fails. ``handshake_timeout`` is in seconds. One object serves any number of origins and
    connections. ``sessions``: TLS sessions of earlier connections, for session resumption.
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
        self.handshake_timeout = handshake_timeout
        self.sessions = SessionCache()

    def wrap(self, endpoint: IStreamClientEndpoint, host: str, port: int, clock: IReactorTime) -> TLSEndpoint:
        """Return an endpoint that speaks TLS with ``host`` over the connections of ``endpoint``.

        ``host``: the DNS name (sent as SNI) or IP address that the certificate must contain. ``port`` only tells
        origins apart, for session resumption. Raises ValueError when ``host`` is not a valid host name.
        """
        build = partial(TLSTransport, self._context, self.sessions, (_ascii_host(host), port))
        return TLSEndpoint(endpoint, build, clock, self.handshake_timeout)


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Connects through another endpoint and does the TLS handshake; made by :meth:`ClientTLS.wrap`.

    ``connect`` fails with the error of the other endpoint, with ssl.SSLError (ssl.SSLCertVerificationError when the
    certificate does not verify), with TimeoutError when the handshake takes too long, or with ConnectionLost. The
    protocol is built only after the handshake.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        build: Callable[[Connecting], TLSTransport],
        clock: IReactorTime,
        timeout: float,
    ) -> None:
        """``build``: makes the TLS transport of one connection. ``timeout``: seconds for the handshake."""
        self._endpoint = endpoint
        self._build = build
        self._clock = clock
        self._timeout = timeout

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol built by ``protocol_factory``. Cancelling closes the connection at once."""
        late = TimeoutError(string="no TLS handshake in time")
        connecting = Connecting(protocol_factory, self._clock, self._build, self._timeout, late)
        return connecting.begin(self._endpoint)


def _ascii_host(host: str) -> str:
    """Return a host as TLS needs it, in ASCII. Raises ValueError (or its subclass UnicodeError) for an invalid name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.rstrip(".").encode("idna").decode("ascii")
