"""Meters that are independent of the dialect, and the choice of a meter."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.meters import (
    LARGEST_JSON,
    NOT_COUNTED,
    JSONMeter,
    OpaqueMeter,
    count,
    fitting_meter,
    is_readable,
    media_type,
)
from ccmproxy.dialects.usage import MeterReading, Tokens, UsageMeter
from ccmproxy.http.message import ResponseHead


class OwnStream(OpaqueMeter):
    """Stands for a dialect's stream meter."""


def read(body: bytes) -> MeterReading:
    """Counts bytes."""
    return MeterReading(Tokens(input=len(body)), None, None, True, "", True)


class ChoiceTests(SynchronousTestCase):
    """One meter per kind of answer."""

    def choose(self, content_type: bytes, status: int = 200, billable: bool = True) -> UsageMeter:
        head = ResponseHead(status, b"", [(b"Content-Type", content_type)])
        return fitting_meter(RequestFacts(billable=billable), head, OwnStream, read)

    def test_by_media_type(self) -> None:
        self.assertIs(type(self.choose(b"Text/Event-Stream; charset=utf-8")), OwnStream)
        self.assertIs(type(self.choose(b"application/json")), JSONMeter)
        for other in (
            self.choose(b"text/html"),
            self.choose(b"application/json", status=400),
            self.choose(b"application/json", billable=False),
        ):
            self.assertIs(type(other), OpaqueMeter)

    def test_compressed_answers_are_not_read(self) -> None:
        head = ResponseHead(200, b"", [(b"content-type", b"application/json"), (b"content-encoding", b"br")])
        self.assertIs(type(fitting_meter(RequestFacts(), head, OwnStream, read)), OpaqueMeter)

    def test_what_can_be_read_as_it_passes(self) -> None:
        for coding, expected in ((b"identity", True), (b"gzip", False), (b"gzip, identity", False)):
            self.assertEqual(is_readable(ResponseHead(200, b"", [(b"Content-Encoding", coding)])), expected)
        self.assertTrue(is_readable(ResponseHead(200, b"")))

    def test_media_type(self) -> None:
        self.assertEqual(media_type(ResponseHead(200, b"")), b"")


class MeterTests(SynchronousTestCase):
    """What they count."""

    def test_json_is_counted_when_it_is_whole(self) -> None:
        meter = JSONMeter(read)
        meter.feed(b"ab")
        self.assertEqual(meter.reading(), NOT_COUNTED)
        meter.feed(b"c")
        meter.end()
        self.assertEqual(meter.reading().tokens.input, 3)

    def test_json_that_is_too_large_is_let_go(self) -> None:
        meter = JSONMeter(read)
        meter.feed(b" " * LARGEST_JSON)
        meter.feed(b" ")
        meter.feed(b" ")
        meter.end()
        self.assertEqual(meter.reading().tokens.input, 0)

    def test_opaque(self) -> None:
        meter = OpaqueMeter()
        meter.feed(b"x")
        self.assertEqual((meter.reading().complete, meter.at_boundary), (False, False))
        meter.end()
        self.assertTrue(meter.reading().complete)

    def test_figures(self) -> None:
        for new, kept in ((None, 7), (-1, 7), (1 << 53, 7), (0, 0), (9, 9)):
            self.assertEqual(count(new, 7), kept)
