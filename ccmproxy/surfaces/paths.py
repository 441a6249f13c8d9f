"""Which paths go to an upstream: those that stay below ``/v1/``, however anybody decodes them (spec 14). Pure."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

#: Methods that are served; TRACE and CONNECT are not (spec 14).
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")

_BELOW = b"/v1/"
#: What a segment may consist of: visible ASCII, of which nothing is special to any decoder of paths. A backslash is a
#: slash to some servers, ``;`` begins parameters that others cut off before they resolve ``..``.
_CHARACTER = rb"[!-~]"
_SPECIAL = rb"/\\%;?#"
#: A character that stands for itself, or one that is encoded because a client has to. Characters that no client has to
#: encode (RFC 3986 section 2.3) are refused in encoded form, as only somebody who hides something writes them so.
_SEGMENT = re.compile(rb"(?:(?![%b])%b|%%[0-9A-Fa-f]{2})+" % (_SPECIAL, _CHARACTER))
_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}")
_NEEDS_ENCODING = re.compile(rb"(?![%bA-Za-z0-9._~-])%b" % (_SPECIAL, _CHARACTER))
_DOTS = frozenset((b".", b".."))


def is_below_v1(path: bytes) -> bool:
    """Return whether ``path``, a request's without the query, is below ``/v1/`` for every server that it may reach.

    Servers differ in how often they decode, in which order they decode and resolve dot segments, and in what they take
    for a slash. The token of an account must not reach endpoints that are not served here by any of these ways, so a
    path is refused if it has anything to decode but visible ASCII characters without a meaning in paths: encoded
    slashes, dots, percent signs (double encoding), control characters, NUL, anything but ASCII (overlong UTF-8),
    parameters, backslashes, empty segments other than the last.
    """
    if not path.startswith(_BELOW):
        return False
    segments = path[len(_BELOW) :].split(b"/")
    if segments[-1] == b"":
        del segments[-1]
    for segment in segments:
        if segment in _DOTS or not _SEGMENT.fullmatch(segment):
            return False
    return all(_NEEDS_ENCODING.fullmatch(unquote_to_bytes(encoded)) for encoded in _ENCODED.findall(path))
