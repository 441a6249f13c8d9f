"""How much of a body is looked into, and at what cost (F31, F63)."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import zstandard
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.traffic import ClaudeTraffic
from ccmproxy.dialects.codex.traffic import CodexTraffic
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.request_documents import (
    LARGEST_LOOKED_INTO,
    MOST_ELEMENTS,
    MOST_QUICK_OBJECTS,
    QUICK,
    QUICK_PACKED,
    NotQuick,
    count_items,
    has_few_elements,
    read_document,
)
from ccmproxy.http.message import Body, Headers, RequestHead

MIB = 1024 * 1024


def listed(element: bytes, size: int) -> bytes:
    """A body of about ``size`` bytes whose messages, or input, are as many of these elements as that takes."""
    items = b",".join([element] * (size // (len(element) + 1)))
    return b'{"model":"m","messages":[%b],"input":[%b]}' % (items, items[: len(items) // 50 * 50])


class ReadTests(SynchronousTestCase):
    """What is read at once, what later, what never."""

    def read(self, data: bytes, coding: bytes | None = None) -> tuple[bytes | None, bytes]:
        """What is read at once, None where it may take too long, and what is read where there is time."""
        cut = len(data) // 2
        try:
            found = read_document(Body([data[:cut], data[cut:]]), coding, True)
        except NotQuick:
            found = None
        return found, read_document(Body([data[:cut], data[cut:]]), coding, False)

    def test_by_size(self) -> None:
        for size, quickly, slowly in (
            (0, True, True),
            (QUICK, True, True),
            (QUICK + 1, False, True),
            (LARGEST_LOOKED_INTO, False, True),
            (LARGEST_LOOKED_INTO + 1, True, False),  # there is nothing to do about it
        ):
            data = b"x" * size
            expected = data if slowly else b""
            for coding in (None, b" Identity"):
                self.assertEqual(self.read(data, coding), (expected if quickly else None, expected))

    def test_many_objects_are_not_quick(self) -> None:
        few, many = b"{" * MOST_QUICK_OBJECTS, b"{" * (MOST_QUICK_OBJECTS + 1)
        self.assertEqual(self.read(few), (few, few))
        self.assertEqual(self.read(many), (None, many))
        self.assertEqual(self.read(zstandard.compress(many), b"zstd"), (None, many))

    def test_compressed(self) -> None:
        small, large, bomb = b"x" * QUICK, b"x" * (QUICK + 1), b"x" * (16 * MIB + 1)
        for coding, compress in ((b"gzip", gzip.compress), (b"zstd", zstandard.compress)):
            self.assertEqual(self.read(compress(small), coding), (small, small))
            self.assertEqual(self.read(compress(large), coding), (None, large))
            self.assertEqual(self.read(compress(bomb), coding), (None, b""))
            self.assertEqual(self.read(b"x" * QUICK_PACKED, coding), (None, b""))

    def test_much_that_becomes_little_is_not_quick(self) -> None:
        data = zstandard.compress(b"") * (QUICK_PACKED // 9 + 1)
        self.assertEqual(self.read(data, b"zstd"), (None, b""))

    def test_elements(self) -> None:
        """F63: the time that decoding takes is that of the elements, of which a byte each suffices."""
        for element, most in MOST_ELEMENTS:
            text = b"x" * QUICK
            self.assertTrue(has_few_elements(text + element * most))
            self.assertFalse(has_few_elements(text + element * (most + 1)))
            self.assertEqual(read_document(Body([text, element * (most + 1)]), None, False), b"")
            packed = zstandard.compress(text + element * (most + 1))
            self.assertEqual(read_document(Body([packed]), b"zstd", False), b"")


class CountTests(SynchronousTestCase):
    """Counting what a list holds."""

    def test_counts(self) -> None:
        for text, expected in (
            (b"", None),
            (b"[]", 0),
            (b'[{},{"a":[1,2,{}]}]', 2),
            (b'[1,"a",[]]', 3),
            (b'"text"', None),
            (b"{}", None),
            (b"[1", None),
            (b"[" + b"1," * 40_000 + b"1]", None),  # no list of messages
        ):
            self.assertEqual(count_items(msgspec.Raw(text)), expected, text[:20])


class CostTests(SynchronousTestCase):
    """F63: what looking into a request allocates is bounded, whatever its body holds."""

    HEAD = RequestHead(b"POST", b"/v1/messages", [])

    @contextmanager
    def allocating(self, most: int) -> Iterator[None]:
        """Fail where more than ``most`` bytes are allocated at the same time."""
        tracemalloc.start()
        try:
            yield
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, most)

    def inspect(
        self, inspect: Callable[[RequestHead, Body, bool], RequestFacts], body: bytes, headers: Headers
    ) -> RequestFacts:
        """What is found out, at once or later."""
        head, whole = RequestHead(b"POST", b"/v1/messages", headers), Body([body])
        try:
            return inspect(head, whole, True)
        except NotQuick:
            return inspect(head, whole, False)

    def test_lists_that_are_only_counted(self) -> None:
        for inspect in (ClaudeTraffic().inspect, CodexTraffic().inspect):
            for element in (b"1", b"{}", b"[]", b'""', b'{"a":1}', b"null"):
                for size in (900_000, 3 * MIB):
                    body = listed(element, size)
                    with self.allocating(10 * MIB):
                        self.inspect(inspect, body, [])

    def test_small_bodies_that_become_large_ones(self) -> None:
        body = zstandard.compress(listed(b"1", 15 * MIB))
        self.assertLess(len(body), 3000)
        with self.allocating(40 * MIB):
            facts = self.inspect(CodexTraffic().inspect, body, [(b"content-encoding", b"zstd")])
        self.assertIsNone(facts.model)

    def test_a_large_conversation_is_understood(self) -> None:
        text = 'def f(a, b):\n    return [a, {b: "c"}]\n' * 1000
        document = {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}] * 100,
            "stream": True,
        }
        body = json.dumps(document).encode()
        self.assertGreater(len(body), 3 * MIB)
        head = RequestHead(b"POST", b"/v1/messages", [])
        self.assertRaises(NotQuick, ClaudeTraffic().inspect, head, Body([body]), True)
        facts = ClaudeTraffic().inspect(head, Body([body]))
        self.assertEqual((facts.model, facts.messages, facts.stream), ("m", 100, True))
