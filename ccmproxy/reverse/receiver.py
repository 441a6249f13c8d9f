"""The accepting side of a reverse connection: a remote connects to us, and we send it requests (spec 7.2, 7.4)."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.reverse.carrier import YamuxProtocol
from ccmproxy.reverse.endpoints import StreamClientEndpoint
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS

#: Seconds in which the requests in flight on a replaced connection must finish.
REPLACED_GRACE = 10.0
#: Seconds in which the peer of a replaced connection must answer a ping. When the remote's address has changed, the old
#: connection is dead, and requests on it should not have to wait for the end of REPLACED_GRACE.
REPLACED_ANSWER = 2.0


class ReverseCredential(Protocol):
    """A credential whose remote opens connections to us."""

    tag: str

    def attach(self, link: IReverseLink) -> None:
        """Use ``link`` from now on, and close the older link, if any."""

    def leaving(self, link: IReverseLink) -> None:
        """Open no more streams on ``link``: the remote takes none. Open ones continue."""

    def detach(self, link: IReverseLink) -> None:
        """Stop using ``link``, which is lost. Called once for every link that was attached."""


@implementer(IReverseLink)
class ReverseLink:
    """The view that a credential has of a session with its remote."""

    def __init__(self, session: YamuxProtocol, clock: IReactorTime) -> None:
        self.endpoint = StreamClientEndpoint(session)
        self._session = session
        self._clock = clock

    @property
    def is_usable(self) -> bool:
        """See IReverseLink."""
        return self._session.is_usable

    def close(self) -> None:
        """Drain the session: requests in flight have ``REPLACED_GRACE`` seconds to finish, provided that the peer
        answers a ping within ``REPLACED_ANSWER`` seconds. If it does not, the session is aborted."""
        session = self._session
        session.close(REPLACED_GRACE)
        # The ping also fails when the session ends before the answer; then abort does nothing.
        session.ping().addTimeout(REPLACED_ANSWER, self._clock).addErrback(lambda _: session.abort())


class _ReceivedSession(YamuxProtocol):
    """Our side of a connection that the remote dialled. We open the streams, so we are the session's client."""

    def connectionMade(self) -> None:
        self.transport.write(SWITCHING_PROTOCOLS)
        super().connectionMade()


class Receiver:
    """Takes over reverse connections from the HTTP server, and attaches each to its credential."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.sessions: set[YamuxProtocol] = set()

    def accept(self, request: ServerRequest, credential: ReverseCredential, request_id: str) -> None:
        """Accept the handshake ``request`` of the authenticated remote of ``credential``, and attach the connection,
        which replaces an older one. Raises RuntimeError, without doing anything, when the request has a body."""
        session = _ReceivedSession(self._clock, is_client=True)
        peer = request.peer
        request.take_over(session)
        if session.transport is None:
            return  # the connector has disconnected in the meantime
        self.sessions.add(session)
        self.log.info(
            "{request_id} reverse connection of {tag} from {peer} is up",
            request_id=request_id,
            tag=credential.tag,
            peer=str(peer),
        )
        link = ReverseLink(session, self._clock)
        session.on_peer_leaving = lambda: credential.leaving(link)
        credential.attach(link)

        def lost(reason: Exception) -> None:
            self.sessions.discard(session)
            self.log.info(
                "{request_id} reverse connection of {tag} is down: {reason}",
                request_id=request_id,
                tag=credential.tag,
                reason=str(reason),
            )
            credential.detach(link)

        session.when_lost().addCallback(lost)

    def close(self, grace: float) -> Deferred[None]:
        """Close every connection with GO_AWAY; requests in flight have ``grace`` seconds to finish. Fires when all
        connections are closed."""
        gone = DeferredList([session.close(grace) for session in self.sessions])
        return gone.addCallback(lambda _: None)
