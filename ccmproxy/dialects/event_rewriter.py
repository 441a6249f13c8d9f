"""Replacing some of the events of an event stream as it passes. Sans I/O, like :mod:`ccmproxy.dialects.sse`."""

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
    """Passes on an event stream with some of its events replaced, and every other byte unchanged.

    ``name``: of the events to replace, in the ``event`` field or, where that is missing, in the data; in both cases it
    must occur in the event's bytes. ``replace``: takes the data of such an event and returns what to send in its place
    (whole events, or nothing), or None to leave the event as it is.

    An event is held back until it is known not to be one of them, at the latest when its first line or ``max_event``
    bytes have arrived: a client can do nothing with half an event. The total output does not depend on how the input is
    cut into chunks.
    """

    __slots__ = ("_held", "_max_event", "_name", "_passing", "_replace", "_skip_lf", "_start", "_tail")

    def __init__(
        self, name: bytes, replace: Callable[[bytes], bytes | None], max_event: int = LARGEST_REPLACED
    ) -> None:
        self._name = name
        self._replace = replace
        self._max_event = max_event
        #: Whether the stream has only begun: a byte order mark may still arrive, or has arrived and is held.
        self._start = True
        #: The beginning of an event that may have to be replaced.
        self._held = b""
        #: Whether the current event is being passed on; ``_tail`` is then the line end at the end of its bytes so far.
        self._passing = False
        self._tail = b""
        #: Whether a replaced event ended with CR, so that an LF right after still belongs to it.
        self._skip_lf = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the bytes that can be passed on now. Raises what ``replace`` raises."""
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
            # The usual case: whole events, none of which is to be replaced.
            self._start = False
            return data
        return self._rewrite(data, position)

    def end(self) -> bytes:
        """Return the bytes still held, unchanged, when the stream has ended or broken off."""
        held, self._held = self._held, b""
        return held

    def _rewrite(self, data: bytes, position: int) -> bytes:
        """Return ``data`` with its events replaced; an event starts at ``position``."""
        pieces: list[bytes] = []
        passed = 0  # all of ``data`` before it is in ``pieces`` or was replaced
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
        """Whether an event beginning with ``raw`` may be replaced.

        The answer for a whole event is the same as for its first line, so that it does not depend on the chunks.
        """
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
        """What to send in place of a whole event, which is given without its empty line; None to leave it."""
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
    """The line end at the end of ``data``; empty if there is none."""
    if data.endswith(b"\r\n"):
        return b"\r\n"
    return data[-1:] if data.endswith((b"\r", b"\n")) else b""
