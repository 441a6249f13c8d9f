"""Accounts of the simulator: logins whose refresh tokens rotate, windows that fill, and counters of their use.

The parts common to both upstreams are here; :mod:`ccmproxy.simulator.claude.simulated_account` and its Codex
counterpart add the plans, tokens and files of one provider. No Twisted; the time comes from a callable.
"""

from __future__ import annotations

import base64
import random
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.usage_windows import UsageWindow, cost

#: State of the token in a request.
TokenState = Literal["valid", "expired", "revoked"]


@dataclass(slots=True)
class AccountCounters:
    """The use of an account. ``turns``: requests for model output that reached it, including those that met a fault.

    ``refreshes``: successful refreshes; ``refused_refreshes``: those with an old or unknown refresh token of this
    account.
    """

    turns: int = 0
    refused_turns: int = 0
    refreshes: int = 0
    refused_refreshes: int = 0
    usage_polls: int = 0
    concurrent: int = 0
    max_concurrent: int = 0


class RefreshTokenReused(Exception):
    """The refresh token was redeemed before; the account has been logged out because of it."""


class RefreshTokenExpired(Exception):
    """The refresh token has expired."""


class _TurnCounter:
    """Counts the turns of an account."""

    counters: AccountCounters

    def begin_turn(self) -> None:
        """Note that the response to a request for model output begins."""
        counters = self.counters
        counters.turns += 1
        counters.concurrent += 1
        counters.max_concurrent = max(counters.max_concurrent, counters.concurrent)

    def end_turn(self) -> None:
        """Note that the response has ended, in whatever way."""
        self.counters.concurrent -= 1


class SimulatedAccount(_TurnCounter, ABC):
    """One login: current tokens, earlier ones, windows by name, counters.

    ``refresh_token_expired``: the refresh token has expired. ``access_tokens_overlap``: a refresh leaves earlier access
    tokens valid until they expire; by default it invalidates them, so that a client which keeps using one is noticed.
    """

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        time: Callable[[], float],
        windows: dict[str, UsageWindow],
        scopes: tuple[str, ...] = (),
        token_lifetime: float = 28800.0,
        access_tokens_overlap: bool = False,
    ) -> None:
        self.name = name
        self.windows = windows
        self.scopes = scopes
        self.token_lifetime = token_lifetime
        self.access_tokens_overlap = access_tokens_overlap
        self.counters = AccountCounters()
        self.uuid = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        self.organization_uuid = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        self.email = f"{name}@example.com"
        self.logged_in = True
        self.refresh_token_expired = False
        self._rng = rng
        self._time = time
        self._access_tokens: dict[str, float] = {}
        self._revoked: set[str] = set()
        self._redeemed: set[str] = set()
        self.access_token = ""
        self.refresh_token = ""
        self.log_in()

    # Tokens ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _new_access_token(self) -> str:
        """A new access token in the provider's format."""

    @abstractmethod
    def _new_refresh_token(self) -> str:
        """A new refresh token in the provider's format."""

    @abstractmethod
    def credentials_document(self, *, plan_known: bool = True) -> bytes:
        """The credential file as the official client would have written it now.

        ``plan_known`` False: the file does not name the account's plan, if the client's format allows that.
        """

    def _secret(self, size: int) -> str:
        """A random base64url word made from ``size`` bytes; seeded, so that a run can be repeated."""
        return base64.urlsafe_b64encode(self._rng.randbytes(size)).rstrip(b"=").decode()

    @property
    def expires_at(self) -> float:
        """When the current access token expires or expired (Unix seconds)."""
        return self._access_tokens[self.access_token]

    def log_in(self) -> None:
        """Begin a new login: every earlier token becomes invalid."""
        self.logged_in = True
        self._redeemed.clear()
        self._revoked.clear()
        self._access_tokens.clear()
        self._rotate()

    def _rotate(self) -> None:
        if not self.access_tokens_overlap:
            self._access_tokens.clear()
        self.refresh_token_expired = False
        self.access_token = self._new_access_token()
        self._access_tokens[self.access_token] = self._time() + self.token_lifetime
        self.refresh_token = self._new_refresh_token()

    def redeem(self, refresh_token: str) -> None:
        """Exchange a refresh token for a new pair of tokens.

        Raises RefreshTokenReused for a token that was redeemed before, which logs the account out (RFC 9700 section
        2.2.2; seen with both providers), RefreshTokenExpired for one that has expired, and KeyError for one that is not
        this account's or no longer valid.
        """
        if self.refresh_token_expired and refresh_token == self.refresh_token:
            self.counters.refused_refreshes += 1
            raise RefreshTokenExpired
        if refresh_token in self._redeemed:
            self.counters.refused_refreshes += 1
            self.log_out()
            raise RefreshTokenReused
        if not self.logged_in or refresh_token != self.refresh_token:
            self.counters.refused_refreshes += 1
            raise KeyError("unknown refresh token")
        self._redeemed.add(refresh_token)
        self.counters.refreshes += 1
        self._rotate()

    def knows_refresh_token(self, refresh_token: str) -> bool:
        """Whether this is, or was, a refresh token of the current login."""
        return refresh_token == self.refresh_token or refresh_token in self._redeemed

    def token_state(self, access_token: str) -> TokenState | None:
        """The state of ``access_token``; None if it was never issued to this account."""
        if access_token in self._revoked:
            return "revoked"
        expires_at = self._access_tokens.get(access_token)
        if expires_at is None:
            return None
        return "valid" if self._time() < expires_at else "expired"

    def expire_access_token(self) -> None:
        """Let the current access token expire now; the refresh token stays valid."""
        self._access_tokens[self.access_token] = self._time()

    def expire_refresh_token(self) -> None:
        """Let the refresh token expire now."""
        self.refresh_token_expired = True

    def revoke(self) -> None:
        """Revoke the current access token; the refresh token stays valid."""
        self._revoked.add(self.access_token)

    def log_out(self) -> None:
        """End the login: access tokens are revoked, and no refresh token is accepted any more."""
        self._revoked.update(self._access_tokens)
        self.logged_in = False

    # Windows --------------------------------------------------------------------------------------------------

    def set_utilization(self, window: str, percent: float, resets_in: float | None = None) -> None:
        """Make a window ``percent`` full; ``resets_in`` seconds moves its reset. Raises KeyError for an unknown one."""
        self.windows[window].set_utilization(percent, self._time(), resets_in)

    def exhaust(self, window: str = "five_hour", resets_in: float | None = None) -> None:
        """Use a window up. Raises KeyError for an unknown window."""
        self.set_utilization(window, 100.0, resets_in)

    def reset(self, window: str | None = None) -> None:
        """Empty one window, or all of them, ahead of time; their reset times stay."""
        for name in [window] if window is not None else list(self.windows):
            self.windows[name].used = 0.0

    def utilization(self, window: str) -> float:
        """Percent of a window that is used up now."""
        return self.windows[window].utilization(self._time()) * 100.0

    def shown_window(self, window: str, now: float, full: str | None = None) -> tuple[float, float]:
        """The fraction of a window that is used, and its reset in Unix seconds; begins the window, as a response does.

        ``full``: name of a window that is reported as used up, whatever its real state.
        """
        shown = self.windows[window]
        shown.begin(now)
        assert shown.resets_at is not None
        utilization = shown.utilization(now)
        return max(utilization, 1.0) if window == full else utilization, shown.resets_at

    def full_until(self, names: Iterable[str]) -> float | None:
        """The last reset among those of the named windows that are used up (Unix seconds); None if none is."""
        now = self._time()
        windows = [self.windows[name] for name in names]
        return max((window.resets_at or now for window in windows if window.is_full(now)), default=None)

    def consume(self, tokens: Tokens, model_weight: float, windows: list[str]) -> None:
        """Charge the tokens of a response to the named windows."""
        units = cost(tokens, model_weight)
        now = self._time()
        for name in windows:
            self.windows[name].consume(units, now)


#: Token limit of a key per request that it may send.
TOKENS_PER_REQUEST = 1000


class SimulatedKey(_TurnCounter):
    """A key of a commercial API, with a number of requests per minute in place of windows (spec 3.7).

    ``requests_per_minute`` refills all at once every minute, which is simpler than the real token buckets and yields
    the same headers.
    """

    def __init__(
        self,
        name: str,
        key: str,
        *,
        rng: random.Random,
        time: Callable[[], float],
        requests_per_minute: int = 4000,
    ) -> None:
        self.name = name
        self.key = key
        self.counters = AccountCounters()
        self.organization_uuid = f"{rng.getrandbits(32):08x}-0000-4000-8000-{rng.getrandbits(48):012x}"
        self.requests_per_minute = requests_per_minute
        self._time = time
        self._remaining = requests_per_minute
        self._refills_at = 0.0

    def take_request(self) -> bool:
        """Count one request; return False if the allowance of this minute is used up."""
        self._refill()
        if not self._remaining:
            return False
        self._remaining -= 1
        return True

    def exhaust(self) -> None:
        """Use up the requests of this minute."""
        self._refill()
        self._remaining = 0

    def allowance(self) -> tuple[int, float]:
        """Requests left, and when they are refilled (Unix seconds)."""
        self._refill()
        return self._remaining, self._refills_at

    def quotas(self) -> list[tuple[str, int, int]]:
        """``requests`` and ``tokens``, each with the allowance per minute and what is left of it."""
        left, _ = self.allowance()
        return [
            ("requests", self.requests_per_minute, left),
            ("tokens", self.requests_per_minute * TOKENS_PER_REQUEST, left * TOKENS_PER_REQUEST),
        ]

    def _refill(self) -> None:
        now = self._time()
        if now >= self._refills_at:
            self._remaining = self.requests_per_minute
            self._refills_at = now + 60.0


_AccountT = TypeVar("_AccountT", bound=SimulatedAccount)
_KeyT = TypeVar("_KeyT", bound=SimulatedKey)


def find_login(
    accounts: Iterable[_AccountT], access_token: str
) -> tuple[_AccountT, TokenState] | tuple[None, None]:
    """The account that has, or had, an access token, and the current state of that token."""
    for account in accounts:
        if (state := account.token_state(access_token)) is not None:
            return account, state
    return None, None


def find_key(keys: Iterable[_KeyT], key: str) -> _KeyT | None:
    """The key with this text."""
    return next((known for known in keys if known.key == key), None)
