"""The event-stream scanner, compared with a plain implementation of the standard, and with other chunks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.sse import Event, EventScanner, first_event, parse_event
from tests.profiles import examples

NAMES = frozenset({b"usage", b"stop"})

STREAM = (
    b'event: start\ndata: {"type": "start"}\n\n'
    b": a comment\n\n"
    b"event: delta\ndata: stop pretending\n\n"
    b'event: usage\ndata: {"input": 1,\ndata:  "text": "\xc3\xa4\xe2\x82\xac"}\nid: 7\n\n'
    b"event:stop\ndata:\n\n"
    b"event: usage\ndata: never finished\n"
)
EXPECTED = [
    Event(b"usage", '{"input": 1,\n "text": "ä€"}'.encode()),
    Event(b"stop", b""),
]


def read_plainly(stream: bytes, names: frozenset[bytes] | None) -> list[Event]:
    """All events of a whole stream, by the standard's algorithm line by line; ``names`` None = every name."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    if not stream.endswith((b"\n", b"\r")):
        stream = stream[: max(stream.rfind(b"\n"), stream.rfind(b"\r")) + 1]
    events = []
    name, data = b"", b""
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        if not line:
            if data and (names is None or (name or b"message") in names):
                events.append(Event(name or b"message", data[:-1]))
            name, data = b"", b""
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"event":
            name = value
        elif field == b"data":
            data += value + b"\n"
    return events


def scan(scanner: EventScanner, chunks: list[bytes]) -> list[Event]:
    """Everything that the scanner finds in ``chunks``."""
    return [event for chunk in chunks for event in scanner.feed(chunk)]


def single_bytes(data: bytes) -> list[bytes]:
    """``data`` in chunks of one byte."""
    return [data[at : at + 1] for at in range(len(data))]


class FirstEventTests(SynchronousTestCase):
    """The first event of a stream is known as soon as it is complete, and not a byte earlier (F13)."""

    def check(self, stream: bytes, expected: Event, passed_over: frozenset[bytes] = frozenset()) -> None:
        """Check every prefix of ``stream``: no event until the first one is complete, and from then on that one."""
        found = [first_event(stream[:size], passed_over) for size in range(len(stream) + 1)]
        known = found.index(expected)
        self.assertEqual(found[:known], [None] * known)
        self.assertEqual(set(found[known:]), {expected}, stream)

    def test_whole_or_in_pieces(self) -> None:
        expected = Event(b"start", b'{"type": "start"}')
        for line_end in (b"\n", b"\r\n", b"\r"):
            self.check(STREAM.replace(b"\n", line_end), expected)

    def test_what_is_no_event_is_passed_over(self) -> None:
        expected = Event(b"error", b"x\ny")
        for before in (
            b": a comment\n\n",
            b":\r\n\r\n",
            b"\n\n\n",
            b"\r\n",
            b"event: nothing\n\n",
            b"retry: 3\nid: 7\n\n",
            b"\xef\xbb\xbf",
            b"\xef\xbb\xbf: c\r\n\r\n",
        ):
            self.check(before + b"event: error\ndata: x\ndata: y\n\nevent: later\ndata:\n\n", expected)

    def test_names_that_are_passed_over(self) -> None:
        stream = b"event: a\ndata: 1\n\nevent: b\ndata: 2\r\n\r\ndata: 3\n\n"
        for passed_over, expected in (
            ({b"x"}, Event(b"a", b"1")),
            ({b"a"}, Event(b"b", b"2")),
            ({b"a", b"b"}, Event(b"message", b"3")),
        ):
            self.check(stream, expected, frozenset(passed_over))
        self.assertIsNone(first_event(stream, {b"a", b"b", b"message"}))

    def test_between_cr_and_lf(self) -> None:
        """An LF that may belong to the CR before it changes nothing of the event."""
        stream = b"data: 1\r\n\r\n"
        for size in range(len(stream) - 1):
            self.assertIsNone(first_event(stream[:size]), size)
        for whole in (stream[:-1], stream, stream + b"data: 2\r\n\r\n"):
            self.assertEqual(first_event(whole), Event(b"message", b"1"))

    @given(
        st.lists(
            st.sampled_from(
                [b"\n", b"\r", b"\r\n", b"event: a", b"event: b", b"data: 1", b"data", b":c", b"\xef\xbb\xbf"]
            ),
            max_size=14,
        ).map(b"".join)
    )
    @examples(300)
    def test_the_first_of_what_the_scanner_finds(self, stream: bytes) -> None:
        """Once the first event is known, later bytes do not change it."""
        events = [event for event in EventScanner(lambda name: True).feed(stream) if event.name != b"b"]
        known = first_event(stream, {b"b"})
        self.assertEqual(known, events[0] if events else None)
        if known is not None:
            self.assertEqual(first_event(stream + b"data: more\n\n", {b"b"}), known)


class EventTests(SynchronousTestCase):
    """What is found in a stream."""

    def test_only_what_was_asked_for(self) -> None:
        self.assertEqual(scan(EventScanner(NAMES), [STREAM]), EXPECTED)

    def test_predicate(self) -> None:
        scanner = EventScanner(lambda name: name.startswith(b"s"))
        self.assertEqual([event.name for event in scanner.feed(STREAM)], [b"start", b"stop"])

    def test_event_without_a_name(self) -> None:
        self.assertEqual(list(EventScanner({b"message"}).feed(b"data: x\n\n")), [Event(b"message", b"x")])
        self.assertEqual(
            list(EventScanner({b"message"}).feed(b"event:\ndata: x\n\n")), [Event(b"message", b"x")]
        )

    def test_every_line_end(self) -> None:
        for line_end in (b"\n", b"\r\n", b"\r"):
            stream = STREAM.replace(b"\n", line_end)
            self.assertEqual(scan(EventScanner(NAMES), [stream]), EXPECTED, line_end)

    def test_byte_order_mark(self) -> None:
        stream = b"\xef\xbb\xbfevent: stop\ndata: x\n\n"
        for chunks in ([stream], single_bytes(stream)):
            self.assertEqual(scan(EventScanner(NAMES), chunks), [Event(b"stop", b"x")])

    def test_only_the_first_byte_order_mark_is_one(self) -> None:
        scanner = EventScanner(NAMES)
        self.assertEqual(scan(scanner, [b"\n\xef\xbb\xbfevent: stop\ndata: x\n\n"]), [])

    def test_event_without_data_is_none(self) -> None:
        self.assertEqual(scan(EventScanner(NAMES), [b"event: stop\n\ndata: x\n\n"]), [])

    def test_last_name_counts(self) -> None:
        self.assertEqual(
            scan(EventScanner(NAMES), [b"event: stop\ndata: x\nevent: usage\n\n"]), [Event(b"usage", b"x")]
        )

    def test_name_within_data_is_no_name(self) -> None:
        self.assertEqual(scan(EventScanner(NAMES), [b"event: delta\ndata: usage stop\n\n"]), [])

    def test_events_are_returned_as_soon_as_they_are_complete(self) -> None:
        scanner = EventScanner(NAMES)
        self.assertEqual(scanner.feed(b"event: stop\r\ndata: x\r\n"), [])
        self.assertEqual(scanner.feed(b"\r"), [Event(b"stop", b"x")])
        self.assertEqual(list(scanner.feed(b"\n")), [])
        self.assertEqual(scanner.feed(b"event: stop\r\ndata: y\r\n\r\n"), [Event(b"stop", b"y")])


class ChunkTests(SynchronousTestCase):
    """The result does not depend on how a stream is cut."""

    def test_byte_by_byte(self) -> None:
        """F19: a chunk may end inside of a character, and between CR and LF."""
        for line_end in (b"\n", b"\r\n", b"\r"):
            stream = STREAM.replace(b"\n", line_end)
            self.assertEqual(scan(EventScanner(NAMES), single_bytes(stream)), EXPECTED)

    def test_every_split_in_two(self) -> None:
        """F19: no place in the stream is special."""
        for line_end in (b"\n", b"\r\n", b"\r"):
            stream = STREAM.replace(b"\n", line_end)
            for at in range(len(stream)):
                found = scan(EventScanner(NAMES), [stream[:at], stream[at:]])
                self.assertEqual(found, EXPECTED, (line_end, at))

    @examples(300)
    @given(
        stream=st.lists(
            st.sampled_from(
                [
                    b"event: usage",
                    b"event",
                    b"data: x",
                    b"data",
                    b":",
                    b"\r",
                    b"\n",
                    b"\r\n",
                    b"\xef\xbb\xbf",
                    b"y",
                ]
            ),
            max_size=24,
        ).map(b"".join),
        cuts=st.lists(st.integers(0, 80), max_size=6),
        max_event=st.integers(0, 40),
        all_names=st.booleans(),
    )
    def test_any_stream_in_any_pieces(
        self, stream: bytes, cuts: list[int], max_event: int, all_names: bool
    ) -> None:
        """F19: whole = byte by byte = any pieces = the standard's algorithm."""
        names = None if all_names else frozenset({b"usage"})

        def scanner(limit: int = 1000) -> EventScanner:
            return EventScanner((lambda _: True) if names is None else names, max_event=limit)

        places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        pieces = [stream[a:b] for a, b in pairwise(places)]
        expected = read_plainly(stream, names)
        for chunks in ([stream], single_bytes(stream), pieces):
            self.assertEqual(scan(scanner(), chunks), expected)

        results = []
        for chunks in ([stream], single_bytes(stream), pieces):
            limited = scanner(max_event)
            results.append((scan(limited, chunks), limited.at_boundary))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])

    @examples(100)
    @given(st.lists(st.binary(max_size=12), max_size=12))
    def test_garbage_raises_nothing(self, chunks: list[bytes]) -> None:
        whole = scan(EventScanner(lambda _: True), [b"".join(chunks)])
        self.assertEqual(scan(EventScanner(lambda _: True), chunks), whole)


class BoundaryTests(SynchronousTestCase):
    """Where something else may be written."""

    def boundaries(self, stream: bytes) -> list[int]:
        """The numbers of bytes after which the scanner is between two events."""
        scanner = EventScanner(NAMES)
        found = []
        for count, byte in enumerate(single_bytes(stream), start=1):
            scanner.feed(byte)
            if scanner.at_boundary:
                found.append(count)
        return found

    def test_between_events_only(self) -> None:
        """F44: a keep-alive is never written into the middle of an event."""
        stream = b"event: delta\ndata: x\n\nevent: stop\ndata: y\n\n"
        self.assertEqual(self.boundaries(stream), [22, len(stream)])

    def test_not_between_cr_and_lf(self) -> None:
        """F44: nor into the middle of the empty line after it."""
        self.assertEqual(self.boundaries(b"data: x\r\n\r\ndata: y\r\n\r\n"), [11, 22])
        self.assertEqual(self.boundaries(b"data: x\r\rdata: y\r\r"), [9, 18])

    def test_whole_chunks(self) -> None:
        scanner = EventScanner(NAMES)
        self.assertTrue(scanner.at_boundary)
        for chunk, expected in (
            (b"data: x\n\n", True),
            (b"data: x\n", False),
            (b"\n", True),
            (b"data: x\n\nda", False),
            (b"ta: y\n\n", True),
            (b"", True),
        ):
            scanner.feed(chunk)
            self.assertEqual(scanner.at_boundary, expected, chunk)

    def test_byte_order_mark_in_pieces(self) -> None:
        scanner = EventScanner(NAMES)
        states = []
        for byte in single_bytes(b"\xef\xbb\xbf"):
            scanner.feed(byte)
            states.append(scanner.at_boundary)
        self.assertEqual(states, [False, False, True])


class BoundTests(SynchronousTestCase):
    """Memory stays bounded."""

    def test_oversized_event_is_skipped(self) -> None:
        """F23: an event without an end is not kept; later events are found."""
        large = b"event: usage\ndata: " + b"x" * 200 + b"\n\n"
        small = b"event: usage\ndata: y\n\n"
        for chunks in ([large + small], single_bytes(large + small)):
            scanner = EventScanner(NAMES, max_event=100)
            self.assertEqual(scan(scanner, chunks), [Event(b"usage", b"y")])

    def test_the_rest_of_an_oversized_event_is_none(self) -> None:
        """The last lines of an oversized event are not taken for an event."""
        scanner = EventScanner(NAMES, max_event=100)
        chunks = [b"data: " + b"x" * 200 + b"\n", b"event: usage\ndata: y\n\n"]
        self.assertEqual(scan(scanner, chunks), [])

    def test_the_limit_itself_is_allowed(self) -> None:
        event = b"event: usage\ndata: y"
        for size, found in ((len(event), [Event(b"usage", b"y")]), (len(event) - 1, [])):
            for chunks in ([event + b"\n\n"], single_bytes(event + b"\n\n")):
                self.assertEqual(scan(EventScanner(NAMES, max_event=size), chunks), found)

    def test_nothing_is_kept_of_an_endless_event(self) -> None:
        """F23: ten megabytes without an empty line."""
        scanner = EventScanner(NAMES, max_event=64 * 1024)
        for _ in range(160):
            scanner.feed(b"x" * 64 * 1024)
            self.assertLessEqual(sum(map(len, scanner._pending)), 64 * 1024)
        self.assertEqual(scanner.feed(b"\n\nevent: stop\ndata: x\n\n"), [Event(b"stop", b"x")])


class MarkerTests(SynchronousTestCase):
    """Events that are named in their data only."""

    def test_only_events_with_a_marker_are_returned(self) -> None:
        scanner = EventScanner(frozenset({b"message", b"stop"}), markers=(b"stop",))
        stream = (
            b'data: {"type":"a"}\n\ndata: {"type":"stop"}\n\nevent: stop\ndata: 1\n\nevent: b\ndata: stop\n\n'
        )
        expected = [Event(b"message", b'{"type":"stop"}'), Event(b"stop", b"1")]
        self.assertEqual(scan(scanner, [stream]), expected)
        scanner = EventScanner(frozenset({b"message", b"stop"}), markers=(b"stop",))
        self.assertEqual(scan(scanner, single_bytes(stream)), expected)

    def test_one_event(self) -> None:
        self.assertEqual(parse_event(b"event: a\r\ndata: 1\rdata:2"), Event(b"a", b"1\n2"))
        self.assertIsNone(parse_event(b"event: a\n: comment"))
