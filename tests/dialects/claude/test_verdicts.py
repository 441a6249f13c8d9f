"""What Claude's refusals mean, beyond what the tests of its traffic and its meters show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.verdicts import judge_error_event

NOW = 1_795_000_000.0


class EventTests(SynchronousTestCase):
    """``error`` events."""

    @given(
        st.binary(max_size=60)
        | st.sampled_from(
            [b'{"error": 5}', b'{"error": {"type": []}}', b'{"error": {"type": "not_found_error"}}']
        )
    )
    def test_garbage_is_no_refusal(self, payload: bytes) -> None:
        self.assertIsNone(judge_error_event(payload, [], NOW))
