"""From a response and a fault to the steps of its delivery. Pure; :mod:`ccmproxy.simulator.player` performs them.

Steps within HTTP are messages (:class:`Whole`, :class:`Head`, :class:`Data`, :class:`Finish`); steps that violate it
bypass the HTTP server as :class:`Raw` bytes.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from ccmproxy.http.message import Headers, ResponseHead, first_value, without
from ccmproxy.simulator.faults import Fault

#: Seconds between the last bytes and a reset, so that the reset does not discard the bytes.
RESET_DELAY = 0.05

_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a stream is produced: seconds before its first event, and before each further one."""

    first: float = 0.0
    each: float = 0.0

    def before(self, index: int) -> float:
        """Seconds before the event with this index, which counts from 0."""
        return self.each if index else self.first


@dataclass(slots=True)
class Reply:
    """A response before any fault is applied.

    ``pieces``: the events of a stream, or a single whole body. ``error_event`` renders an error of a given type as an
    event of this stream; ``ping`` is an event without meaning. ``pace`` applies to streams.
    """

    head: ResponseHead
    pieces: list[bytes]
    is_stream: bool = False
    error_event: Callable[[str], bytes] | None = None
    ping: bytes = b""
    pace: Pace = Pace()

    @property
    def body(self) -> bytes:
        """All pieces, joined."""
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete message with a Content-Length."""

    head: ResponseHead
    body: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a message whose body follows as :class:`Data`."""

    head: ResponseHead


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait ``seconds``, then go on; 0 means in a later turn of the reactor."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Send nothing more, and leave the connection open."""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the message properly."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Reset the connection."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that bypass the HTTP server, in place of a message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fin:
    """End the connection with FIN after what was written; follows :class:`Raw` or nothing at all."""


Step = Whole | Head | Data | Wait | Hang | Finish | Abort | Raw | Fin


def perform(reply: Reply, fault: Fault | None, rng: random.Random) -> list[Step]:
    """The steps that deliver ``reply`` under ``fault`` (one of DELIVERIES; any other is ignored)."""
    if fault is None:
        return _plainly(reply)
    match fault.name:
        case "slow":
            return [Wait(fault.delay), *_plainly(reply)]
        case "slow_first_token":
            return [Head(_sized(reply)), Wait(fault.delay), *_paced(reply), Finish()]
        case "stall":
            return _stall(reply, fault)
        case "hang":
            return [Hang()]
        case "cut":
            return _cut(reply, fault)
        case "truncated":
            return _truncated(reply, fault)
        case "error_first" | "error_mid" if reply.error_event is not None:
            before, _ = _divided(reply, "mid") if fault.name == "error_mid" else ([], [])
            return [
                Head(reply.head),
                *map(Data, before),
                Data(reply.error_event(fault.type)),
                Finish(),
            ]
        case "pieces" | "random_pieces":
            return _in_pieces(reply, fault, rng)
        case "gzip":
            return _plainly(_compressed(reply))
        case "pings" if reply.is_stream:
            pings = [reply.ping] * (fault.size or 3)
            return [
                Head(reply.head),
                *(Data(data) for piece in reply.pieces for data in (*pings, piece)),
                Finish(),
            ]
        case _:
            return _past_http(reply, fault, rng)


def _past_http(reply: Reply, fault: Fault, rng: random.Random) -> list[Step]:
    """The same for bytes that no HTTP server would write."""
    match fault.name:
        case "garbage":
            return [garbage(rng), Fin()]
        case "half_head":
            head = _serialized(reply.head, b"content-length: 2\r\n\r\n")
            return [Raw(head[: len(head) // 2]), Fin()]
        case "endless_head":
            start = _serialized(reply.head, b"x-endless: ")
            return [Raw(start), *[Raw(b"a" * 16384)] * 256, Fin()]
        case "long_content_length":
            body = reply.body
            return [
                Raw(_serialized(reply.head, b"content-length: %d\r\n\r\n" % (len(body) + 100)) + body),
                Fin(),
            ]
        case "short_content_length":
            body = reply.body
            return [
                Raw(_serialized(reply.head, b"content-length: %d\r\n\r\n" % (len(body) // 2)) + body),
                Fin(),
            ]
        case "bad_chunk":
            before, after = _divided(reply, "mid")
            return [
                Raw(_chunked_start(reply, before) + b"zz\r\n" + b"".join(after) + b"\r\n0\r\n\r\n"),
                Fin(),
            ]
        case "no_last_chunk":
            return [Raw(_chunked_start(reply, reply.pieces)), Fin()]
        case _:
            return _plainly(reply)


def pause(fault: Fault) -> Wait | Hang:
    """A stall: for ``seconds``, or for ever by default."""
    return Wait(fault.seconds) if fault.seconds else Hang()


def garbage(rng: random.Random) -> Raw:
    """Bytes that are nothing like a response."""
    return Raw(b"\x16\x03\x01 this is not HTTP \x00\xff\r\n\r\n" + rng.randbytes(64))


def _plainly(reply: Reply) -> list[Step]:
    if not reply.is_stream:
        return [Whole(reply.head, reply.body)]
    return [Head(reply.head), *_paced(reply), Finish()]


def _paced(reply: Reply) -> list[Step]:
    """The body with the stream's own pauses. Without any, all steps are data, so that nothing waits for a timer."""
    pace = reply.pace
    if not reply.is_stream or not (pace.first or pace.each):
        return [Data(piece) for piece in reply.pieces]
    steps: list[Step] = []
    for index, piece in enumerate(reply.pieces):
        if seconds := pace.before(index):
            steps.append(Wait(seconds))
        steps.append(Data(piece))
    return steps


def _divided(reply: Reply, at: str) -> tuple[list[bytes], list[bytes]]:
    """The body before and after a place: the middle, or just before the last event.

    Neither part is empty if the body has at least two bytes.
    """
    if reply.is_stream and len(reply.pieces) > 1:
        index = len(reply.pieces) - 1 if at == "before_stop" else max(1, int(len(reply.pieces) * _HALF))
        return reply.pieces[:index], reply.pieces[index:]
    body = reply.body
    index = max(len(body) - 1, 0) if at == "before_stop" else int(len(body) * _HALF)
    return [body[:index]], [body[index:]]


def _stall(reply: Reply, fault: Fault) -> list[Step]:
    if fault.at == "before_head":
        return [pause(fault), *_plainly(reply)]
    if fault.at == "after_head":
        return [Head(_sized(reply)), pause(fault), *_paced(reply), Finish()]
    before, after = _divided(reply, fault.at)
    return [Head(_sized(reply)), *map(Data, before), pause(fault), *map(Data, after), Finish()]


def _cut(reply: Reply, fault: Fault) -> list[Step]:
    if fault.at == "before_head":
        wait = [Wait(fault.seconds)] if fault.seconds else []
        return [*wait, Abort() if fault.how == "rst" else Fin()]
    before = [] if fault.at == "after_head" else _divided(reply, fault.at)[0]
    if fault.how == "rst":
        delay = RESET_DELAY if fault.seconds is None else fault.seconds
        return [Head(_sized(reply)), *map(Data, before), Wait(delay), Abort()]
    if reply.is_stream:
        return [Raw(_chunked_start(reply, before)), Fin()]
    length = b"content-length: %d\r\n\r\n" % len(reply.body)
    return [Raw(_serialized(reply.head, length) + b"".join(before)), Fin()]


def _truncated(reply: Reply, fault: Fault) -> list[Step]:
    if not reply.is_stream:
        before, _ = _divided(reply, "mid")
        return [Whole(reply.head, b"".join(before))]
    return [Head(reply.head), *map(Data, reply.pieces[: -(fault.size or 1)]), Finish()]


def _in_pieces(reply: Reply, fault: Fault, rng: random.Random) -> list[Step]:
    body = reply.body
    steps: list[Step] = [Head(_sized(reply))]
    start = 0
    while start < len(body):
        if fault.name == "pieces":
            end = start + (fault.size or 1)
        else:
            end = start + rng.randint(1, fault.size or 64)
        steps += [Data(body[start:end]), Wait(0.0)]
        start = end
    return [*steps, Finish()]


def _compressed(reply: Reply) -> Reply:
    """The same response with ``content-encoding: gzip``, each event flushed so that it can be read at once."""
    compressor = zlib.compressobj(wbits=31)
    pieces = [compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH) for piece in reply.pieces]
    pieces[-1:] = [*pieces[-1:], compressor.flush()]
    head = ResponseHead(
        reply.head.status, reply.head.reason, [*reply.head.headers, (b"content-encoding", b"gzip")]
    )
    return Reply(head, pieces, reply.is_stream, reply.error_event, reply.ping, reply.pace)


def _sized(reply: Reply) -> ResponseHead:
    """The head for a body that is sent in steps, with a Content-Length if the body is a single piece."""
    if reply.is_stream or first_value(reply.head.headers, b"content-length") is not None:
        return reply.head
    length: Headers = [(b"content-length", b"%d" % len(reply.body))]
    return ResponseHead(reply.head.status, reply.head.reason, [*reply.head.headers, *length])


def _serialized(head: ResponseHead, ending: bytes) -> bytes:
    """A head as HTTP/1.1 bytes without framing fields, followed by ``ending``."""
    fields = b"".join(
        b"%s: %s\r\n" % pair for pair in without(head.headers, (b"content-length", b"transfer-encoding"))
    )
    return b"HTTP/1.1 %d %s\r\n%s%s" % (head.status, head.reason, fields, ending)


def _chunked_start(reply: Reply, pieces: list[bytes]) -> bytes:
    """A chunked message up to and including ``pieces``, without the last chunk."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return _serialized(reply.head, b"transfer-encoding: chunked\r\n\r\n") + chunks
