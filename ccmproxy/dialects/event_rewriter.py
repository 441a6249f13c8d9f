"""Event streams that some events of are replaced in as they pass. Sans I/O, as :mod:`ccmproxy.dialects.sse`."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.dialects.sse import (
    BLANK_LINE,
    BYTE_ORDER_MARK,
    DEFAULT_NAME,
    find_blank_line,
    find_lf_lf,
    parse_event,
)

#: Default bound on an event that may be replaced (bytes): reports of state are small.
LARGEST_REPLACED = 16 * 1024


class EventRewriter:
    """Passes a stream on with some of its events replaced; every other byte as it came.

    ``name``: of those events, in the ``event`` field or, where there is none, in their data: it must occur there.
    ``replace``: gets such an event's data and returns what to send in its place (whole events, or nothing), or None to
    leave it. An event is held back until it is known not to be one of them, at the latest when its first line or
    ``max_event`` bytes have come: a client can do nothing with half an event. How the bytes are cut into chunks makes
    no difference to what comes out, taken together.
    """

    __slots__ = ("_held", "_max_event", "_name", "_passing", "_replace", "_skip_lf", "_start", "_tail")

    def __init__(
        self, name: bytes, replace: Callable[[bytes], bytes | None], max_event: int = LARGEST_REPLACED
    ) -> None:
        self._name = name
        self._replace = replace
        self._max_event = max_event
        #: The stream has only begun: a byte order mark may come, or has come and is being held.
        self._start = True
        #: The beginning of an event that may have to be replaced.
        self._held = b""
        #: The present event is passed on; ``_tail`` is the line end that it ends with so far.
        self._passing = False
        self._tail = b""
        #: A replaced event ended with CR: an LF that follows still belongs to it.
        self._skip_lf = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what can be passed on now. Raises what ``replace`` raises."""
        if not data:
            return data
        if self._skip_lf:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        position = 0
        if self._passing:
            found = BLANK_LINE.search(self._tail + data)
            if found is None:
                self._tail = _line_end(self._tail + data)
                return data
            self._passing = False
            position = found.end() - len(self._tail)
        elif self._held:
            data = self._held + data
            self._held = b""
        elif data.endswith((b"\n\n", b"\r\n\r\n")) and self._name not in data:
            # Whole events, as they nearly always come, and none to be replaced.
            self._start = False
            return data
        return self._rewrite(data, position)

    def end(self) -> bytes:
        """The stream has ended or broken off: what is still held, as it came."""
        held, self._held = self._held, b""
        return held

    def _rewrite(self, data: bytes, position: int) -> bytes:
        """``data`` with its events replaced; from ``position`` on it is at the start of an event."""
        pieces: list[bytes] = []
        passed = 0  # all of ``data`` before it is in ``pieces``, or replaced
        find = find_blank_line if b"\r" in data else find_lf_lf
        while position < len(data):
            if data[position] in b"\r\n":
                self._start = False
                position += 1
                continue
            start, end = find(data, position)
            if start < 0:
                if self._may_be_replaced(data[position:]):
                    self._held = data[position:]
                    data = data[:position]
                else:
                    self._start = False
                    self._passing = True
                    self._tail = _line_end(data)
                break
            replacement = self._replacement(data[position:start])
            if replacement is not None:
                pieces += (data[passed:position], replacement)
                passed = end
                self._skip_lf = end == len(data) and data.endswith(b"\r")
            self._start = False
            position = end
        if not passed and not pieces:
            return data
        return b"".join((*pieces, data[passed:]))

    def _may_be_replaced(self, raw: bytes) -> bool:
        """Decided by what an event has in common with its own beginning, so that chunks make no difference."""
        if len(raw) - len(_line_end(raw)) > self._max_event:
            return False
        if self._start:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        lines = raw.splitlines(keepends=True)
        if not lines or not lines[0].endswith((b"\r", b"\n")):
            return True
        field, _, value = lines[0].rstrip(b"\r\n").partition(b":")
        return field != b"event" or value.removeprefix(b" ") == self._name

    def _replacement(self, raw: bytes) -> bytes | None:
        """What to send in place of a whole event, given without its empty line; None: itself."""
        if self._name not in raw or not self._may_be_replaced(raw + b"\n"):
            return None
        mark = b""
        if self._start and raw.startswith(BYTE_ORDER_MARK):
            mark, raw = BYTE_ORDER_MARK, raw[len(BYTE_ORDER_MARK) :]
        event = parse_event(raw)
        if event is None or event.name not in (self._name, DEFAULT_NAME):
            return None
        replacement = self._replace(event.data)
        return None if replacement is None else mark + replacement


def _line_end(data: bytes) -> bytes:
    """The line end that ``data`` ends with, if it does."""
    if data.endswith(b"\r\n"):
        return b"\r\n"
    return data[-1:] if data.endswith((b"\r", b"\n")) else b""
