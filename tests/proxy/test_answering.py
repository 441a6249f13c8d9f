"""What a client sees of an upstream's response, and the log's word for the outcome."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import ResponseHead
from ccmproxy.proxy.answering import is_event_stream
from tests.conversation import Response, World
from tests.proxy.manual_upstream import MESSAGE, ManualUpstream


class HeaderTests(SynchronousTestCase):
    """Fields that describe this request, and not the request that a remote instance made for it."""

    def answer(self, head: bytes, body: bytes = b"") -> Response:
        """The response that the client gets when the upstream sends this one."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask()
        size = b"Content-Length: %d\r\n\r\n" % len(body)
        upstream.last.transport.write(head + size + body)
        world.network.flush()
        return client.responses()[0]

    def test_of_an_instance_in_between(self) -> None:
        """The client gets a single request id, which is this instance's."""
        head = b"HTTP/1.1 200 OK\r\nX-CCM-Request-Id: theirs\r\nX-Accel-Buffering: yes\r\n"
        answer = self.answer(head)
        ids = [value for name, value in answer.headers if name.lower() == b"x-ccm-request-id"]
        self.assertEqual(len(ids), 1)
        self.assertRegex(ids[0].decode(), "^req_")
        self.assertIsNone(answer.header("x-accel-buffering"))

    def test_a_stream_is_not_to_be_buffered(self) -> None:
        """F17."""
        answer = self.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n", MESSAGE)
        self.assertEqual(answer.header("x-accel-buffering"), "no")

    def test_errors_do_not_tell_limits(self) -> None:
        """A client would take a rate-limit field for the cause of the error."""
        for status, told in ((200, True), (500, False)):
            answer = self.answer(b"HTTP/1.1 %d X\r\n" % status)
            self.assertEqual(answer.header("anthropic-ratelimit-unified-status") is not None, told, status)


class EventStreamTests(SynchronousTestCase):
    """Event streams are recognised by the media type alone."""

    def test_types(self) -> None:
        for value, expected in (
            (b"text/event-stream", True),
            (b" Text/Event-Stream; charset=utf-8", True),
            (b"application/json", False),
            (b"", False),
        ):
            head = ResponseHead(200, b"OK", [(b"content-TYPE", value)])
            self.assertEqual(is_event_stream(head), expected, value)
        self.assertFalse(is_event_stream(ResponseHead(200, b"OK", [])))
