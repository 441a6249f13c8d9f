"""Answers in JSON and in HTML."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import first_value
from ccmproxy.simulator.replies import json_reply, page_reply


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
