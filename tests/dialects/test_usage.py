"""The arithmetic of tokens."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens


class TokensTests(SynchronousTestCase):
    """Sums."""

    def test_total_input_counts_the_cache_once(self) -> None:
        tokens = Tokens(
            input=1,
            output=10,
            cache_read=100,
            cache_creation=5000,
            cache_creation_5m=2000,
            cache_creation_1h=3000,
        )
        self.assertEqual(tokens.total_input, 5101)
        self.assertEqual(Tokens().total_input, 0)
