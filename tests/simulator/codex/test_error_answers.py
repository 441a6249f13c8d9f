"""Every fault that is an answer has one, in the shapes that clients read."""

from __future__ import annotations

import json
import random

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import first_value
from ccmproxy.simulator.codex.error_answers import ErrorAnswers, failure, object_id, request_id
from ccmproxy.simulator.faults import ANSWERS, Fault

#: Status of each fault's answer.
STATUS = {
    "rate_limited": 429,
    "overloaded": 503,
    "server_error": 500,
    "unavailable": 503,
    "bad_gateway": 502,
    "unauthorized": 401,
    "revoked": 401,
    "forbidden": 403,
    "too_long": 400,
    "too_large": 413,
    "html": 200,
    "empty": 200,
    "nonsense": 200,
    "broken_json": 200,
    "redirect": 307,
    "invalid_grant": 400,
    "hang": 200,
    "status": 500,
    "connection_limit": 400,
}


class ErrorAnswersTests(SynchronousTestCase):
    """Answers of faults."""

    def setUp(self) -> None:
        self.errors = ErrorAnswers(random.Random(0))

    def test_every_fault_has_its_answer(self) -> None:
        self.assertEqual(ANSWERS.keys() - STATUS.keys(), {"exhausted"})
        for name, status in STATUS.items():
            reply = self.errors.answer(Fault(name), b"/target")
            self.assertEqual(reply.head.status, status, name)

    def test_shape(self) -> None:
        reply = self.errors.answer(Fault.parse("overloaded;retry_after=3"), b"/")
        error = json.loads(reply.body)["error"]
        self.assertEqual(
            (error["type"], error["code"], error["param"]), ("server_error", "server_is_overloaded", None)
        )
        self.assertTrue(error["message"])
        self.assertEqual(first_value(reply.head.headers, b"retry-after"), b"3")
        self.assertTrue((first_value(reply.head.headers, b"x-request-id") or b"").startswith(b"req_"))

    def test_named_code(self) -> None:
        for text in ("status;code=401;type=refresh_token_expired", "401;type=refresh_token_expired"):
            reply = self.errors.answer(Fault.parse(text), b"/")
            self.assertEqual(reply.head.status, 401)
            self.assertEqual(json.loads(reply.body)["error"]["code"], "refresh_token_expired")
        reply = self.errors.answer(Fault.parse("invalid_grant;type=refresh_token_reused"), b"/")
        self.assertEqual(json.loads(reply.body)["error"], "refresh_token_reused")

    def test_usage_limit(self) -> None:
        reply = self.errors.usage_limit("team", 1100.4, 1000.0, [(b"x", b"y")])
        error = json.loads(reply.body)["error"]
        self.assertEqual(reply.head.status, 429)
        self.assertEqual((error["type"], error["plan_type"]), ("usage_limit_reached", "team"))
        self.assertEqual((error["resets_at"], error["resets_in_seconds"]), (1100, 100))
        self.assertEqual(first_value(reply.head.headers, b"x"), b"y")

    def test_refused_refresh(self) -> None:
        reply = self.errors.refresh_refused("refresh_token_expired")
        self.assertEqual(reply.head.status, 401)
        self.assertEqual(json.loads(reply.body)["error"]["code"], "refresh_token_expired")

    def test_detail(self) -> None:
        reply = self.errors.detail(400, "Stream must be set to true")
        self.assertEqual(json.loads(reply.body), {"detail": "Stream must be set to true"})

    def test_failure(self) -> None:
        self.assertEqual(failure(Fault("error_mid").type)["code"], "server_is_overloaded")
        self.assertEqual(failure("rate_limit_exceeded")["code"], "rate_limit_exceeded")

    def test_ids(self) -> None:
        rng = random.Random(0)
        self.assertTrue(request_id(rng).startswith("req_"))
        self.assertNotEqual(object_id("resp", rng), object_id("resp", rng))
