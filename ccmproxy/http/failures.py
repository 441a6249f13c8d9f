"""Errors of requests that cross package boundaries. There is one type for each case that a caller treats differently.

No error message contains a token or a byte of a body.
"""

from __future__ import annotations

from math import inf


class UpstreamError(Exception):
    """An attempt at the upstream did not yield a complete response. ``str()`` is a sentence without secrets."""


class RequestNotSent(UpstreamError):
    """The upstream cannot have acted on the request, so it is safe to send it again elsewhere.

    No connection could be made, or it was lost before the whole request was sent. ``__cause__``: the endpoint's error,
    if connecting failed.
    """


class UpstreamTimeout(UpstreamError):
    """The upstream was silent for too long (first-byte or idle time-out), or a whole exchange took too long."""


class ResponseLost(UpstreamError):
    """The connection ended before the response was complete, after the request had been sent.

    ``was_reused``: the connection had served another request before. ``seconds``: how long ago the request was begun to
    be sent. ``has_begun``: some byte of a response had arrived, be it of an interim one. Whether the request may be
    sent again is for :mod:`ccmproxy.policy.retry` to say.
    """

    def __init__(
        self, message: str, *, was_reused: bool = False, seconds: float = inf, has_begun: bool = False
    ) -> None:
        super().__init__(message)
        self.was_reused = was_reused
        self.seconds = seconds
        self.has_begun = has_begun


class CarrierLost(ResponseLost):
    """The response was lost because the multiplexed connection beneath it, a reverse connection, was lost.

    A request of which no byte of a response has arrived should be tried over another path.
    """


class UpstreamProtocolError(UpstreamError):
    """The upstream sent something that is not HTTP, or that contradicts its own framing."""


class ResponseTooLarge(UpstreamError):
    """The body of a response exceeds the limit of whoever asked for it. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the response exceeds {limit} bytes")
        self.limit = limit


class BodyNotTaken(Exception):
    """A request body is not received to its end because of its size."""


class NoRoomForBody(BodyNotTaken):
    """The bodies that are held already leave no room for one more; answered with 503. ``size``: bytes asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no room for {size} more bytes of request bodies")
        self.size = size


class BodyTooLarge(BodyNotTaken):
    """A request body exceeds the limit; answered with 413. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body exceeds {limit} bytes")
        self.limit = limit


class BodyTimeout(Exception):
    """A request body stopped arriving; answered with 408."""


class BodyMalformed(Exception):
    """The framing of a request body is broken (RFC 9112 section 7.1); answered with 400, then the connection closes."""
