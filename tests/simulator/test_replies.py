"""Answers in JSON and in HTML."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import first_value
from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.replies import json_reply, page_reply, retry_after_field, shapeless_reply


class ReplyTests(SynchronousTestCase):
    """Both shapes."""

    def test_json(self) -> None:
        reply = json_reply(426, {"a": 1}, [(b"x", b"y")])
        self.assertEqual((reply.head.status, reply.head.reason), (426, b"Upgrade Required"))
        self.assertEqual((reply.body, first_value(reply.head.headers, b"x")), (b'{"a":1}', b"y"))
        self.assertEqual(json_reply(299, None, raw=b"raw").pieces, [b"raw"])

    def test_page(self) -> None:
        reply = page_reply(502, b"Bad gateway", [(b"retry-after", b"1")])
        self.assertIn(b"502: Bad gateway", reply.body)
        self.assertEqual(first_value(reply.head.headers, b"content-type"), b"text/html; charset=UTF-8")
        self.assertEqual(first_value(reply.head.headers, b"retry-after"), b"1")

    def test_faults_that_no_provider_has_a_shape_for(self) -> None:
        for name, status, start in (
            ("bad_gateway", 502, b"<!DOCTYPE html>"),
            ("html", 200, b"<!DOCTYPE html>"),
            ("empty", 200, b""),
            ("hang", 200, b""),
            ("nonsense", 200, b'{"unexpected"'),
            ("broken_json", 200, b'{"brok'),
            ("redirect", 307, b"{}"),
        ):
            reply = shapeless_reply(Fault(name, retry_after=7), b"/target", b'{"brok')
            assert reply is not None, name
            self.assertEqual(reply.head.status, status, name)
            self.assertTrue(reply.body.startswith(start), name)
            told = first_value(reply.head.headers, b"retry-after")
            self.assertEqual(told, None if name == "hang" else b"7", name)
            location = first_value(reply.head.headers, b"location")
            self.assertEqual(location, b"/target" if name == "redirect" else None)
        for name in ("overloaded", "invalid_grant", "status"):
            self.assertIsNone(shapeless_reply(Fault(name), b"/", b""))

    def test_retry_after(self) -> None:
        self.assertEqual(retry_after_field(Fault("rate_limited", retry_after=12)), [(b"retry-after", b"12")])
        self.assertEqual(retry_after_field(Fault("rate_limited")), [])
