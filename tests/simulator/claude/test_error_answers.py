"""Every fault that is an answer has one, in the shape that clients read."""

from __future__ import annotations

import json
import random

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import first_value
from ccmproxy.simulator.claude.error_answers import ErrorAnswers, object_id, request_id
from ccmproxy.simulator.faults import ANSWERS, Fault

#: Status of each fault's answer.
STATUS = {
    "rate_limited": 429,
    "exhausted": 429,
    "overloaded": 529,
    "server_error": 500,
    "unavailable": 503,
    "bad_gateway": 502,
    "unauthorized": 401,
    "revoked": 403,
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
}


class ErrorAnswersTests(SynchronousTestCase):
    """Answers of faults."""

    def setUp(self) -> None:
        self.errors = ErrorAnswers(random.Random(0))

    def test_every_answer(self) -> None:
        for name in ANSWERS:
            reply = self.errors.answer(Fault(name), b"/v1/messages", [])
            self.assertEqual(reply.head.status, STATUS[name], name)

    def test_standard_shape(self) -> None:
        reply = self.errors.answer(Fault("overloaded"), b"/", [])
        document = json.loads(reply.body)
        self.assertEqual(document["type"], "error")
        self.assertEqual(document["error"], {"type": "overloaded_error", "message": "Overloaded"})
        identity = first_value(reply.head.headers, b"request-id")
        self.assertEqual(document["request_id"].encode(), identity)
        self.assertEqual(first_value(reply.head.headers, b"x-should-retry"), b"true")

    def test_other_statuses(self) -> None:
        for code, kind in ((402, "billing_error"), (404, "not_found_error"), (418, "invalid_request_error")):
            reply = self.errors.answer(Fault("status", code=code), b"/", [])
            self.assertEqual(reply.head.status, code)
            self.assertEqual(json.loads(reply.body)["error"]["type"], kind)

    def test_retry_after(self) -> None:
        for name in ("rate_limited", "unavailable", "bad_gateway", "nonsense"):
            reply = self.errors.answer(Fault(name, retry_after=12), b"/", [])
            self.assertEqual(first_value(reply.head.headers, b"retry-after"), b"12")

    def test_only_exhausted_carries_limits(self) -> None:
        limits = [(b"anthropic-ratelimit-unified-status", b"rejected")]
        for name in ANSWERS:
            headers = self.errors.answer(Fault(name), b"/", limits).head.headers
            self.assertEqual(limits[0] in headers, name == "exhausted", name)

    def test_pages(self) -> None:
        for name in ("bad_gateway", "html"):
            reply = self.errors.answer(Fault(name), b"/", [])
            self.assertTrue(reply.body.startswith(b"<!DOCTYPE html>"))
            self.assertIn(b"text/html", first_value(reply.head.headers, b"content-type") or b"")

    def test_broken_json(self) -> None:
        reply = self.errors.answer(Fault("broken_json"), b"/", [])
        self.assertRaises(ValueError, json.loads, reply.body)

    def test_redirect(self) -> None:
        reply = self.errors.answer(Fault("redirect"), b"/v1/messages?beta=true", [])
        self.assertEqual(first_value(reply.head.headers, b"location"), b"/v1/messages?beta=true")

    def test_identities(self) -> None:
        rng = random.Random(0)
        self.assertRegex(request_id(rng), r"^req_011C[0-9A-Za-z]{20}$")
        self.assertRegex(object_id("toolu", rng), r"^toolu_01[0-9A-Za-z]{22}$")
        self.assertNotEqual(request_id(rng), request_id(rng))
