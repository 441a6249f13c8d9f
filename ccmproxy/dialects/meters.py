"""Meters that are independent of the dialect, and the choice of the meter that fits a response (spec 9). Pure."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.usage import MeterReading, Tokens, UsageMeter
from ccmproxy.http.message import ResponseHead, first_value

#: A JSON response larger than this is passed on uncounted (bytes).
LARGEST_JSON = 4 * 1024 * 1024
NOT_COUNTED = MeterReading(Tokens(), None, None, False, "", False)


def fitting_meter(
    facts: RequestFacts,
    head: ResponseHead,
    stream: Callable[[], UsageMeter],
    read_json: Callable[[bytes], MeterReading],
) -> UsageMeter:
    """A meter for this response: ``stream()`` for an event stream, one with ``read_json`` for JSON, else an opaque one.

    Only the response to a billable request has a usage, and a proper end of its own.
    """
    if not is_readable(head) or not facts.billable or head.status != 200:
        return OpaqueMeter()
    kind = media_type(head)
    if kind == b"text/event-stream":
        return stream()
    if kind == b"application/json":
        return JSONMeter(read_json)
    return OpaqueMeter()


def is_readable(head: ResponseHead) -> bool:
    """Whether the body of a response can be read as it passes, i.e. is not compressed."""
    return first_value(head.headers, b"content-encoding") in (None, b"identity")


def media_type(head: ResponseHead) -> bytes:
    """The media type of a response in lower case, without parameters; empty where it has none."""
    return (first_value(head.headers, b"content-type") or b"").partition(b";")[0].strip().lower()


def count(new: int | None, old: int) -> int:
    """``new`` if it is plausible, else ``old``: a report may omit a figure, and a negative or absurd one is ignored."""
    return new if new is not None and 0 <= new < 1 << 53 else old


class OpaqueMeter:
    """For bodies that are not inspected: complete when their framing says so."""

    __slots__ = ("_ended", "at_boundary")

    def __init__(self) -> None:
        self.at_boundary = False
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Ignore the bytes."""

    def end(self) -> None:
        """Note that the body has ended."""
        self._ended = True

    def reading(self) -> MeterReading:
        """A reading without counts."""
        return MeterReading(Tokens(), None, None, self._ended, "", False)


class JSONMeter:
    """Usage of a whole message. Keeps up to :data:`LARGEST_JSON` bytes of the body until its end.

    ``read`` makes the reading from a complete body; it is not called for a body that is too large.
    """

    __slots__ = ("_chunks", "_read", "_reading", "_size", "at_boundary")

    def __init__(self, read: Callable[[bytes], MeterReading]) -> None:
        self.at_boundary = False
        self._read = read
        self._chunks: list[bytes] | None = []
        self._size = 0
        self._reading = NOT_COUNTED

    def feed(self, data: bytes) -> None:
        """Keep the next bytes."""
        if self._chunks is None:
            return
        self._size += len(data)
        if self._size > LARGEST_JSON:
            self._chunks = None
            return
        self._chunks.append(data)

    def end(self) -> None:
        """Count the tokens of the body, which has ended."""
        self._reading = self._read(b"".join(self._chunks or ()))
        self._chunks = None

    def reading(self) -> MeterReading:
        """What was counted; nothing before the end."""
        return self._reading
