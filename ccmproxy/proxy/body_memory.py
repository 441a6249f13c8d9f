"""How many bytes of request bodies a service holds at a time, and who holds them (F63)."""

from __future__ import annotations

from collections import Counter

from ccmproxy.http.failures import NoRoomForBody


class BodyMemory:
    """All bytes of requests that a service holds: bodies, and messages of WebSockets that are not complete yet.

    One user alone can hold half of what is allowed, so that nobody keeps the others out.
    """

    __slots__ = ("_of_users", "held")

    def __init__(self) -> None:
        self.held = 0
        self._of_users: Counter[str] = Counter()

    def reservation(self, user: str, most: int) -> Reservation:
        """Return a reservation of nothing. ``most``: bytes that all requests may hold together."""
        return Reservation(self, user, most)

    def change(self, user: str, by: int, most: int) -> None:
        """Let ``user`` hold so many bytes more, or fewer. Raises NoRoomForBody where that would be too many."""
        if by > 0 and (self.held + by > most or self._of_users[user] + by > most // 2):
            raise NoRoomForBody(by)
        self.held += by
        self._of_users[user] += by
        if not self._of_users[user]:
            del self._of_users[user]


class Reservation:
    """The bytes that one request holds. ``size``: how many."""

    __slots__ = ("_memory", "_most", "_user", "size")

    def __init__(self, memory: BodyMemory, user: str, most: int) -> None:
        self._memory = memory
        self._user = user
        self._most = most
        self.size = 0

    def grow(self, by: int) -> None:
        """Hold so many bytes more. Raises NoRoomForBody, and holds what it held, where there is no room for them."""
        self._memory.change(self._user, by, self._most)
        self.size += by

    def resize(self, size: int) -> None:
        """Hold so many bytes altogether. Raises NoRoomForBody, and holds what it held, where there is no room."""
        if size != self.size:
            self.grow(size - self.size)

    def release(self) -> None:
        """Hold nothing any more. May be called again."""
        self.resize(0)
