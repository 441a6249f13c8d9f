"""HTTP messages as values: heads with their header fields in wire order, and request bodies as received.

These values are independent of the HTTP version and of the direction of a message. :mod:`ccmproxy.http.headers` holds
the rules that are applied to them; the other modules of :mod:`ccmproxy.http` turn them into bytes and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter

#: Header fields in wire order, with names spelt as received. Repeated fields stay separate.
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
        """The part of the target before the query, undecoded."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """The part of the target after the first ``?``, undecoded; empty if there is none."""
        return self.target.partition(b"?")[2]


@dataclass(slots=True)
class ResponseHead:
    """Status line and header fields of one response. ``reason`` may be empty."""

    status: int
    reason: bytes
    headers: Headers = field(default_factory=list)


class Body:
    """A complete request body, kept as the chunks that were received and joined only on demand.

    ``size`` is the sum of the chunks' lengths, in bytes.
    """

    __slots__ = ("chunks", "size")

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.size = sum(map(len, chunks))

    def joined(self) -> bytes:
        """Return the whole body as one bytes object. The result replaces the chunks, so it is built only once."""
        if len(self.chunks) != 1:
            self.chunks = [b"".join(self.chunks)]
        return self.chunks[0]


#: The names of all fields are taken several times for each message, so that is done without a step of the interpreter
#: for each field.
_name: Callable[[tuple[bytes, bytes]], bytes] = itemgetter(0)
_lower = bytes.lower


class ParsedHeaders(list[tuple[bytes, bytes]]):
    """Header fields that come from a parser: a list that caches its names in lower case.

    The fields of a request are looked up by name about ten times; converting all names each time took a quarter of the
    time spent on a request.
    """

    __slots__ = ("_lower_names",)
    _lower_names: list[bytes]

    def lower_names(self) -> list[bytes]:
        """Return the names in lower case, in wire order. The list must not be modified."""
        try:
            names = self._lower_names
            if len(names) == len(self):
                return names
        except AttributeError:
            pass
        names = self._lower_names = list(map(_lower, map(_name, self)))
        return names


def lower_names(headers: Headers) -> list[bytes]:
    """Return the names of all fields in lower case, in wire order. The list must not be modified."""
    if type(headers) is ParsedHeaders:
        return headers.lower_names()
    return list(map(_lower, map(_name, headers)))


def first_value(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of the first field called ``name`` (given in lower case), or None."""
    names = lower_names(headers)
    return headers[names.index(name)][1] if name in names else None


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all fields called ``name`` (given in lower case), in wire order."""
    names = lower_names(headers)
    if name not in names:
        return []
    return [pair[1] for pair, each in zip(headers, names, strict=True) if each == name]


def list_items(headers: Headers, name: bytes) -> list[bytes]:
    """Return the stripped items of all occurrences of a comma-separated list field (RFC 9110 section 5.6.1)."""
    return [item for value in values(headers, name) for part in value.split(b",") if (item := part.strip())]


def without(headers: Headers, names: Iterable[bytes]) -> Headers:
    """Return a copy of ``headers`` without the fields whose lower-case names are in ``names``."""
    dropped = frozenset(names)
    present = lower_names(headers)
    if dropped.isdisjoint(present):
        return list(headers)
    return [pair for pair, name in zip(headers, present, strict=True) if name not in dropped]
