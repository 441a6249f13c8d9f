"""By what Anthropic charges: the ways to serve requests that have prices (spec 9.3)."""

from __future__ import annotations

from decimal import Decimal

from ccmproxy.policy.prices import ServiceTier, Tariff

#: Not here, so of no known cost: ``priority``, which is sold as capacity and has no published price for tokens
#: (https://platform.claude.com/docs/en/api/service-tiers).
CLAUDE_TARIFF = Tariff(
    "anthropic",
    (
        ServiceTier("standard", source="https://platform.claude.com/docs/en/api/service-tiers"),
        ServiceTier(
            "batch",
            ("processing", "batch"),
            # The list has prices for batches from 2026-10-14 on, and of current models only. The rule is older and for
            # all: half of the usual price, that of reading and writing the cache included.
            factor=Decimal("0.5"),
            source="https://platform.claude.com/docs/en/build-with-claude/batch-processing#pricing",
        ),
        ServiceTier(
            "fast",
            ("speed", "fast"),
            source="https://platform.claude.com/docs/en/about-claude/pricing#fast-mode-pricing",
        ),
    ),
)
