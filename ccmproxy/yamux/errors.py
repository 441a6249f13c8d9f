"""What can go wrong with a session. A type exists where whoever owns the session decides differently on it."""

from __future__ import annotations

from typing import Final

#: Codes of a GO_AWAY frame.
NORMAL: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2


class SessionError(Exception):
    """Why a session ended. ``str()`` is a sentence for the log, without a byte of what the streams carried."""


class ProtocolError(SessionError):
    """The peer broke the protocol, or went beyond a limit of ours. It has been told, with GO_AWAY(1)."""


class PeerFailed(SessionError):
    """The peer ended the session with a GO_AWAY of another code than 0. ``code``: what it said."""

    def __init__(self, code: int) -> None:
        named = {PROTOCOL_ERROR: "a protocol error", INTERNAL_ERROR: "an internal error"}
        super().__init__(f"the peer ended the session: {named.get(code, f'unknown code {code}')}")
        self.code = code


class SessionTimeout(SessionError):
    """The peer did not answer a ping, or took nothing that was to be sent, for too long."""


class CarrierClosed(SessionError):
    """What carries the session has ended."""


class CannotOpen(Exception):
    """No stream can be opened now. ``for_good``: nor later on this session; else an acknowledgement makes room."""

    def __init__(self, message: str, *, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good
