"""Limits of a key of Claude's commercial API."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.key_limits import api_key_reset


class ApiKeyResetTests(SynchronousTestCase):
    """When the used-up limit of an API key renews."""

    def test_the_limit_that_is_used_up_counts(self) -> None:
        headers = [
            (b"Anthropic-Ratelimit-Requests-Remaining", b"5"),
            (b"Anthropic-Ratelimit-Requests-Reset", b"2026-11-23T16:00:00Z"),
            (b"anthropic-ratelimit-tokens-remaining", b"0"),
            (b"anthropic-ratelimit-tokens-reset", b"2026-11-23T15:00:00+00:00"),
        ]
        self.assertEqual(api_key_reset(headers), 1_795_446_000.0)

    def test_a_time_without_a_zone_or_none_at_all_is_unknown(self) -> None:
        for text in (b"2026-11-23T15:00:00", b"soon", b"", b"9" * 400):
            headers = [
                (b"anthropic-ratelimit-tokens-remaining", b"0"),
                (b"anthropic-ratelimit-tokens-reset", text),
            ]
            self.assertEqual(api_key_reset(headers), 0.0)
