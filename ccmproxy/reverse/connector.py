"""The dialling side of a reverse connection: we connect to a remote and serve its requests (spec 7.1, 7.2, 7.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.logger import Logger

from ccmproxy.http.client.connection_pool import Call, ConnectionPool
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.reverse.carrier import YamuxProtocol
from ccmproxy.reverse.replacing import PING_ANSWER, abort_unless_alive, drain_replaced
from ccmproxy.reverse.upgrading import problem_of_answer
from ccmproxy.transports.redial import Redial

#: A change of the network interrupts an attempt to connect that has taken so long, as it may have begun before the
#: network was usable (seconds).
LATE_ATTEMPT: Final = 3.0


class Connector:
    """Keeps one connection to a remote open permanently: when lost or refused, it is made again after a back-off.

    ``connections``: reaches the remote. ``request``: head of the handshake request. ``factory``: serves the remote's
    streams, exactly as on a listening port. Nothing is dialled before :meth:`start`, nor after :meth:`stop`.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        connections: ConnectionPool,
        request: RequestHead,
        factory: IProtocolFactory,
        clock: IReactorTime,
        random: Callable[[], float],
        has_address: Callable[[str], bool],
    ) -> None:
        """``random``: returns numbers in [0, 1). ``has_address``: returns whether an IP address is this machine's."""
        self.tag = tag
        self._connections = connections
        self._request = request
        self._factory = factory
        self._clock = clock
        self._has_address = has_address
        self._redial = Redial(clock, random, self._dial)
        self._call: Call | None = None
        #: When the attempt that is under way has begun (seconds of the clock).
        self._dialled_at = 0.0
        self._session: YamuxProtocol | None = None
        #: Whether another session is being opened, in whose favour the present one is to be drained.
        self._is_replacing = False
        #: Sessions that were replaced and are not over yet.
        self._replaced: set[YamuxProtocol] = set()

    @property
    def is_up(self) -> bool:
        """Whether the remote can send requests at the moment."""
        return self._redial.is_running and self._session is not None

    def start(self) -> None:
        """Begin to dial."""
        self._redial.start()

    def stop(self, grace: float) -> Deferred[None]:
        """Stop dialling, and close the connection with GO_AWAY; requests in flight have ``grace`` seconds to finish.

        Fires when the connection is closed. May be called again; the first ``grace`` holds.
        """
        is_first = self._redial.is_running
        self._redial.stop()
        self._give_up()
        self._connections.close()
        sessions = [*self._replaced, *filter(None, [self._session])]
        closed = [session.close(grace) if is_first else session.when_lost() for session in sessions]
        return DeferredList(closed).addCallback(lambda _: None)

    def interface_updated(self, change: NetworkChange = NetworkChange.DEFAULT_ROUTE) -> None:
        """Note that the machine's network has changed, and dial anew if that concerns the connection (spec 14).

        A connection whose local address is gone is dead, and is dropped at once. After a change of the default route
        another connection takes the place of the present one, which is drained. After any other change, the present one
        is only asked whether it is alive. While there is none, every change is a reason to dial at once.
        """
        if not self._redial.is_running:
            return
        for replaced in list(self._replaced):
            if not self._is_from_here(replaced):
                replaced.abort()
        session = self._session
        if session is not None and not self._is_from_here(session):
            self.log.info(
                "{tag}: the network changed, the address of the reverse connection is gone", tag=self.tag
            )
            self._session = None
            self._dial_anew()
            session.abort()
        elif change >= NetworkChange.DEFAULT_ROUTE:
            if session is not None:
                self.log.info("{tag}: the network changed, reverse connection is made anew", tag=self.tag)
            self._dial_anew()
        elif session is not None and not self._is_replacing:
            abort_unless_alive(session, PING_ANSWER)
        elif self._call is None or self._clock.seconds() - self._dialled_at >= LATE_ATTEMPT:
            self._dial_anew()

    def _is_from_here(self, session: YamuxProtocol) -> bool:
        """Return whether the local address of the session's connection is still one of this machine."""
        host = getattr(session.transport.getHost(), "host", None)
        return host is None or self._has_address(host)

    def _dial_anew(self) -> None:
        self._is_replacing = self._session is not None
        self._give_up()
        self._redial.restart()

    def _give_up(self) -> None:
        """Cancel the attempt that is under way, if any."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _dial(self) -> None:
        self._dialled_at = self._clock.seconds()
        self._call = self._connections.upgrade(self._request, self, self._switched)

    def _again(self, problem: str) -> None:
        delay = self._redial.lost()
        if delay is not None:
            self.log.warn(
                "{tag}: no reverse connection ({problem}), again in {delay:.1f} s",
                tag=self.tag,
                problem=problem,
                delay=delay,
            )

    # The handshake's answer -------------------------------------------------------------------------------

    def _switched(self, head: ResponseHead, connection: SwitchedConnection) -> None:
        self._call = None
        problem = problem_of_answer(head)
        if problem is not None or not self._redial.is_running:
            connection.abort()
            self._again(problem or "stopped")
            return
        before, self._is_replacing = self._session, False
        session = self._session = YamuxProtocol(self._clock, is_client=False, acceptor=self._factory)
        self._redial.made()

        def lost(reason: Exception) -> None:
            self._replaced.discard(session)
            if self._session is session:
                self._session = None
                if self._is_replacing:
                    self._is_replacing = False  # The next one is being dialled already.
                else:
                    self._again(str(reason))

        connection.hand_over(session)
        self.log.info("{tag}: reverse connection is up", tag=self.tag)
        session.when_lost().addCallback(lost)
        if before is not None:
            self._replaced.add(before)
            drain_replaced(before)

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """Treat any final response but 101 as a refusal."""
        self._give_up()
        self._again(f"refused with {head.status}")

    def response_data(self, data: bytes) -> None:
        """Never called: the body of a refusal is not read."""

    def response_ended(self) -> None:
        """Never called, for the same reason."""

    def response_failed(self, error: UpstreamError) -> None:
        """The attempt failed: no connection, or no answer. Dial again after a delay."""
        self._call = None
        self._again(str(error))
