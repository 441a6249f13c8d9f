"""Bodies of responses: what a reader is told, and when they end."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.response_body import BodyUntilClose, ChunkedBody, FirstRead, ResponseBody, SizedBody


class Reader:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def body_data(self, data: bytes) -> None:
        self.told.append(data)

    def body_ended(self, body: ResponseBody, is_clean: bool) -> None:
        self.told.append("end" if is_clean else "end, and more")

    def body_malformed(self, body: ResponseBody, problem: str) -> None:
        self.told.append(problem)


class BodyTests(SynchronousTestCase):
    """One body, of each kind."""

    def setUp(self) -> None:
        self.reader = Reader()

    def told(self, body: ResponseBody, *pieces: bytes) -> list[object]:
        """What comes of ``pieces``."""
        self.reader.told.clear()
        for piece in pieces:
            body.receive(piece, self.reader)
        return list(self.reader.told)

    def test_sized(self) -> None:
        self.assertEqual(self.told(SizedBody(5), b"he", b"llo"), [b"he", b"llo", "end"])
        self.assertEqual(self.told(SizedBody(5), b"hel", b"lo!"), [b"hel", b"lo", "end, and more"])

    def test_until_close(self) -> None:
        self.assertEqual(self.told(BodyUntilClose(), b"a", b"b"), [b"a", b"b"])

    def test_which_end_with_the_connection(self) -> None:
        self.assertTrue(BodyUntilClose().ends_with_connection)
        self.assertFalse(SizedBody(1).ends_with_connection)
        self.assertFalse(ChunkedBody(100).ends_with_connection)

    def test_chunks_of_one_piece_come_together(self) -> None:
        body = ChunkedBody(100)
        self.assertEqual(self.told(body, b"1\r\na\r\n2\r\nbc\r\n"), [b"abc"])
        self.assertEqual(self.told(body, b"1\r", b"\n", b"d\r\n3\r\nef"), [b"d" + b"ef"])
        self.assertEqual(self.told(body, b"g\r\n0\r\nX: y\r\n\r\n"), [b"g", "end"])

    def test_more_behind_the_last_chunk(self) -> None:
        self.assertEqual(self.told(ChunkedBody(100), b"1\r\na\r\n0\r\n\r\nHTTP/1.1"), [b"a", "end, and more"])

    def test_malformed_chunks(self) -> None:
        """What came before is delivered."""
        for data, before in ((b"1\r\na\r\nzz\r\n", b"a"), (b"1\r\nabc", b"a")):
            delivered, problem = self.told(ChunkedBody(100), data)
            self.assertEqual(delivered, before)
            self.assertIn("malformed body from the upstream", str(problem))

    def test_too_much_between_two_chunks(self) -> None:
        """Extensions of chunks and trailers are bounded, but not those of all chunks together."""
        body = ChunkedBody(100)
        for _ in range(50):
            self.assertEqual(self.told(body, b"1;" + b"x" * 60 + b"\r\n", b"a\r\n"), [b"a"])
        self.assertEqual(self.told(body, b"1;" + b"x" * 60, b"x" * 30), [])
        self.assertEqual(
            self.told(body, b"x" * 20), ["too much between the chunks of the upstream's response"]
        )

    def test_nothing_waits_for_the_garbage_collector(self) -> None:
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                self.told(ChunkedBody(100), b"1\r\na\r\n0\r\n\r\n")
            self.assertLess(gc.collect(), 100)
        finally:
            gc.enable()


class FirstReadTests(SynchronousTestCase):
    """What came together with the head is kept, and the end told afterwards."""

    def read(self, body: ResponseBody, data: bytes) -> tuple[bytes, list[object]]:
        """The data that was kept, and what another reader is told then."""
        first, reader = FirstRead(), Reader()
        body.receive(data, first)
        first.pass_end(body, reader)
        return first.data, reader.told

    def test_ends(self) -> None:
        self.assertEqual(self.read(SizedBody(5), b"he"), (b"he", []))
        self.assertEqual(self.read(SizedBody(5), b"hello"), (b"hello", ["end"]))
        self.assertEqual(self.read(SizedBody(5), b"hello!"), (b"hello", ["end, and more"]))
        self.assertEqual(self.read(BodyUntilClose(), b"he"), (b"he", []))
        self.assertEqual(self.read(ChunkedBody(100), b"2\r\nhe\r\n1\r\nl\r\n"), (b"hel", []))
        self.assertEqual(self.read(ChunkedBody(100), b"2\r\nhe\r\n0\r\n\r\n"), (b"he", ["end"]))
        data, told = self.read(ChunkedBody(100), b"2\r\nhe\r\nxyz")
        self.assertEqual((data, len(told)), (b"he", 1))
        self.assertIn("malformed", str(told[0]))
