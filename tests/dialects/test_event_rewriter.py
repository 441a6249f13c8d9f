"""Events that are replaced as they pass."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.event_rewriter import EventRewriter
from tests.dialects.test_sse import single_bytes
from tests.profiles import examples


def replace_state(data: bytes) -> bytes | None:
    """Replaces events of type ``state`` by a shorter one; one without ``x`` is dropped."""
    if b'"state"' not in data:
        return None
    return b"event: state\ndata: new\n\n" if b"x" in data else b""


def rewrite(chunks: list[bytes], max_event: int = 16 * 1024) -> bytes:
    """What comes out for ``chunks``."""
    rewriter = EventRewriter(b"state", replace_state, max_event)
    return b"".join([*map(rewriter.feed, chunks), rewriter.end()])


REWRITTEN = (
    (b'event: state\ndata: {"type":"state","x":1}\n\n', b"event: state\ndata: new\n\n"),
    (b'data: {"type":"state","x":1}\n\n', b"event: state\ndata: new\n\n"),
    (b'event: state\ndata: {"type":"state"}\n\n', b""),
    (b': c\nid: 1\nevent: state\ndata: {"type":"state"}\n\n', b""),
    (b'event: other\ndata: {"type":"state"}\n\n', None),
    (b'event: other\nevent: state\ndata: {"type":"state"}\n\n', None),
    (b'event: state\nevent: other\ndata: {"type":"state"}\n\n', None),
    (b"data: the state of things\n\n", None),
    (b": state\n\n", None),
    (b"\n\n", None),
    (b'event: state\ndata: {"type":"state","half', None),
    (b'\xef\xbb\xbfevent: state\ndata: {"type":"state"}\n\n', b"\xef\xbb\xbf"),
    (b'\xef\xbb\xbfevent: other\nevent: state\ndata: {"type":"state"}\n\n', None),
)


class EventRewriterTests(SynchronousTestCase):
    """Some events replaced, every other byte as it came."""

    def test_table(self) -> None:
        for original, expected in REWRITTEN:
            self.assertEqual(rewrite([original]), original if expected is None else expected, original)

    def test_between_others_and_byte_by_byte(self) -> None:
        before, after = b"event: a\ndata: 1\n\n", b": c\n\nevent: b\ndata: 2\n\n"
        for original, expected in REWRITTEN[:-3]:
            for end in (b"\n", b"\r\n", b"\r"):
                stream = (before + original + after).replace(b"\n", end)
                replaced = original.replace(b"\n", end) if expected is None else expected
                wanted = before.replace(b"\n", end) + replaced + after.replace(b"\n", end)
                self.assertEqual(rewrite([stream]), wanted)
                self.assertEqual(rewrite(single_bytes(stream)), wanted)

    def test_whole_events_are_not_delayed(self) -> None:
        rewriter = EventRewriter(b"state", replace_state)
        self.assertEqual(rewriter.feed(b"data: 1\n\n"), b"data: 1\n\n")
        self.assertEqual(rewriter.feed(b"event: delta\nda"), b"event: delta\nda")
        self.assertEqual(rewriter.feed(b"ta: 2\n\neve"), b"ta: 2\n\n")
        self.assertEqual(rewriter.feed(b"nt: delta\n"), b"event: delta\n")

    def test_an_end_that_is_cut_in_two(self) -> None:
        state = b'event: state\ndata: {"type":"state"}\n\n'
        for end in (b"\n", b"\r\n", b"\r"):
            other = b"event: other\ndata: 1\n\n".replace(b"\n", end)
            for cut in range(1, len(other) + 1):
                self.assertEqual(rewrite([other[:cut], other[cut:] + state]), other, (end, cut))

    def test_what_is_too_large_is_passed_on(self) -> None:
        large = b'data: {"type":"state"' + b" " * 100 + b"}\n\n"
        for stream in (large, large * 3):
            self.assertEqual(rewrite([stream], 50), stream)
            self.assertEqual(rewrite(single_bytes(stream), 50), stream)
        exact = len(large) - 2
        self.assertEqual(rewrite(single_bytes(large), exact), b"")
        self.assertEqual(rewrite(single_bytes(large), exact - 1), large)

    @given(
        st.lists(
            st.sampled_from(
                (
                    *(b"event: state", b"event: a", b"data: ", b'"state"', b"x", b"state", b"\xef\xbb\xbf"),
                    *(b":", b"\n", b"\r", b"\r\n", b"\n\n"),
                )
            ),
            max_size=25,
        ),
        st.integers(0, 60),
        st.lists(st.integers(0, 200), max_size=6),
    )
    @examples(400)
    def test_chunks_make_no_difference(self, parts: list[bytes], max_event: int, cuts: list[int]) -> None:
        stream = b"".join(parts)
        places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        whole = rewrite([stream], max_event)
        self.assertEqual(rewrite([stream[a:b] for a, b in pairwise(places)], max_event), whole)
        self.assertEqual(rewrite(single_bytes(stream), max_event), whole)
