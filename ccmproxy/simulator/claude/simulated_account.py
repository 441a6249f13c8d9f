"""Claude accounts of the simulator: plans, the official CLI's credential file, API keys. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from ccmproxy.simulator.accounts import SimulatedAccount, SimulatedKey
from ccmproxy.simulator.usage_windows import short_window, weekly_window, weight_of

#: Scopes of a login made with the official CLI (spec 3.2 point 5).
SCOPES = (
    "user:file_upload",
    "user:inference",
    "user:mcp_servers",
    "user:profile",
    "user:sessions:claude_code",
)

#: Price of a model relative to the smallest one, by the word in its name.
MODEL_WEIGHTS = {"haiku": 1.0, "sonnet": 3.0, "opus": 5.0}

#: Windows that apply to one model family only: window name -> word in the model's name.
MODEL_WINDOWS = {"seven_day_opus": "opus", "seven_day_sonnet": "sonnet"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A subscription. ``size``: its allowance relative to the smallest plan."""

    subscription_type: str
    organization_type: str
    rate_limit_tier: str
    size: float


#: Plans by the name that :meth:`~ccmproxy.simulator.server.Simulator.add_account` takes.
PLANS = {
    "pro": Plan("pro", "claude_pro", "default_claude_ai", 1.0),
    "max_5x": Plan("max", "claude_max", "default_claude_max_5x", 5.0),
    "max_20x": Plan("max", "claude_max", "default_claude_max_20x", 20.0),
    "team": Plan("team", "claude_team", "default_raven", 1.25),
    "team_premium": Plan("team", "claude_team", "default_claude_max_5x", 6.25),
    "enterprise": Plan("enterprise", "claude_enterprise", "default_claude_zero", 10.0),
}


def model_weight(model: str) -> float:
    """Price of ``model`` relative to the smallest one; unknown models cost as much as the middle one."""
    return weight_of(model, MODEL_WEIGHTS, MODEL_WEIGHTS["sonnet"])


class ClaudeAccount(SimulatedAccount):
    """A subscription account. Window names: ``five_hour``, ``seven_day``, optionally those of MODEL_WINDOWS.

    ``plan``: one of PLANS. Raises KeyError for an unknown plan, ValueError for an unknown model window.
    """

    def __init__(
        self,
        name: str,
        plan: str = "max_20x",
        *,
        rng: random.Random,
        time: Callable[[], float],
        speed: float = 1.0,
        model_windows: tuple[str, ...] = (),
        same_organization_as: ClaudeAccount | None = None,
        scopes: tuple[str, ...] = SCOPES,
        token_lifetime: float = 28800.0,
        access_tokens_overlap: bool = False,
    ) -> None:
        self.plan = PLANS[plan]
        windows = {
            "five_hour": short_window(self.plan.size, speed),
            "seven_day": weekly_window(self.plan.size, speed),
        }
        for window in model_windows:
            if window not in MODEL_WINDOWS:
                raise ValueError(f"unknown model window: {window}")
            windows[window] = weekly_window(self.plan.size / 2, speed)
        super().__init__(
            name,
            rng=rng,
            time=time,
            windows=windows,
            scopes=scopes,
            token_lifetime=token_lifetime,
            access_tokens_overlap=access_tokens_overlap,
        )
        if same_organization_as is not None:
            # Members of one organization may share one allowance (F33).
            self.windows = same_organization_as.windows
            self.organization_uuid = same_organization_as.organization_uuid

    def _new_access_token(self) -> str:
        return f"sk-ant-oat01-{self._secret(64)}-{self._secret(6)}"

    def _new_refresh_token(self) -> str:
        return f"sk-ant-ort01-{self._secret(64)}-{self._secret(6)}"

    def credentials_document(self, *, plan_known: bool = True) -> bytes:
        """The content of ``.credentials.json`` (spec 3.1). ``plan_known=False``: type and tier are null."""
        login = {
            "accessToken": self.access_token,
            "refreshToken": self.refresh_token,
            "expiresAt": int(self.expires_at * 1000),
            "scopes": list(self.scopes),
            "subscriptionType": self.plan.subscription_type if plan_known else None,
            "rateLimitTier": self.plan.rate_limit_tier if plan_known else None,
        }
        return json.dumps({"claudeAiOauth": login}, separators=(",", ":")).encode()

    def windows_for(self, model: str) -> list[str]:
        """Names of the windows that a request for ``model`` draws on, the general ones first."""
        return [name for name in self.windows if (word := MODEL_WINDOWS.get(name)) is None or word in model]


class ApiKeyAccount(SimulatedKey):
    """A key of the commercial API."""

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        time: Callable[[], float],
        requests_per_minute: int = 4000,
    ) -> None:
        key = f"sk-ant-api03-{rng.randbytes(48).hex()}-AA"
        super().__init__(name, key, rng=rng, time=time, requests_per_minute=requests_per_minute)
