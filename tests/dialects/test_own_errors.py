"""Our own errors, as far as all dialects agree on them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.own_errors import (
    error_head,
    error_type,
    exhausted_fields,
    exhausted_message,
    relayed_head,
)
from ccmproxy.state.availability import Availability


class ErrorTests(SynchronousTestCase):
    """Spec 4.2."""

    def test_types(self) -> None:
        for status, reason, kind in (
            (400, "r", "invalid_request_error"),
            (401, "r", "authentication_error"),
            (413, "r", "request_too_large"),
            (429, "user_limit", "billing_error"),
            (502, "r", "api_error"),
        ):
            self.assertEqual(error_type(status, reason), kind)

    def test_head(self) -> None:
        head = error_head(502, "upstream_lost", "OCM", "req_1", ((b"a", b"b"),))
        self.assertEqual((head.status, head.reason), (502, b"Bad Gateway"))
        self.assertEqual(
            head.headers,
            [
                (b"Content-Type", b"application/json"),
                (b"X-CCM-Error", b"upstream_lost"),
                (b"X-OCM-Request-Id", b"req_1"),
                (b"a", b"b"),
            ],
        )

    def test_a_relayed_body_keeps_what_it_is_read_by(self) -> None:
        """Spec 12.3: nothing else of the provider's head passes, and nothing says that the words are ours."""
        theirs = [
            (b"content-TYPE", b"text/plain"),
            (b"Content-Encoding", b"gzip"),
            (b"Content-Length", b"5"),
            (b"www-authenticate", b"Bearer"),
        ]
        head = relayed_head(403, theirs, "CCM", "req_1", ((b"a", b"b"),))
        self.assertEqual((head.status, head.reason), (403, b"Forbidden"))
        self.assertEqual(head.headers, [*theirs[:2], (b"X-CCM-Request-Id", b"req_1"), (b"a", b"b")])

    def test_what_does_not_mend_is_not_tried_again(self) -> None:
        for status, reason in ((401, "unauthenticated"), (429, "user_limit"), (403, "model_not_allowed")):
            self.assertIn((b"x-should-retry", b"false"), error_head(status, reason, "CCM", "i").headers)

    def test_statuses_without_a_name(self) -> None:
        self.assertEqual(error_head(529, "r", "CCM", "i").reason, b"Overloaded")
        self.assertEqual(error_head(599, "r", "CCM", "i").reason, b"Error")

    def test_exhausted(self) -> None:
        availability = Availability("rate_limited", "rate_limited", "", 1000.0 + 7980)
        self.assertEqual(
            exhausted_message(availability, 1000.0), "all credentials rate-limited, earliest reset in 2h13m"
        )
        self.assertEqual(exhausted_message(availability, 1e9), "all credentials rate-limited")

    def test_a_client_of_exhausted_credentials_is_not_to_try_again(self) -> None:
        told = exhausted_fields(Availability("rate_limited", reset_at=1000.2), 990.0)
        times = [(b"X-CCM-Reset-At", b"1001"), (b"X-CCM-Reset-In", b"11")]
        self.assertEqual(told, [(b"x-should-retry", b"false"), *times])
        told = exhausted_fields(Availability("rate_limited", reset_at=1000.2), 1002.0)
        self.assertEqual(told[2], (b"X-CCM-Reset-In", b"0"))
        self.assertEqual(
            exhausted_fields(Availability("rate_limited"), 990.0), [(b"x-should-retry", b"false")]
        )

    def test_one_model_alone(self) -> None:
        told = exhausted_fields(Availability("rate_limited", "model_window", reset_at=1000.0), 990.0)
        self.assertEqual(dict(told)[b"X-CCM-Reset-At"], b"1000")
        self.assertEqual(told[-1], (b"X-CCM-Limit", b"model_window"))
