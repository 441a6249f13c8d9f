"""Which paths go to an upstream: those that stay below ``/v1/``, however anybody decodes them (spec 14). Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

#: Methods that are served; TRACE and CONNECT are not (spec 14).
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")

#: Longest path that is served (bytes). Those of the providers have a few hundred.
LONGEST_PATH = 4096

#: Visible ASCII without the slash, and without what is special to some decoder of paths: a backslash is a slash to some
#: servers, ``;`` begins parameters that others cut off before they resolve ``..``, ``%`` is for encodings.
_PLAIN = rb"""!"$&-.0-:<->@-\[\]-~"""
#: Segments that are neither empty, but for the last one, nor dot segments.
_PATH = re.compile(rb"/v1/(?:(?!\.{1,2}(?:/|\Z))(?:[%b]|%%[0-9A-Fa-f]{2})+(?:/|\Z))*" % _PLAIN)
_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}")
#: What may stand there in encoded form. Characters that no client has to encode (RFC 3986 section 2.3) are refused, as
#: only somebody who hides something encodes them.
_NEEDS_ENCODING = re.compile(rb"(?![A-Za-z0-9._~-])[%b]" % _PLAIN)


def is_below_v1(path: bytes) -> bool:
    """Return whether ``path``, a request's without the query, is below ``/v1/`` for every server that it may reach.

    Servers differ in how often they decode, in which order they decode and resolve dot segments, and in what they take
    for a slash. The token of an account must not reach endpoints that are not served here by any of these ways, so a
    path is refused if it has anything to decode but visible ASCII characters without a meaning in paths: encoded
    slashes, dots, percent signs (double encoding), control characters, NUL, anything but ASCII (overlong UTF-8),
    parameters, backslashes, empty segments other than the last. So is a path longer than LONGEST_PATH.
    """
    return len(path) <= LONGEST_PATH and _is_harmless(path)


@lru_cache(maxsize=256)
def _is_harmless(path: bytes) -> bool:
    """Return the same for a path that is not too long. Cached, because clients ask for the same few paths."""
    if not _PATH.fullmatch(path):
        return False
    return b"%" not in path or all(
        _NEEDS_ENCODING.fullmatch(unquote_to_bytes(encoded)) for encoded in _ENCODED.findall(path)
    )
