"""The dialling side of a reverse connection: we connect to a remote and serve its requests (spec 7.1, 7.2, 7.4)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.logger import Logger

from ccmproxy.http.client.connection_pool import Call, ConnectionPool
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.reverse.carrier import YamuxProtocol
from ccmproxy.reverse.upgrading import problem_of_answer
from ccmproxy.transports.redial import Redial


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
    ) -> None:
        """``random``: returns numbers in [0, 1)."""
        self.tag = tag
        self._connections = connections
        self._request = request
        self._factory = factory
        self._clock = clock
        self._redial = Redial(clock, random, self._dial)
        self._call: Call | None = None
        self._session: YamuxProtocol | None = None

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
        self._redial.stop()
        self._give_up()
        self._connections.close()
        if self._session is None:
            return succeed(None)
        return self._session.close(grace).addCallback(lambda _: None)

    def interface_updated(self) -> None:
        """Dial anew at once: the machine's network has changed, and the open connection may be dead unnoticed."""
        if not self._redial.is_running:
            return
        self._give_up()
        session, self._session = self._session, None
        if session is not None:
            self.log.info("{tag}: the network changed, reverse connection is made anew", tag=self.tag)
            session.abort()
        self._redial.restart()

    def _give_up(self) -> None:
        """Cancel the attempt that is under way, if any."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _dial(self) -> None:
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
        session = self._session = YamuxProtocol(self._clock, is_client=False, acceptor=self._factory)
        self._redial.made()

        def lost(reason: Exception) -> None:
            if self._session is session:
                self._session = None
                self._again(str(reason))

        connection.hand_over(session)
        self.log.info("{tag}: reverse connection is up", tag=self.tag)
        session.when_lost().addCallback(lost)

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
