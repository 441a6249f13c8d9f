"""By what OpenAI charges: the ways to serve requests that have prices (spec 9.3)."""

from __future__ import annotations

from ccmproxy.policy.prices import ServiceTier, Tariff

_SOURCE = "https://developers.openai.com/api/docs/pricing"

#: No rule holds for all models: each has its own prices for every way, rounded, and some without any for cached input.
#: So what the list does not have (before 2026-10-12, when it began to keep them) has no known cost. Nor has ``scale``,
#: which is sold as capacity.
CODEX_TARIFF = Tariff(
    "openai",
    (
        ServiceTier("default", source=_SOURCE),
        # What the project is set to, which is the usual way unless it was configured otherwise; answers name the way
        # that was really taken, and this word only where they do not tell.
        ServiceTier(
            "auto", source="https://developers.openai.com/api/docs/api-reference/responses (service_tier)"
        ),
        ServiceTier("flex", ("service_tier", "flex"), source=_SOURCE),
        ServiceTier("priority", ("service_tier", "priority"), source=_SOURCE),
        ServiceTier("fast", ("service_tier", "fast"), source=_SOURCE),
        ServiceTier("batch", ("processing", "batch"), source=_SOURCE),
    ),
)
