"""Flow-control windows of one stream, one object for each direction. All sizes are bytes of payload."""

from __future__ import annotations

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import INITIAL_WINDOW, LARGEST_WINDOW


class ReceiveWindow:
    """The receive window: how much the peer may send, and when to renew it.

    ``maximum``: the limit of bytes in transit or unread. ``remaining``: bytes that the peer may still send. ``unread``:
    bytes received and not consumed. The rest, ``maximum - remaining - unread``, was consumed but is not credited to the
    peer yet. It is credited once it is at least half of the maximum: this avoids a frame for every read, and leaves the
    peer the other half to use meanwhile.
    """

    __slots__ = ("maximum", "remaining", "unread")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.remaining = INITIAL_WINDOW
        self.unread = 0

    def received(self, size: int) -> None:
        """Record ``size`` bytes from the peer. Raises ProtocolError when they exceed the window."""
        if size > self.remaining:
            raise ProtocolError(f"{size} bytes in a window of {self.remaining}")
        self.remaining -= size
        self.unread += size
        self._check()

    def consumed(self, size: int) -> None:
        """Record that ``size`` received bytes have been consumed. Raises ValueError when fewer are unread."""
        if not 0 <= size <= self.unread:
            raise ValueError(f"{size} bytes consumed of {self.unread}")
        self.unread -= size
        self._check()

    def credit(self, *, at_once: bool = False) -> int:
        """Credit the peer with consumed bytes, and return their number; 0: not enough yet.

        ``at_once``: credit all of them now, because a frame is sent anyway.
        """
        credit = self.maximum - self.remaining - self.unread
        if not at_once and credit * 2 < self.maximum:
            return 0
        self.remaining += credit
        self._check()
        return credit

    def _check(self) -> None:
        assert self.remaining >= 0, "the peer has sent no more than it may"
        assert self.unread >= 0, "no more was consumed than received"
        assert self.remaining + self.unread <= self.maximum, "all that may come can be held"


class SendWindow:
    """The send window. ``available``: bytes that we may send now."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW

    def granted(self, size: int) -> None:
        """Add ``size`` bytes that the peer grants. The window is capped at 2^32 - 1, where Go's own counter wraps."""
        self.available = min(self.available + size, LARGEST_WINDOW)

    def sent(self, size: int) -> None:
        """Record that ``size`` bytes, at most what is available, have been sent."""
        self.available -= size
        assert self.available >= 0, "no more is sent than the peer has room for"
