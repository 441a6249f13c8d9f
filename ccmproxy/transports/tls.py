"""TLS for connections that we make, on top of any stream transport.

The standard library's ``ssl.MemoryBIO`` does the cryptography, and OpenSSL itself checks the name (or the IP address)
in the certificate. Compared to Twisted's own TLS protocol this costs about half as much per relayed piece, and an
endpoint's ``connect`` fires only after the handshake, so that a certificate that does not verify is a failure to
connect: nothing was sent.
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
    """How our side of TLS is done: whom we trust, TLS 1.2 at least, ALPN ``http/1.1``.

    ``ca_file``: PEM file with certificates to trust besides the system's. Reads it at once; raises OSError or
    ssl.SSLError. ``handshake_timeout`` in seconds. One object serves any number of origins and connections.
    ``sessions``: what earlier connections left behind for shortening the next handshake.
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
        """An endpoint that speaks TLS with ``host`` over what ``endpoint`` connects to.

        ``host`` is a DNS name (sent as SNI) or an IP address, as the certificate must name it; ``port`` only tells
        origins apart. Raises ValueError for a name that is none.
        """
        build = partial(TLSTransport, self._context, self.sessions, (_ascii_host(host), port))
        return TLSEndpoint(endpoint, build, clock, self.handshake_timeout)


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Connects through another endpoint and does the handshake; made by :meth:`ClientTLS.wrap`.

    ``connect`` fails with what the other endpoint fails with, with ssl.SSLError (ssl.SSLCertVerificationError where
    the certificate does not verify), with TimeoutError after the time for the handshake, or with ConnectionLost. The
    protocol is built only after the handshake.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        build: Callable[[Connecting], TLSTransport],
        clock: IReactorTime,
        timeout: float,
    ) -> None:
        """``build``: makes the TLS of one connection. ``timeout``: seconds for the handshake."""
        self._endpoint = endpoint
        self._build = build
        self._clock = clock
        self._timeout = timeout

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of ``protocol_factory``. Cancelling closes the connection at once."""
        late = TimeoutError(string="no TLS handshake in time")
        connecting = Connecting(protocol_factory, self._clock, self._build, self._timeout, late)
        return connecting.begin(self._endpoint)


def _ascii_host(host: str) -> str:
    """A host as TLS knows it. Raises ValueError (UnicodeError is one)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.rstrip(".").encode("idna").decode("ascii")
