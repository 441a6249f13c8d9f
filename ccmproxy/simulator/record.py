"""The requests that the simulator received, kept for assertions, with a bound on their number and size. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ccmproxy.http.message import Headers, RequestHead, first_value, list_items


@dataclass(slots=True)
class ReceivedRequest:
    """One request as it arrived, byte for byte. Tokens are in ``headers``, which are not in the repr.

    ``at``: Unix seconds. Filled in while the request is answered: ``account``: name of its account, ``endpoint``: kind
    of request, ``fault``: name of the fault that it met, ``status``: of the response. ``state``: how the response went:
    ``answering``, ``finished``, ``gone`` (the client left), ``broken`` (by a fault).
    """

    number: int
    at: float
    method: bytes
    target: bytes
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    peer: str
    account: str | None = None
    endpoint: str = "other"
    fault: str | None = None
    status: int = 0
    state: str = "answering"

    @property
    def path(self) -> bytes:
        """The target up to its query, undecoded."""
        return self.target.partition(b"?")[0]

    @property
    def head(self) -> RequestHead:
        """The same as a value of :mod:`ccmproxy.http.message`."""
        return RequestHead(self.method, self.target, self.headers)

    def header(self, name: bytes) -> bytes | None:
        """First value of the field ``name`` (lower case), or None."""
        return first_value(self.headers, name)

    @property
    def bearer(self) -> str | None:
        """The token of an Authorization field with the scheme Bearer (RFC 6750 section 2.1), else None."""
        scheme, _, token = (self.header(b"authorization") or b"").decode("latin-1").partition(" ")
        return token if scheme.lower() == "bearer" and token else None

    def items(self, name: bytes) -> list[bytes]:
        """Items of the comma-separated field ``name`` (lower case)."""
        return list_items(self.headers, name)


class Record:
    """The last requests, oldest first.

    Holds at most ``max_requests``, and at most ``max_bytes`` of bodies, but always the newest request.
    """

    def __init__(self, max_requests: int = 1000, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self._requests: deque[ReceivedRequest] = deque()
        self._bytes = 0

    def append(self, request: ReceivedRequest) -> None:
        """Add ``request`` as the newest one."""
        if not self.max_requests:
            return
        self._requests.append(request)
        self._bytes += len(request.body)
        while len(self._requests) > self.max_requests or (
            self._bytes > self.max_bytes and len(self._requests) > 1
        ):
            self._bytes -= len(self._requests.popleft().body)

    def clear(self) -> None:
        """Remove all requests."""
        self._requests.clear()
        self._bytes = 0

    def of(self, endpoint: str) -> list[ReceivedRequest]:
        """The kept requests of one endpoint (``turn``, ``token``, ``usage``, …)."""
        return [request for request in self._requests if request.endpoint == endpoint]

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[ReceivedRequest]:
        return iter(list(self._requests))

    def __getitem__(self, index: int) -> ReceivedRequest:
        return self._requests[index]
