"""Errors of a session. There is a class of its own for each case in which the owner may react differently."""

from __future__ import annotations

from typing import Final

#: Codes of a GO_AWAY frame.
NORMAL: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2


class SessionError(Exception):
    """Why a session ended. ``str()`` is a sentence for the log, and contains no data of the streams."""


class ProtocolError(SessionError):
    """The peer violated the protocol or exceeded one of our limits. It has been told by GO_AWAY(1)."""


class PeerFailed(SessionError):
    """The peer ended the session by a GO_AWAY with a code other than 0. ``code``: that code."""

    def __init__(self, code: int) -> None:
        named = {PROTOCOL_ERROR: "a protocol error", INTERNAL_ERROR: "an internal error"}
        super().__init__(f"the peer ended the session: {named.get(code, f'unknown code {code}')}")
        self.code = code


class SessionTimeout(SessionError):
    """The peer did not answer a ping in time, or the carrier was full for too long."""


class CarrierClosed(SessionError):
    """The connection that carries the session has ended."""


class CannotOpen(Exception):
    """No stream can be opened now. ``for_good``: nor later on this session; otherwise an acknowledgement makes room."""

    def __init__(self, message: str, *, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good
