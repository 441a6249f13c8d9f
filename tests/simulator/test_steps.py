"""Responses under faults: the bytes and steps, and that every fault has an effect of its own."""

from __future__ import annotations

import random
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import ResponseHead, first_value
from ccmproxy.simulator.faults import DELIVERIES, Fault
from ccmproxy.simulator.steps import (
    Abort,
    Data,
    Fin,
    Finish,
    Hang,
    Head,
    Pace,
    Raw,
    Reply,
    Step,
    Wait,
    Whole,
    perform,
)

EVENTS = [b"event: a\n\n", b"event: b\n\n", b"event: c\n\n", b"event: stop\n\n"]


def stream(pace: Pace = Pace()) -> Reply:  # noqa: B008 (frozen)
    """An answer of four events."""
    head = ResponseHead(200, b"OK", [(b"content-type", b"text/event-stream")])
    return Reply(head, list(EVENTS), True, lambda kind: b"error: %s\n\n" % kind.encode(), b"ping\n\n", pace)


def whole() -> Reply:
    """An answer of ten bytes."""
    return Reply(ResponseHead(200, b"OK", [(b"content-type", b"application/json")]), [b"0123456789"])


def steps(reply: Reply, fault: str | None) -> list[Step]:
    """What is done under a fault in its written form."""
    return perform(reply, Fault.parse(fault) if fault else None, random.Random(0))


def sent(taken: list[Step]) -> bytes:
    """The body bytes of all steps."""
    return b"".join(step.data for step in taken if isinstance(step, Data | Raw))


class PlainTests(SynchronousTestCase):
    """Without a fault."""

    def test_whole(self) -> None:
        self.assertEqual(steps(whole(), None), [Whole(whole().head, b"0123456789")])

    def test_stream_without_pauses(self) -> None:
        self.assertEqual(steps(stream(), None), [Head(stream().head), *map(Data, EVENTS), Finish()])

    def test_pace(self) -> None:
        taken = steps(stream(Pace(first=2.0, each=0.5)), None)
        self.assertEqual([step.seconds for step in taken if isinstance(step, Wait)], [2.0, 0.5, 0.5, 0.5])
        self.assertEqual(sent(taken), b"".join(EVENTS))
        self.assertEqual(taken[1], Wait(2.0))


class FaultTests(SynchronousTestCase):
    """With one."""

    def test_every_delivery_differs_from_the_plain_one(self) -> None:
        plain = steps(stream(), None)
        for name in DELIVERIES.keys() - {"none"}:
            self.assertNotEqual(steps(stream(), name), plain, name)
        self.assertEqual(steps(stream(), "none"), plain)

    def test_slow(self) -> None:
        self.assertEqual(steps(whole(), "slow;seconds=3"), [Wait(3.0), *steps(whole(), None)])
        taken = steps(stream(), "slow_first_token;seconds=3")
        self.assertEqual(taken[:2], [Head(stream().head), Wait(3.0)])
        self.assertEqual(sent(taken), b"".join(EVENTS))

    def test_stall(self) -> None:
        for at, before in (("before_head", 0), ("after_head", 0), ("mid", 2), ("before_stop", 3)):
            taken = steps(stream(), f"stall;at={at};seconds=9")
            index = taken.index(Wait(9.0))
            self.assertEqual(sent(taken[:index]), b"".join(EVENTS[:before]))
            self.assertEqual(any(isinstance(step, Head) for step in taken[:index]), at != "before_head")
            self.assertEqual(sent(taken), b"".join(EVENTS))
            self.assertEqual(taken[-1], Finish())
            forever = steps(stream(), f"stall;at={at}")
            self.assertEqual(forever[index], Hang())

    def test_reset(self) -> None:
        self.assertEqual(steps(stream(), "cut;at=before_head"), [Abort()])
        for at, before in (("after_head", 0), ("mid", 2), ("before_stop", 3)):
            taken = steps(stream(), f"cut;at={at}")
            self.assertEqual(sent(taken), b"".join(EVENTS[:before]))
            self.assertEqual(taken[-1], Abort())
            self.assertIsInstance(taken[-2], Wait)

    def test_fin(self) -> None:
        self.assertEqual(steps(stream(), "cut;at=before_head;how=fin"), [Fin()])
        for at, before in (("after_head", 0), ("mid", 2), ("before_stop", 3)):
            taken = steps(stream(), f"cut;at={at};how=fin")
            self.assertEqual(sent(taken).count(b"event:"), before)
            self.assertNotIn(b"\r\n0\r\n", sent(taken))
            self.assertEqual(taken[-1], Fin())
        raw = sent(steps(whole(), "cut;at=mid;how=fin"))
        self.assertTrue(raw.endswith(b"content-length: 10\r\n\r\n01234"), raw)

    def test_cut_before_the_head_after_a_while(self) -> None:
        self.assertEqual(steps(stream(), "cut;at=before_head;seconds=3"), [Wait(3.0), Abort()])
        self.assertEqual(steps(stream(), "cut;at=before_head;how=fin;seconds=3"), [Wait(3.0), Fin()])

    def test_cut_of_a_whole_answer_declares_its_length(self) -> None:
        first = steps(whole(), "cut;at=mid")[0]
        assert isinstance(first, Head)
        self.assertEqual(first_value(first.head.headers, b"content-length"), b"10")
        self.assertEqual(sent(steps(whole(), "cut;at=before_stop")), b"012345678")

    def test_truncated(self) -> None:
        self.assertEqual(sent(steps(stream(), "truncated")), b"".join(EVENTS[:-1]))
        self.assertEqual(steps(stream(), "truncated")[-1], Finish())
        self.assertEqual(sent(steps(stream(), "truncated;size=3")), b"".join(EVENTS[:-3]))
        self.assertEqual(steps(whole(), "truncated"), [Whole(whole().head, b"01234")])

    def test_error_events(self) -> None:
        self.assertEqual(sent(steps(stream(), "error_first;type=x")), b"error: x\n\n")
        self.assertEqual(
            sent(steps(stream(), "error_mid")), EVENTS[0] + EVENTS[1] + b"error: overloaded_error\n\n"
        )
        self.assertEqual(steps(whole(), "error_first"), steps(whole(), None))

    @given(st.sampled_from(["pieces", "random_pieces"]), st.integers(1, 50), st.binary(min_size=1))
    def test_pieces(self, name: str, size: int, body: bytes) -> None:
        reply = Reply(stream().head, [body], True)
        taken = steps(reply, f"{name};size={size}")
        pieces = [step.data for step in taken if isinstance(step, Data)]
        self.assertEqual(b"".join(pieces), body)
        self.assertLessEqual(max(map(len, pieces)), size)
        self.assertEqual(len([step for step in taken if isinstance(step, Wait)]), len(pieces))

    def test_gzip(self) -> None:
        for reply in (stream(), whole()):
            taken = steps(reply, "gzip")
            first = taken[0]
            assert isinstance(first, Head | Whole)
            self.assertEqual(first_value(first.head.headers, b"content-encoding"), b"gzip")
            body = first.body if isinstance(first, Whole) else sent(taken)
            self.assertEqual(zlib.decompress(body, wbits=31), reply.body)
        decompressor = zlib.decompressobj(wbits=31)
        pieces = [step.data for step in steps(stream(), "gzip") if isinstance(step, Data)]
        self.assertEqual(decompressor.decompress(pieces[0]), EVENTS[0])

    def test_pings(self) -> None:
        self.assertEqual(
            sent(steps(stream(), "pings;size=2")), b"".join(b"ping\n\nping\n\n" + event for event in EVENTS)
        )

    def test_what_is_not_http(self) -> None:
        self.assertFalse(sent(steps(stream(), "garbage")).startswith(b"HTTP"))
        half = sent(steps(stream(), "half_head"))
        self.assertTrue(half.startswith(b"HTTP/1.1 200"))
        self.assertNotIn(b"\r\n\r\n", half)
        self.assertGreater(len(sent(steps(stream(), "endless_head"))), 1024 * 1024)
        for name in ("garbage", "half_head", "endless_head"):
            self.assertEqual(steps(stream(), name)[-1], Fin())

    def test_wrong_lengths(self) -> None:
        body = b"".join(EVENTS)
        for name, length in (
            ("long_content_length", len(body) + 100),
            ("short_content_length", len(body) // 2),
        ):
            raw = sent(steps(stream(), name))
            self.assertTrue(raw.endswith(b"content-length: %d\r\n\r\n%b" % (length, body)), name)

    def test_broken_chunks(self) -> None:
        raw = sent(steps(stream(), "bad_chunk"))
        self.assertIn(b"transfer-encoding: chunked\r\n\r\na\r\nevent: a\n\n\r\n", raw)
        self.assertIn(b"\r\nzz\r\n", raw)
        raw = sent(steps(stream(), "no_last_chunk"))
        self.assertIn(EVENTS[-1], raw)
        self.assertFalse(raw.endswith(b"0\r\n\r\n"))
