"""Performs the steps of a response: writes, waits, pauses while the client reads slowly, and breaks the connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, assert_never

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.simulator.steps import Abort, Data, Fin, Finish, Hang, Head, Raw, Step, Wait, Whole

#: How a response ended: complete, because the client left, or because of a fault.
Ending = Literal["finished", "gone", "broken"]


class _RawConnection(Protocol):
    """Writes bytes that no HTTP server would write; ignores what the client sends."""

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IPushProducer)
class Player:
    """Delivers one response. ``on_end`` is called once, when nothing more will be done."""

    __slots__ = ("_call", "_clock", "_on_end", "_paused", "_raw", "_registered", "_request", "_steps")

    def __init__(
        self,
        request: ServerRequest,
        steps: Iterable[Step],
        clock: IReactorTime,
        on_end: Callable[[Ending], None],
    ) -> None:
        self._request = request
        self._steps: Iterator[Step] = iter(steps)
        self._clock = clock
        self._raw: _RawConnection | None = None
        self._on_end: Callable[[Ending], None] | None = on_end
        self._call: IDelayedCall | None = None
        self._paused = False
        self._registered = False

    def play(self) -> None:
        """Begin. A response without pauses is written before this returns."""
        self._request.on_gone(self._gone)
        self._go_on()

    # IPushProducer

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            if self._call is None:
                self._go_on()

    def stopProducing(self) -> None:
        self._gone()

    def _go_on(self) -> None:
        request = self._request
        while not self._paused and self._on_end is not None:
            step = next(self._steps, None)
            match step:
                case Data(data):
                    request.write(data)
                case Head(head):
                    request.start_response(head)
                    self._registered = True
                    request.register_producer(self)
                case Wait(seconds):
                    self._call = self._clock.callLater(seconds, self._waited)
                    return
                case Whole(head, body):
                    request.respond(head, body)
                    self._end("finished")
                case Finish():
                    self._unregister()
                    request.finish()
                    self._end("finished")
                case Abort():
                    self._unregister()
                    request.on_gone(None)
                    self._end("broken")
                    request.abort(reset=True)
                case Raw(data):
                    self._past_http().send(data)
                case Fin():
                    connection = self._past_http()
                    self._end("broken")
                    connection.close()
                case Hang() | None:
                    return
                case _:
                    assert_never(step)

    def _past_http(self) -> _RawConnection:
        """The connection, taken over from the HTTP server."""
        if self._raw is None:
            self._raw = _RawConnection()
            self._request.take_over(self._raw)
        return self._raw

    def _waited(self) -> None:
        self._call = None
        self._go_on()

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            self._request.unregister_producer()

    def _gone(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._end("gone")

    def _end(self, ending: Ending) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(ending)
