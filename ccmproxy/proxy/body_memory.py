"""How many bytes of request bodies a service holds at a time, and who holds them (F63)."""

from __future__ import annotations

from collections import Counter

from ccmproxy.http.failures import NoRoomForBody

#: A request that holds no more than this is never refused (bytes): what is small is bounded by the number of
#: connections, and a turn in progress must not end because of a few bytes.
ALWAYS = 64 * 1024


class BodyMemory:
    """All bytes of requests that a service holds: bodies, and messages of WebSockets that are not complete yet, or that
    the other side has not taken.

    One user can hold half of what is allowed, so that one alone cannot keep the others out.
    """

    __slots__ = ("_of_users", "held")

    def __init__(self) -> None:
        self.held = 0
        self._of_users: Counter[str] = Counter()

    def reservation(self, user: str, most: int, always: int = ALWAYS) -> Reservation:
        """Return a reservation of nothing. ``most``: bytes that all requests may hold together; ``always``: bytes that
        this one may hold whatever the others do."""
        return Reservation(self, user, most, always)

    def has_room(self, user: str, size: int, most: int) -> bool:
        """Return whether ``user`` may hold so many bytes more."""
        return self.held + size <= most and self._of_users[user] + size <= most // 2

    def change(self, user: str, by: int) -> None:
        """Note that ``user`` holds so many bytes more, or fewer."""
        self.held += by
        self._of_users[user] += by
        if not self._of_users[user]:
            del self._of_users[user]


class Reservation:
    """The bytes that one request holds. ``size``: how many; ``largest``: how many it could ever hold."""

    __slots__ = ("_always", "_memory", "_most", "_user", "largest", "size")

    def __init__(self, memory: BodyMemory, user: str, most: int, always: int) -> None:
        self._memory = memory
        self._user = user
        self._most = most
        self._always = always
        self.largest = max(most // 2, always)
        self.size = 0

    def grow(self, by: int) -> None:
        """Hold so many bytes more. Raises NoRoomForBody, and holds what it held, where there is no room for them."""
        if by > 0 and self.size + by > self._always and not self._memory.has_room(self._user, by, self._most):
            raise NoRoomForBody(by)
        self._memory.change(self._user, by)
        self.size += by

    def resize(self, size: int) -> None:
        """Hold so many bytes altogether. Raises NoRoomForBody, and holds what it held, where there is no room."""
        if size != self.size:
            self.grow(size - self.size)

    def release(self) -> None:
        """Hold nothing any more. May be called again."""
        self.resize(0)
