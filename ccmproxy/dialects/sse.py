"""Event streams (``text/event-stream``) as they pass: finds the wanted events, as bytes.

Follows the WHATWG HTML standard, section "Server-sent events". Sans I/O: bytes in, events out; input is never changed,
kept longer than its event lasts, or delayed. The result does not depend on how the bytes are cut into chunks (F19).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

#: The name of an event without an ``event`` field.
DEFAULT_NAME = b"message"
#: Default bound on one event (bytes).
LARGEST_EVENT = 1024 * 1024

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: A line end and an empty line. Atomic, so that CRLF is always one line end and never split into two.
BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


class Event(NamedTuple):
    """One event, as bytes: ``data`` is its data lines joined by LF. Nothing is decoded."""

    name: bytes
    data: bytes


_NOTHING: tuple[Event, ...] = ()
_Find = Callable[[bytes, int], tuple[int, int]]


def parse_event(raw: bytes) -> Event | None:
    """Parse a whole event, given without the empty line that ends it; None if it has no data and is thus no event."""
    name = b""
    lines: list[bytes] = []
    for line in raw.splitlines():  # of bytes: LF, CR and CRLF only, as the standard wants it
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(name or DEFAULT_NAME, b"\n".join(lines)) if lines else None


def first_event(data: bytes, passed_over: Collection[bytes] = ()) -> Event | None:
    """The first event of a stream that begins with ``data``; None if it is not complete yet.

    ``passed_over``: names of events to skip.
    """
    position = 0
    data = data.removeprefix(BYTE_ORDER_MARK)
    while (match := BLANK_LINE.search(data, position)) is not None:
        event = parse_event(data[position : match.start()])
        if event is not None and event.name not in passed_over:
            return event
        position = match.end()
    return None


class EventScanner:
    """Finds the events of one stream.

    ``wanted``: the names of the events to return, or a predicate on the name. With names, chunks in which none of them
    occurs cost next to nothing. ``markers``: byte strings of which every wanted event contains one, for events that are
    named in their data only; an event without any of them is not returned. ``max_event``: bytes of an event up to its
    empty line; a larger event is skipped. At most that many bytes are kept, of an event whose end has not arrived yet.
    """

    __slots__ = (
        "_bom",
        "_idle",
        "_is_wanted",
        "_last",
        "_line_end",
        "_markers",
        "_max_event",
        "_pending",
        "_size",
    )

    def __init__(
        self,
        wanted: Collection[bytes] | Callable[[bytes], bool],
        max_event: int = LARGEST_EVENT,
        markers: Collection[bytes] | None = None,
    ) -> None:
        #: Byte strings of which every wanted event contains one; None: unknown.
        self._markers: tuple[bytes, ...] | None = None if markers is None else tuple(markers)
        if callable(wanted):
            self._is_wanted = wanted
        else:
            names = frozenset(wanted)
            self._is_wanted = names.__contains__
            if markers is None and DEFAULT_NAME not in names:
                self._markers = tuple(sorted(names, key=len))
        self._max_event = max_event
        #: Whether the stream is between two events, with no part of a byte order mark received.
        self._idle = True
        #: Start of the stream while it may still be a part of a byte order mark; None afterwards.
        self._bom: bytes | None = b""
        #: The event whose end has not arrived yet; emptied when the event grows too large.
        self._pending: list[bytes] = []
        #: Number of its bytes so far, skipped ones included.
        self._size = 0
        #: The line end at the end of these bytes, if any: together with another one it makes an empty line.
        self._line_end = b""
        #: The last bytes of the stream, up to 3.
        self._last = b""

    @property
    def at_boundary(self) -> bool:
        """Whether the input so far ends between two events, so that something else may be written there (F44).

        False between CR and LF of an empty line: clients that look for CRLF CRLF would be confused.
        """
        return self._idle and not self._last.endswith(b"\r\n\r")

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take the next bytes; return the wanted events that they complete, in order. Never raises.

        As in the standard, an event without data is not an event, and an event cut off by the end of the stream is
        never returned.
        """
        if (
            self._idle
            and data.endswith((b"\n\n", b"\r\n\r\n"))
            and len(data) <= self._max_event
            and not self._may_be_wanted(data)
        ):
            # The usual case: whole events, none of which is wanted.
            self._bom = None
            self._last = data[-3:]
            return _NOTHING
        if not data:
            return _NOTHING
        self._last = (self._last + data[-3:])[-3:]
        if self._bom is not None:
            data = self._bom + data
            if len(data) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(data):
                self._bom = data
                self._idle = False
                return _NOTHING
            self._bom = None
            self._idle = True
            data = data.removeprefix(BYTE_ORDER_MARK)
        events: list[Event] = []
        position = 0
        # Streams with LF alone, which is nearly all of them, are searched without the pattern.
        find = find_blank_line if b"\r" in data else find_lf_lf
        if not self._idle:
            position = self._finish_pending(data, find, events)
        # From here on an event starts at ``position``, unless the data is used up.
        if find is find_lf_lf:
            position = self._skip_unwanted(data, position)
        at_end = len(data)
        while position < at_end:
            if data[position] in b"\r\n":
                # An empty line that ends nothing, or the LF of a CRLF whose CR came before.
                position += 1
                continue
            start, end = find(data, position)
            if start < 0:
                self._begin_pending(data, position)
                break
            if start - position <= self._max_event:
                self._complete(data[position:start], events)
            position = end
        return events

    def _skip_unwanted(self, data: bytes, position: int) -> int:
        """The position after the last whole event if none of the events before can be wanted, else ``position``.

        A burst arrives as many events in one chunk, the last of them cut off: they are searched in one pass, not one by
        one.
        """
        last = data.rfind(b"\n\n", position)
        if self._markers is None or last < 0 or last - position > self._max_event:
            return position
        for marker in self._markers:
            if data.find(marker, position, last) >= 0:
                return position
        return last + 2

    def _may_be_wanted(self, data: bytes) -> bool:
        if self._markers is None:
            return True
        # A loop of plain searches is several times faster than any() over a generator, or a pattern.
        for marker in self._markers:  # noqa: SIM110
            if marker in data:
                return True
        return False

    def _begin_pending(self, data: bytes, position: int) -> None:
        self._idle = False
        self._size = 0
        self._line_end = b""
        self._extend_pending(data[position:] if position else data)

    def _extend_pending(self, data: bytes) -> None:
        self._size += len(data)
        ending = (self._line_end + data[-2:])[-2:]
        self._line_end = (
            ending if ending == b"\r\n" else ending[-1:] if ending[-1:] in (b"\r", b"\n") else b""
        )
        if self._size - len(self._line_end) > self._max_event:
            self._pending.clear()
        else:
            self._pending.append(data)

    def _finish_pending(self, data: bytes, find: _Find, events: list[Event]) -> int:
        """Look for the end of the pending event; return the position in ``data`` after it, or ``len(data)``."""
        known = len(self._line_end)
        start, end = -1, -1
        if known and data[0] in b"\r\n":
            # Only a CRLF that was cut in two, or an empty line, can begin before ``data``.
            found = BLANK_LINE.match(self._line_end + data[:2])
            if found is not None:
                start, end = -known, found.end() - known
        if end < 0:
            start, end = find(data, 0)
        if end < 0:
            self._extend_pending(data)
            return len(data)
        size = self._size + start
        if size <= self._max_event:
            if start > 0:
                self._pending.append(data[:start])
            self._complete(b"".join(self._pending), events)
        self._pending.clear()
        self._idle = True
        return end

    def _complete(self, raw: bytes, events: list[Event]) -> None:
        """Process one whole event, given without its empty line."""
        if not self._may_be_wanted(raw):
            return
        event = parse_event(raw)
        if event is not None and self._is_wanted(event.name):
            events.append(event)


def find_blank_line(data: bytes, position: int) -> tuple[int, int]:
    """Start and end of the first empty line with the line end before it, from ``position`` on; (-1, -1) for none.

    ``position`` must not lie between CR and LF.
    """
    found = BLANK_LINE.search(data, position)
    return found.span() if found else (-1, -1)


def find_lf_lf(data: bytes, position: int) -> tuple[int, int]:
    """The same for ``data`` without a CR."""
    start = data.find(b"\n\n", position)
    return (start, start + 2) if start >= 0 else (-1, -1)
