"""Which clients are authenticated, what the others are told, and how guessing is slowed down."""

from __future__ import annotations

import gc
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.authentication import (
    THROTTLE_FAILURES,
    THROTTLE_SPAN,
    FailureThrottle,
    Refused,
    UserTokens,
    api_key_refusal,
)

TOKENS = UserTokens([("alice-token", "alice"), ("bob-token", "bob")], "CCM")


class UserTokensTests(SynchronousTestCase):
    """Spec 4.1 points 2 and 3."""

    def refusal(self, *headers: tuple[bytes, bytes]) -> Refused:
        found = TOKENS.identify(list(headers))
        assert isinstance(found, Refused)
        return found

    def test_bearer_tokens(self) -> None:
        self.assertEqual(TOKENS.identify([(b"Authorization", b"Bearer alice-token")]), "alice")
        self.assertEqual(TOKENS.identify([(b"authorization", b"bearer   bob-token ")]), "bob")

    def test_a_users_token_is_accepted_as_api_key(self) -> None:
        self.assertEqual(TOKENS.identify([(b"X-Api-Key", b"bob-token")]), "bob")
        self.assertEqual(TOKENS.identify([(b"api-key", b"alice-token")]), "alice")

    def test_any_other_api_key_is_a_bad_request(self) -> None:
        refused = self.refusal((b"x-api-key", b"sk-ant-secret"), (b"Authorization", b"Bearer alice-token"))
        self.assertEqual(refused.status, 400)
        self.assertEqual(
            refused.message,
            "API key authentication is not supported; use Authorization: Bearer with a CCM user token",
        )

    def test_the_three_ways_to_be_unauthenticated(self) -> None:
        for headers, message in (
            ([], "missing api key"),
            ([(b"Authorization", b"  ")], "missing api key"),
            ([(b"Authorization", b"Basic YTpi")], "invalid api key format"),
            ([(b"Authorization", b"Bearer")], "invalid api key format"),
            ([(b"Authorization", b"Bearer a"), (b"Authorization", b"Bearer b")], "invalid api key format"),
            ([(b"Authorization", b"Bearer alice-toke")], "invalid api key"),
            ([(b"Authorization", b"Bearer \xff\x00")], "invalid api key"),
        ):
            refused = self.refusal(*headers)
            self.assertEqual((refused.status, refused.message), (401, message))

    def test_a_look_up_is_the_same_work_whoever_asks(self) -> None:
        """The first user, the last one, a token that is almost right, and one that is wrong altogether."""
        many = [(f"token-of-user-{number:04}", number) for number in range(1000)]
        tokens = UserTokens(many, "CCM")

        def work(token: bytes) -> int:
            """Return how many functions are called to look ``token`` up."""
            calls = 0

            def count(frame: object, event: str, argument: object) -> None:
                nonlocal calls
                calls += event in ("call", "c_call")

            headers = [(b"Authorization", b"Bearer " + token)]
            # The garbage collector may call functions of others.
            gc.disable()
            sys.setprofile(count)
            try:
                tokens.identify(headers)
            finally:
                sys.setprofile(None)
                gc.enable()
            return calls

        known = {work(token.encode()) for token, _ in (many[0], many[500], many[-1])}
        # Telling why a token is refused is work that the answer shows anyway.
        wrong = {work(token) for token in (b"token-of-user-0999x", b"token-of-user-099", b"x")}
        self.assertEqual((len(known), len(wrong)), (1, 1))
        self.assertLess(max(wrong), 2 * min(known))

    def test_without_users_only_an_api_key_is_refused(self) -> None:
        self.assertIsNone(api_key_refusal([], "CCM"))
        self.assertIsNone(api_key_refusal([(b"Authorization", b"Bearer x")], "CCM"))
        refused = api_key_refusal([(b"x-api-key", b"x")], "CCM")
        assert refused is not None
        self.assertEqual(refused.status, 400)

    @given(st.binary(max_size=60))
    def test_no_garbage_is_let_in(self, value: bytes) -> None:
        found = TOKENS.identify([(b"Authorization", value)])
        self.assertIsInstance(found, Refused)


class FailureThrottleTests(SynchronousTestCase):
    """Spec 11: an address has to wait after ten failures within a minute."""

    def test_the_eleventh_in_a_minute_waits(self) -> None:
        throttle = FailureThrottle()
        for second in range(THROTTLE_FAILURES):
            self.assertEqual(throttle.retry_after("a", second), 0)
            throttle.failed("a", second)
        self.assertEqual(throttle.retry_after("a", 10), THROTTLE_SPAN - 10)
        self.assertEqual(throttle.retry_after("b", 10), 0)

    def test_it_passes_with_time_and_forgets_the_address(self) -> None:
        throttle = FailureThrottle()
        for _ in range(THROTTLE_FAILURES):
            throttle.failed("a", 5)
        self.assertEqual(throttle.retry_after("a", 5 + THROTTLE_SPAN), 0)
        self.assertEqual(len(throttle), 0)

    def test_a_clock_that_jumps_back_locks_nobody_out(self) -> None:
        throttle = FailureThrottle()
        for _ in range(THROTTLE_FAILURES):
            throttle.failed("a", 10_000)
        self.assertEqual(throttle.retry_after("a", 5), 0)

    def test_addresses_are_bounded(self) -> None:
        throttle = FailureThrottle()
        for number in range(10_050):
            throttle.failed(str(number), 0)
        self.assertEqual(len(throttle), 10_000)
