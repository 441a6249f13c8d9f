"""HTTP messages as values: heads with their header fields in wire order, and request bodies as they came.

Nothing here knows HTTP/1.1 from HTTP/2, or a client from an upstream; :mod:`ccmproxy.http.headers` holds the
rules that are applied to these values, :mod:`ccmproxy.http` turns them into bytes and back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: Header fields in wire order, names spelt as they were received; repeated fields stay repeated.
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class RequestHead:
    """Request line and header fields of one request.

    ``target`` is the request target as received (RFC 9112 section 3.2; origin form, path and query undecoded).
    """

    method: bytes
    target: bytes
    headers: Headers = field(default_factory=list)

    @property
    def path(self) -> bytes:
        """The target up to its query, undecoded."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """What follows the first ``?`` of the target; empty where there is none."""
        return self.target.partition(b"?")[2]


@dataclass(slots=True)
class ResponseHead:
    """Status line and header fields of one response. ``reason`` may be empty."""

    status: int
    reason: bytes
    headers: Headers = field(default_factory=list)


class Body:
    """A complete request body: the chunks as they were received, joined only if somebody has to look in.

    ``size`` is the sum of the chunks' lengths, in bytes.
    """

    __slots__ = ("chunks", "size")

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.size = sum(map(len, chunks))

    def joined(self) -> bytes:
        """The whole body as one bytes object; the result replaces the chunks, so it is built only once."""
        if len(self.chunks) != 1:
            self.chunks = [b"".join(self.chunks)]
        return self.chunks[0]


class ParsedHeaders(list[tuple[bytes, bytes]]):
    """Header fields as a parser makes them: a list that remembers its names in lower case.

    A request's fields are asked for by name some ten times; lowering all names each time was a quarter of its cost.
    """

    __slots__ = ("_lower_names",)
    _lower_names: list[bytes]

    def lower_names(self) -> list[bytes]:
        """The names in lower case, in wire order."""
        try:
            names = self._lower_names
            if len(names) == len(self):
                return names
        except AttributeError:
            pass
        names = self._lower_names = [pair[0].lower() for pair in self]
        return names


def lower_names(headers: Headers) -> list[bytes]:
    """The names of all fields in lower case, in wire order. Not to be changed."""
    if type(headers) is ParsedHeaders:
        return headers.lower_names()
    return [pair[0].lower() for pair in headers]


def first_value(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first field called ``name`` (given in lower case), or None."""
    names = lower_names(headers)
    return headers[names.index(name)][1] if name in names else None


def values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of every field called ``name`` (given in lower case), in wire order."""
    names = lower_names(headers)
    if name not in names:
        return []
    return [pair[1] for pair, each in zip(headers, names, strict=True) if each == name]


def list_items(headers: Headers, name: bytes) -> list[bytes]:
    """The items of a comma-separated list field (RFC 9110 section 5.6.1), over all its occurrences, stripped."""
    return [item for value in values(headers, name) for part in value.split(b",") if (item := part.strip())]


def without(headers: Headers, names: Iterable[bytes]) -> Headers:
    """A copy without the fields whose lower-case names are in ``names``."""
    dropped = frozenset(names)
    return [pair for pair in headers if pair[0].lower() not in dropped]
