"""Codex accounts of the simulator: ChatGPT plans, the official CLI's auth file with its JWTs, OpenAI keys. Pure."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ccmproxy.simulator.accounts import SimulatedAccount, SimulatedKey
from ccmproxy.simulator.usage_windows import short_window, weekly_window, weight_of

#: Client id of the official client (spec 2).
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"

#: Names of OpenAI's own claims in its JWTs.
AUTH_CLAIM = "https://api.openai.com/auth"
PROFILE_CLAIM = "https://api.openai.com/profile"

#: ChatGPT plans → allowance relative to the smallest one.
PLANS = {
    "free": 0.1,
    "plus": 1.0,
    "team": 1.0,
    "business": 1.0,
    "pro": 10.0,
    "enterprise": 10.0,
}

#: Price of a model relative to the smallest one, by the word in its name.
MODEL_WEIGHTS = {"mini": 1.0, "pro": 10.0}
_USUAL_WEIGHT = 3.0

#: The limit of every model that has no limit of its own.
USUAL_LIMIT = "codex"

#: Number of units that cost one credit.
_UNITS_PER_CREDIT = 40_000.0


def model_weight(model: str) -> float:
    """Price of ``model`` relative to the smallest one."""
    return weight_of(model, MODEL_WEIGHTS, _USUAL_WEIGHT)


@dataclass(frozen=True, slots=True)
class SimulatedLimit:
    """A separate limit for some models, with its own windows. ``word``: occurs in the names of those models."""

    identity: str
    name: str
    word: str


#: The only such limit that is known from outside.
SPARK = SimulatedLimit("codex_bengalfox", "GPT-5.3-Codex-Spark", "spark")


@dataclass(slots=True)
class SimulatedCredits:
    """Credits for use beyond the windows. ``balance``: credits left."""

    has_credits: bool = False
    unlimited: bool = False
    balance: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether a turn may be paid with credits."""
        return self.unlimited or (self.has_credits and self.balance > 0)


def jwt(claims: Mapping[str, Any], signature: bytes) -> str:
    """A JSON Web Token (RFC 7519), not meant to be verified."""
    header = {"alg": "RS256", "kid": "simulated", "typ": "JWT"}
    return ".".join(_base64url(part) for part in (_compact(header), _compact(claims), signature))


class CodexAccount(SimulatedAccount):
    """A ChatGPT account in one workspace.

    Window names: ``five_hour`` (primary), ``seven_day`` (secondary), and the same with the identity of a named limit as
    a prefix: ``codex_bengalfox.five_hour``.

    ``id_token``: the current one. ``foreign_turn_states``: number of turns whose ``x-codex-turn-state`` was issued by
    another account.
    """

    def __init__(
        self,
        name: str,
        plan: str = "pro",
        *,
        rng: random.Random,
        time: Callable[[], float],
        speed: float = 1.0,
        named_limits: tuple[SimulatedLimit, ...] = (),
        credits: SimulatedCredits | None = None,
        same_workspace_as: CodexAccount | None = None,
        token_lifetime: float = 864000.0,
        access_tokens_overlap: bool = False,
    ) -> None:
        size = PLANS[plan]
        self.plan = plan
        self.named_limits = {limit.identity: limit for limit in named_limits}
        self.credits = credits if credits is not None else SimulatedCredits()
        self.foreign_turn_states = 0
        self.id_token = ""
        self._last_refresh = 0.0
        windows = {}
        for prefix in ("", *(f"{limit}." for limit in self.named_limits)):
            windows[f"{prefix}five_hour"] = short_window(size, speed)
            windows[f"{prefix}seven_day"] = weekly_window(size, speed)
        self.workspace = same_workspace_as
        super().__init__(
            name,
            rng=rng,
            time=time,
            windows=windows,
            token_lifetime=token_lifetime,
            access_tokens_overlap=access_tokens_overlap,
        )

    @property
    def account_id(self) -> str:
        """The id of the workspace, which clients send as ``ChatGPT-Account-Id``."""
        if self.workspace is not None:
            return self.workspace.account_id
        return self.organization_uuid

    # Tokens ---------------------------------------------------------------------------------------------------

    def _rotate(self) -> None:
        super()._rotate()
        now = self._time()
        self._last_refresh = now
        self.id_token = self._jwt(
            {"aud": [CLIENT_ID], "exp": int(now + 3600), "email": self.email, "email_verified": True}
        )

    def _new_access_token(self) -> str:
        return self._jwt(
            {
                "aud": ["https://api.openai.com/v1"],
                "client_id": CLIENT_ID,
                "exp": int(self._time() + self.token_lifetime),
                "scp": ["openid", "profile", "email", "offline_access"],
                PROFILE_CLAIM: {"email": self.email, "email_verified": True},
            }
        )

    def _new_refresh_token(self) -> str:
        return f"rt_{self._secret(32)}.{self._secret(32)}"

    def _jwt(self, claims: Mapping[str, Any]) -> str:
        now = int(self._time())
        auth = {
            "chatgpt_account_id": self.account_id,
            "chatgpt_plan_type": self.plan,
            "chatgpt_user_id": f"user-{self.uuid}",
            "user_id": f"user-{self.uuid}",
        }
        document = {
            "iss": "https://auth.openai.com",
            "sub": f"auth0|{self.uuid}",
            "iat": now,
            "jti": self._secret(12),
            **claims,
            AUTH_CLAIM: auth,
        }
        return jwt(document, self._rng.randbytes(256))

    def auth_document(self) -> bytes:
        """The content of ``auth.json`` (spec 3.1)."""
        last_refresh = datetime.fromtimestamp(self._last_refresh, UTC)
        return json.dumps(
            {
                "auth_mode": "chatgpt",
                "OPENAI_API_KEY": None,
                "tokens": {
                    "id_token": self.id_token,
                    "access_token": self.access_token,
                    "refresh_token": self.refresh_token,
                    "account_id": self.account_id,
                },
                "last_refresh": last_refresh.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            },
            indent=2,
        ).encode()

    def credentials_document(self, *, plan_known: bool = True) -> bytes:
        return self.auth_document()

    # Windows --------------------------------------------------------------------------------------------------

    def limit_for(self, model: str) -> str:
        """The identity of the limit that ``model`` counts against."""
        for limit in self.named_limits.values():
            if limit.word in model:
                return limit.identity
        return USUAL_LIMIT

    def windows_of(self, limit: str) -> tuple[str, str]:
        """Names of a limit's primary and secondary window."""
        prefix = f"{limit}." if limit in self.named_limits else ""
        return f"{prefix}five_hour", f"{prefix}seven_day"

    def pay(self, units: float) -> None:
        """Charge the part of a turn's cost beyond the windows to the credits, which never become negative."""
        if not self.credits.unlimited:
            self.credits.balance = max(0.0, self.credits.balance - units / _UNITS_PER_CREDIT)


class OpenAIKey(SimulatedKey):
    """A key of the OpenAI API."""

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        time: Callable[[], float],
        requests_per_minute: int = 5000,
    ) -> None:
        key = f"sk-proj-{rng.randbytes(60).hex()}"
        super().__init__(name, key, rng=rng, time=time, requests_per_minute=requests_per_minute)

    def auth_document(self) -> bytes:
        """The content of ``auth.json`` after a login with the key."""
        return json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": self.key}, indent=2).encode()


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
