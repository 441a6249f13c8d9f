"""Finds the endpoint of a request, by method and path. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.upstream import Delivery

Handler = Callable[[ReceivedRequest], Delivery]


class Routing:
    """The endpoints of one provider.

    ``exact``: by method and path. ``below``: by method and a prefix of the path, for paths without an exact entry.
    ``not_allowed`` makes the 405 for a path that exists for other methods only. ``paths``: of the exact entries.
    """

    def __init__(
        self,
        exact: Mapping[tuple[bytes, bytes], Handler],
        below: Mapping[tuple[bytes, bytes], Handler],
        not_allowed: Callable[[ReceivedRequest], Reply],
    ) -> None:
        self._exact = exact
        self._below = below
        self._not_allowed = not_allowed
        self.paths = frozenset(path for _, path in exact)

    def answer(self, request: ReceivedRequest) -> Delivery | None:
        """The response to one request; None if its path is not among the endpoints."""
        handler = self._find(request.method, request.path)
        if handler is None:
            return Delivery(self._not_allowed(request)) if request.path in self.paths else None
        try:
            return handler(request)
        except RequestRefused as refused:
            return Delivery(refused.reply)

    def _find(self, method: bytes, path: bytes) -> Handler | None:
        if (handler := self._exact.get((method, path))) is not None:
            return handler
        for (known, beginning), handler in self._below.items():
            if method == known and path.startswith(beginning):
                return handler
        return None
