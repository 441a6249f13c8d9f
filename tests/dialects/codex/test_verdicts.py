"""What Codex's refusals mean, beyond what the tests of its traffic, its meters and its frames show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.verdicts import event_status, judge_event, key_reset

NOW = 1_795_000_000.0


class KeyTests(SynchronousTestCase):
    """When the used-up limit of an API key renews."""

    def test_durations(self) -> None:
        for value, seconds in (
            ("20ms", 0.02),
            ("6m0s", 360),
            ("1h2m3s", 3723),
            ("", 0),
            ("soon", 0),
            ("5", 0),
        ):
            headers = [(b"X-RateLimit-Remaining-Requests", b"0")]
            headers.append((b"x-ratelimit-reset-requests", value.encode()))
            self.assertEqual(key_reset(headers), seconds, value)
            self.assertEqual(key_reset(headers[1:]), 0)


class EventTests(SynchronousTestCase):
    """Events that clients take for answers."""

    def test_a_status(self) -> None:
        for said, status in (
            ({"status": 429}, 429),
            ({"status_code": 401}, 401),
            ({"status": True}, None),
            ({"status": "429"}, None),
            ({"status": 200}, None),
            ({}, None),
        ):
            self.assertEqual(event_status(dict(said)), status, said)

    @given(
        st.sampled_from(["response.failed", "error", "response.created", ""]),
        st.binary(max_size=60)
        | st.sampled_from([b'{"response": 5}', b'{"response": {"error": []}}', b'{"error": {"code": {}}}']),
    )
    def test_garbage_is_no_refusal(self, kind: str, payload: bytes) -> None:
        self.assertIsNone(judge_event(kind, payload, [], NOW))
