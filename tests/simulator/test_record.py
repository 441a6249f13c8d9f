"""The record keeps requests within its bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.record import ReceivedRequest, Record


def request(number: int, body: bytes = b"", endpoint: str = "turn") -> ReceivedRequest:
    """A request with a recognizable number."""
    headers = [(b"X-A", b"1, 2"), (b"x-a", b"3"), (b"Authorization", b"Bearer secret")]
    return ReceivedRequest(
        number, 0.0, b"POST", b"/v1/messages?beta=true", headers, body, "peer", endpoint=endpoint
    )


class RecordTests(SynchronousTestCase):
    """Bounds and views."""

    def numbers(self, record: Record) -> list[int]:
        return [kept.number for kept in record]

    def test_bounded_by_number(self) -> None:
        record = Record(max_requests=3)
        for number in range(5):
            record.append(request(number))
        self.assertEqual(self.numbers(record), [2, 3, 4])
        self.assertEqual(record[-1].number, 4)
        self.assertEqual(len(record), 3)

    def test_bounded_by_bytes(self) -> None:
        record = Record(max_bytes=10)
        for number in range(4):
            record.append(request(number, b"1234"))
        self.assertEqual(self.numbers(record), [2, 3])
        record.append(request(9, b"x" * 100))
        self.assertEqual(self.numbers(record), [9])

    def test_bearer_tokens(self) -> None:
        for value, token in ((b"Bearer t", "t"), (b"bearer t", "t"), (b"Bearer ", None), (b"Basic t", None)):
            received = ReceivedRequest(1, 0.0, b"GET", b"/", [(b"Authorization", value)], b"", "peer")
            self.assertEqual(received.bearer, token)
        self.assertIsNone(ReceivedRequest(1, 0.0, b"GET", b"/", [], b"", "peer").bearer)

    def test_may_keep_nothing(self) -> None:
        record = Record(max_requests=0)
        record.append(request(1))
        self.assertEqual(len(record), 0)

    def test_clear(self) -> None:
        record = Record(max_bytes=10)
        record.append(request(1, b"x" * 10))
        record.clear()
        self.assertEqual(len(record), 0)
        record.append(request(2, b"1234"))
        record.append(request(3, b"1234"))
        self.assertEqual(self.numbers(record), [2, 3])

    def test_of(self) -> None:
        record = Record()
        record.append(request(1))
        record.append(request(2, endpoint="token"))
        self.assertEqual([kept.number for kept in record.of("token")], [2])

    def test_request(self) -> None:
        received = request(1)
        self.assertEqual(received.path, b"/v1/messages")
        self.assertEqual(received.header(b"x-a"), b"1, 2")
        self.assertEqual(received.items(b"x-a"), [b"1", b"2", b"3"])
        self.assertEqual(received.head.query, b"beta=true")
        self.assertNotIn("secret", repr(received))
