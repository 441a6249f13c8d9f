"""Flow control of one stream: arithmetic, one object for each direction. Bytes throughout; only payload counts."""

from __future__ import annotations

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import INITIAL_WINDOW, LARGEST_WINDOW


class ReceiveWindow:
    """What the peer may send, and when to let it send more.

    ``maximum``: the most that may be under way or unread. ``remaining``: what the peer may still send. ``unread``:
    received and not consumed. What is missing from the sum was consumed and is not credited yet. The peer is credited
    when that is half of the maximum or more: not a frame for every read, and the peer still has the other half to go
    on with.
    """

    __slots__ = ("maximum", "remaining", "unread")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.remaining = INITIAL_WINDOW
        self.unread = 0

    def received(self, size: int) -> None:
        """The peer sends ``size`` bytes. Raises ProtocolError if it may not."""
        if size > self.remaining:
            raise ProtocolError(f"{size} bytes in a window of {self.remaining}")
        self.remaining -= size
        self.unread += size
        self._check()

    def consumed(self, size: int) -> None:
        """``size`` bytes of what was received have been used up. Raises ValueError if so many were not there."""
        if not 0 <= size <= self.unread:
            raise ValueError(f"{size} bytes consumed of {self.unread}")
        self.unread -= size
        self._check()

    def credit(self, *, at_once: bool = False) -> int:
        """What to credit the peer with now; 0: nothing. ``at_once``: a frame goes out anyway, however little it is."""
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
    """What the peer has room for. ``available``: what may be sent."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW

    def granted(self, size: int) -> None:
        """The peer takes ``size`` more. Beyond 2^32 - 1 a grant is void: Go's own sum wraps there."""
        self.available = min(self.available + size, LARGEST_WINDOW)

    def sent(self, size: int) -> None:
        """``size`` bytes, at most what is available, have been sent."""
        self.available -= size
        assert self.available >= 0, "no more is sent than the peer has room for"
