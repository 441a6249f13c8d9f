"""Errors that cross packages. A type exists where a caller decides differently on it.

No message here ever holds a token, or a byte of a body.
"""

from __future__ import annotations


class UpstreamError(Exception):
    """An attempt at the upstream did not bring a whole response. ``str()`` is a sentence without secrets."""


class RequestNotSent(UpstreamError):
    """The upstream cannot have acted on the request: repeating it elsewhere is safe.

    No connection could be made, or it was lost before the whole request had left, or a kept-alive connection turned
    out to have been closed by the upstream (lost with no byte of a response).
    """


class UpstreamTimeout(UpstreamError):
    """The upstream was silent for too long: no first byte, or no byte for the idle time."""


class ResponseLost(UpstreamError):
    """The connection ended before the response was complete, after the request had been sent."""


class CarrierLost(ResponseLost):
    """The same, because the connection beneath, which carried many, is gone (a reverse connection).

    Whoever was served over it is to be served otherwise if no byte of a response has come.
    """


class UpstreamProtocolError(UpstreamError):
    """What the upstream sent is not HTTP, or contradicts its own framing."""


class BodyTooLarge(Exception):
    """A request body exceeds the limit; answered 413. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body exceeds {limit} bytes")
        self.limit = limit


class BodyTimeout(Exception):
    """A request body stopped arriving; answered 408."""


class BodyMalformed(Exception):
    """A request body's framing is broken (RFC 9112 section 7.1); answered 400, and the connection is closed."""
