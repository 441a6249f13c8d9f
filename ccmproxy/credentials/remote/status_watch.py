"""Being told of every change of a remote instance: its status stream, held open (spec 7.5)."""

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

#: A state is some hundred bytes; a line that is longer than this is none (bytes).
LONGEST_LINE = 64 * 1024
#: Refusals that will not mend by themselves: only a change gives reason to ask again.
HOPELESS = frozenset({401, 403, 404})
#: Token bucket: burst size and seconds per further state; excess states collapse into the newest. Each state may be a
#: line in the log, and news to all who watch us. Twice of what an instance of ours sends: none of its states waits.
BURST = 20
APART = 0.1


class StatusWatch:
    """Keeps one stream open, as long as it runs.

    ``request`` gives the way to the remote at the moment, and the request; None: there is no way. ``apply`` gets every
    state. Lost, the stream is asked for again after a delay; after a refusal that will not mend by itself, not before
    :meth:`restart` or :meth:`recovered`.
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
        """``random``: numbers in [0, 1). ``failed``: called when the stream broke off, or could not be had."""
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
        #: The newest state, where it has to wait, and for when it is to be taken over.
        self._held: RemoteStatus | None = None
        self._soon: IDelayedCall | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a stream, or one is being asked for."""
        return self._call is not None

    def start(self) -> None:
        """Open the stream, if there is a way."""
        self._redial.start()

    def stop(self) -> None:
        """Close it; nothing is opened any more."""
        self._redial.stop()
        self._close()

    def restart(self) -> None:
        """There is another way to the remote now: use it at once."""
        self._close()
        self._redial.restart()

    def recovered(self) -> None:
        """The remote has answered a poll: if the stream was given up, try again."""
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
        self._soon = self._held = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    # ResponseReceiver -------------------------------------------------------------------------------------

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """The stream begins, or is refused."""
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
        """Some of a line, or of many."""
        call = self._call
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = bytes(self._line) + line
            self._line.clear()
            if len(whole) > LONGEST_LINE:
                self._give_up("a line is too long")
                return
            self._state(whole)
            if self._call is not call:
                return  # what the state led to has closed the stream, and maybe opened another one
        self._line += rest
        if len(self._line) > LONGEST_LINE:
            self._give_up("a line is too long")

    def response_ended(self) -> None:
        """The remote has ended it, as it does when it stops."""
        self._call = None
        self._again("ended by the remote")

    def response_failed(self, error: UpstreamError) -> None:
        """Lost, or never there."""
        self._call = None
        self._again(str(error))
        self._failed()

    # ------------------------------------------------------------------------------------------------------

    def _state(self, line: bytes) -> None:
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
        if self._soon is not None:
            self._held = status
        elif wait := self._rate.delay(self._clock.seconds()):
            self._held = status
            self._soon = self._clock.callLater(wait, self._take_held)
        else:
            self._take(status)

    def _take_held(self) -> None:
        status, self._held, self._soon = self._held, None, None
        assert status is not None  # the timer was set with it
        self._take(status)

    def _take(self, status: RemoteStatus) -> None:
        self._rate.take(self._clock.seconds())
        self._apply(status)

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
