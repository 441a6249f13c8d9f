"""The status stream of a remote instance: a response that stays open and reports every change (spec 7.5)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ccmproxy.dialects.oauth import AnswerMalformed
from ccmproxy.dialects.remote import RemoteStatus, read_status
from ccmproxy.http.client.connection_pool import Call, ConnectionPool
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.policy.rate import TokenBucket
from ccmproxy.transports.redial import Redial

#: Longest line accepted (bytes). A state has a few hundred bytes.
LONGEST_LINE = 64 * 1024
#: Permanent refusals: the stream is not requested again until something changes.
HOPELESS = frozenset({401, 403, 404})
#: Token bucket: burst size and seconds per further state; excess states collapse into the newest. The rate is limited
#: because each state may cause a line in the log and an update to all watchers of this instance. It is twice the rate
#: at which ccmproxy sends states, so none of them is delayed. Bytes are read at the same rate, LONGEST_LINE of them for
#: a state; beyond it, the stream is under back-pressure (F64).
BURST = 20
APART = 0.1


class StatusWatch:
    """Keeps one stream open while it is started.

    ``request`` returns the connections to the remote and the request to send, or None when there is no route to the
    remote. ``apply`` receives every state. A lost stream is requested again after a delay; after a permanent refusal
    (HOPELESS), only after :meth:`restart` or :meth:`recovered`.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        request: Callable[[], tuple[ConnectionPool, RequestHead] | None],
        apply: Callable[[RemoteStatus], None],
        clock: IReactorTime,
        random: Callable[[], float],
        failed: Callable[[], None],
    ) -> None:
        """``random`` returns numbers in [0, 1). ``failed`` is called when the stream is lost or cannot be opened."""
        self._tag = tag
        self._request = request
        self._apply = apply
        self._failed = failed
        self._clock = clock
        self._redial = Redial(clock, random, self._open)
        self._hopeless = False
        self._call: Call | None = None
        self._line = bytearray()
        self._complained = False
        self._rate = TokenBucket(BURST, APART)
        #: The line with the newest state while the rate limit delays it, and the timer that ends the delay.
        self._held = b""
        self._soon: IDelayedCall | None = None
        #: The rate at which the stream is read, and the timer that ends a pause of reading.
        self._reading = TokenBucket(BURST, APART)
        self._pause: IDelayedCall | None = None

    @property
    def is_open(self) -> bool:
        """Whether the stream is open or has been requested."""
        return self._call is not None

    def start(self) -> None:
        """Open the stream if there is a route to the remote."""
        self._redial.start()

    def stop(self) -> None:
        """Close the stream and do not open it again."""
        self._redial.stop()
        self._close()

    def restart(self) -> None:
        """Close the stream and reopen it at once, because the route to the remote has changed."""
        self._close()
        self._redial.restart()

    def recovered(self) -> None:
        """Request a stream that was permanently refused again, because the remote has answered a poll."""
        if self._hopeless:
            self.restart()

    def _open(self) -> None:
        way = self._request()
        if way is None:
            return
        connections, head = way
        self._hopeless = self._complained = False
        self._line.clear()
        self._call = connections.send(head, [], self)

    def _close(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
        self._soon = None
        self._held = b""
        if self._pause is not None:
            self._pause.cancel()
        self._pause = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    # ResponseReceiver -------------------------------------------------------------------------------------

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """Begin to read the stream, or react to a refusal."""
        if head.status == 200:
            self._redial.made()
            if data:
                self.response_data(data)
            return
        self._close()
        if head.status in HOPELESS:
            self._hopeless = True
            self.log.warn(
                "{tag}: status stream refused ({status}); asking for the state now and then instead",
                tag=self._tag,
                status=head.status,
            )
        else:
            self._again(f"refused with {head.status}")

    def response_data(self, data: bytes) -> None:
        """Parse ``data``, which may be part of a line or many lines."""
        call = self._call
        whole, end, rest = data.rpartition(b"\n")
        if end:
            lines = bytes(self._line) + whole
            self._line.clear()
            self._take_lines(lines)
            if self._call is not call:
                return  # The stream was given up, or the reaction to a state has closed it or opened another one.
        self._line += rest
        if len(self._line) > LONGEST_LINE:
            self._give_up("a line is too long")
            return
        now = self._clock.seconds()
        self._reading.take(now, len(data) / LONGEST_LINE)
        if call is not None and self._pause is None and (wait := self._reading.delay(now)):
            call.pauseProducing()
            self._pause = self._clock.callLater(wait, self._read_on)

    def response_ended(self) -> None:
        """Schedule a new request: the remote has ended the stream, as it does when it stops."""
        self._call = None
        self._again("ended by the remote")

    def response_failed(self, error: UpstreamError) -> None:
        """Schedule a new request: the stream was lost or could not be opened."""
        self._call = None
        self._again(str(error))
        self._failed()

    # ------------------------------------------------------------------------------------------------------

    def _take_lines(self, lines: bytes) -> None:
        """Take complete lines. Once the rate limit is reached, only the last one is kept, until it may be taken over.

        Lines that are not looked into cost nothing but the search for the last one. One that holds no state counts
        against the rate as well, since finding that out is the same work.
        """
        call = self._call
        while lines := lines.lstrip(b"\r\n"):
            wait = self._rate.delay(self._clock.seconds())
            if self._soon is not None or wait:
                newest = lines.rstrip().rpartition(b"\n")[2]
                if len(newest) > LONGEST_LINE:
                    self._give_up("a line is too long")
                elif newest:
                    self._held = newest
                    self._soon = self._soon or self._clock.callLater(wait, self._take_held)
                return
            line, _, lines = lines.partition(b"\n")
            if len(line) > LONGEST_LINE:
                self._give_up("a line is too long")
            else:
                self._state(line)
            if self._call is not call:
                return

    def _take_held(self) -> None:
        held, self._held, self._soon = self._held, b"", None
        self._state(held)

    def _state(self, line: bytes) -> None:
        self._rate.take(self._clock.seconds())
        if not line.strip():
            return
        try:
            status = read_status(line)
        except AnswerMalformed as error:
            if not self._complained:
                self._complained = True
                self.log.warn(
                    "{tag}: a state was not taken over: {problem}", tag=self._tag, problem=str(error)
                )
            return
        self._apply(status)

    def _read_on(self) -> None:
        self._pause = None
        if self._call is not None:
            self._call.resumeProducing()

    def _give_up(self, problem: str) -> None:
        self._close()
        self._again(problem)

    def _again(self, problem: str) -> None:
        delay = self._redial.lost()
        if delay is not None:
            self.log.info(
                "{tag}: status stream lost ({problem}), again in {delay:.1f} s",
                tag=self._tag,
                problem=problem,
                delay=delay,
            )
