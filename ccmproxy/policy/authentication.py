"""Authentication of clients by the tokens that the operator issued, and throttling of guesses (spec 4.1, 11). Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

from ccmproxy.http.message import Headers, first_value, values

UserT = TypeVar("UserT")

#: Number of failures within :data:`THROTTLE_SPAN` seconds after which an address has to wait.
THROTTLE_FAILURES = 10
THROTTLE_SPAN = 60.0
#: Number of addresses that are remembered; beyond it, the address whose last failure is the oldest is forgotten.
THROTTLE_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request was refused. ``reason``: a stable word; ``message``: a sentence for the client."""

    status: int
    reason: str
    message: str


class UserTokens(Generic[UserT]):
    """Finds the user to whom a request's token belongs.

    Tokens are stored and looked up by their digests. A look-up is one step, whoever the user is and however many there
    are, and how much of a token is right does not show in its digest, so that the duration reveals nothing.
    ``product``: name of the product in messages (``CCM``).
    """

    def __init__(self, users: Iterable[tuple[str, UserT]], product: str) -> None:
        self._users = {_digest(token.encode("utf-8")): user for token, user in users}
        self._product = product

    def identify(self, headers: Headers) -> UserT | Refused:
        """Return the user, or why there is none (spec 4.1 points 2 and 3)."""
        for name in (b"x-api-key", b"api-key"):
            key = (first_value(headers, name) or b"").strip()
            if key:  # an empty key is ignored: some clients send one in addition to a token
                user = self._find(key)
                if user is None:
                    return Refused(
                        400,
                        "api_key",
                        "API key authentication is not supported; use Authorization: Bearer with a"
                        f" {self._product} user token",
                    )
                return user
        fields = values(headers, b"authorization")
        if not fields or not fields[0].strip():
            return Refused(401, "unauthenticated", "missing api key")
        scheme, _, token = fields[0].strip().partition(b" ")
        if len(fields) > 1 or scheme.lower() != b"bearer" or not token.strip():
            return Refused(401, "unauthenticated", "invalid api key format")
        user = self._find(token.strip())
        return user if user is not None else Refused(401, "unauthenticated", "invalid api key")

    def _find(self, token: bytes) -> UserT | None:
        return self._users.get(_digest(token))


def api_key_refusal(headers: Headers, product: str) -> Refused | None:
    """Return the refusal of spec 4.1 point 2 for a service without users, where any API key is refused; else None."""
    found = UserTokens[None]((), product).identify(headers)
    return found if isinstance(found, Refused) and found.reason == "api_key" else None


class FailureThrottle:
    """Slows down guessing of tokens: after ten failures within a minute, an address has to wait.

    This is a sliding window over the last failures of each address. Unlike a token bucket, which would allow one more
    attempt every six seconds, it makes the address wait until the oldest of the failures is a minute old. The clock may
    be set back.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, address: str, now: float) -> None:
        """Record a failure of ``address`` at ``now`` (seconds)."""
        times = self._failures.pop(address, None) or deque(maxlen=THROTTLE_FAILURES)
        times.append(now)
        self._failures[address] = times
        if len(self._failures) > THROTTLE_ADDRESSES:
            self._failures.popitem(last=False)

    def retry_after(self, address: str, now: float) -> float:
        """Return the seconds for which ``address`` has to wait, or 0 if it may try now."""
        times = self._failures.get(address)
        if times is None:
            return 0.0
        while times and not 0 <= now - times[0] < THROTTLE_SPAN:
            times.popleft()
        if not times:
            del self._failures[address]
            return 0.0
        return times[0] + THROTTLE_SPAN - now if len(times) == THROTTLE_FAILURES else 0.0


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()
