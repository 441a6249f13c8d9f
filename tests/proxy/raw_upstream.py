"""An upstream that answers with the exact bytes of a test, for cases where the simulator is too well-behaved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.protocol import Factory, Protocol

from tests.conversation import World


class _Connection(Protocol):
    def __init__(self, upstream: RawUpstream) -> None:
        self._upstream = upstream
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer once a request is complete."""
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        size = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        if blank and len(body) >= size:
            self._received = b""
            self._upstream.received.append(head + blank + body)
            answers = self._upstream.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            assert self.transport is not None
            self.transport.write(answer() if callable(answer) else answer)
            if self._upstream.closing:
                self.transport.loseConnection()


class RawUpstream(Factory):
    """Replaces the simulator in ``world``. The last of ``answers`` is repeated for every further request.

    ``received``: complete requests, byte for byte.
    """

    def __init__(
        self, world: World, answers: Sequence[bytes | Callable[[], bytes]], *, closing: bool = False
    ) -> None:
        self.answers = list(answers)
        self.closing = closing
        self.received: list[bytes] = []
        world.upstream.factory = self

    def buildProtocol(self, addr: object) -> Protocol:
        """One more connection."""
        return _Connection(self)


def http_response(
    status: int, *headers: tuple[str, str], body: bytes = b"{}", content_type: str = "application/json"
) -> bytes:
    """The bytes of a response with a Content-Length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
