"""Frames to messages and back, for one side of a connection (RFC 6455 sections 5 to 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ccmproxy.websocket.close_codes import INVALID_DATA, NO_CODE, PROTOCOL_ERROR, TOO_BIG, is_sendable
from ccmproxy.websocket.deflate import Corrupt, DeflateAgreement, Deflater, Inflater, TooMuch
from ccmproxy.websocket.frame_head import fragments, frame_head
from ccmproxy.websocket.masking import mask as masked
from ccmproxy.websocket.masking import rotate
from ccmproxy.websocket.utf8 import is_utf8

MIB: Final = 1024 * 1024
#: The longest message (bytes, inflated) that is taken, unless told otherwise (spec 10).
LONGEST_MESSAGE: Final = 64 * MIB

# Opcodes.
_CONTINUATION: Final = 0
_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 10

#: Longest payload of a control frame, and longest reason of a close (bytes).
_LONGEST_CONTROL, _LONGEST_REASON = 125, 123
#: From this size on (bytes), a message is better sent by :meth:`Connection.send_long_message`.
LONG_MESSAGE: Final = 0x10000
#: Pieces of a message that are kept as they came (bytes).
_LARGE_PIECE: Final = 0x1000
#: So much of a compressed message is inflated at once; what it becomes has at most a thousand times as many bytes.
_PACKED_STEP: Final = 4 * 1024
#: After so many bytes (inflated) of one message, the rest waits for the next call of ``next_event`` (F63).
MOST_AT_ONCE: Final = MIB
#: Sizes (bytes) of messages that are worth compressing: small ones gain nothing, large ones keep all others waiting.
_WORTH_COMPRESSING: Final = range(128, MIB)


class ProtocolError(Exception):
    """The peer broke the protocol, or sent more than is taken. ``code``: what to close with; ``str()`` says why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message; of text, checked UTF-8."""

    data: bytes
    is_text: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with a pong of the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, or a sign of life."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer closes. ``code`` is ``NO_CODE`` where it said none; ``reason`` is checked UTF-8. Nothing follows."""

    code: int
    reason: bytes


Event = Message | Ping | Pong | Close


class Connection:
    """One side of an open connection.

    ``receive`` takes what comes; ``next_event`` makes one event of it at a time, so that whoever cannot take more just
    stops asking. The ``send_…`` methods give bytes for the transport. A client passes ``mask``, which gives four random
    bytes; a server passes None. ``limit``: of a message, bytes inflated. ``gathered``: bytes, inflated, of the message
    that is coming.
    """

    __slots__ = tuple(
        """
        _buffer _deflater _failed _fin _in_frame _in_message _inflater _key _limit _masking _message_compressed
        _message_opcode _message_packed _pieces _position _remaining closed gathered
        """.split()
    )

    def __init__(
        self,
        mask: Callable[[], bytes] | None,
        agreement: DeflateAgreement | None = None,
        limit: int = LONGEST_MESSAGE,
    ) -> None:
        self._masking = mask
        self._limit = limit
        self._deflater = Deflater(agreement) if agreement is not None else None
        self._inflater = Inflater(agreement) if agreement is not None else None
        #: What has come, as the transport gave it if possible, and how much of it is used up already.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        # Of the frame whose payload is coming. ``_key``: of its mask, for the next byte; None: it has no mask.
        self._in_frame = False
        self._fin = False
        self._remaining = 0
        self._key: bytes | None = None
        # Of the message that is coming.
        self._in_message = False
        self._pieces: list[bytes | bytearray] = []
        self.gathered = 0
        self._message_opcode = _TEXT
        self._message_compressed = False
        self._message_packed = 0
        self._failed: ProtocolError | None = None
        #: The peer has closed: nothing that comes behind its close frame counts.
        self.closed = False

    # Receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes that came. Nothing is looked at yet."""
        if self.closed or self._failed is not None:
            return
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
        else:
            if isinstance(buffer, bytes):
                self._buffer = buffer = bytearray(buffer)
            del buffer[: self._position]
            buffer += data
        self._position = 0

    @property
    def buffered(self) -> int:
        """Bytes that came and are not part of an event, or of a message in the making, yet."""
        return len(self._buffer) - self._position

    @property
    def missing(self) -> int:
        """Bytes that the frame in the making still lacks; 0 where there is none, or its head has not come yet."""
        return self._remaining

    @property
    def is_behind(self) -> bool:
        """Whether there is more to inflate of what has come: ask for the next event again, in another turn."""
        return self._in_frame and self.buffered > 0

    def next_event(self) -> Event | None:
        """The next event, None where more must come first, or where :attr:`is_behind` says so.

        Raises ProtocolError, then always the same one.
        """
        if self._failed is not None:
            raise self._failed
        enough = self.gathered + MOST_AT_ONCE
        try:
            while not self.closed:
                if self._in_frame:
                    while not self._take_payload():
                        if not self.is_behind or self.gathered > enough:
                            return None
                    if self._fin:
                        return self._finish_message()
                elif (event := self._take_frame()) is not None:
                    return event
                elif not self._in_frame:
                    return None
        except ProtocolError as error:
            self.fail(error)
            raise
        return None

    def fail(self, error: ProtocolError) -> None:
        """Drop what has come, and take nothing any more. ``next_event`` raises ``error`` from now on."""
        self._failed = error
        self._forget_buffer()
        self._pieces.clear()
        self.gathered = 0

    def _take_frame(self) -> Event | None:
        """Begin the next frame, if its header has come; a control frame is taken whole, and gives its event."""
        buffer, at = self._buffer, self._position
        available = len(buffer) - at
        if available < 2:
            if not available:
                self._forget_buffer()
            return None
        first, second = buffer[at], buffer[at + 1]
        opcode = first & 0x0F
        length = second & 0x7F
        self._check(first, opcode, second)
        if opcode >= _CLOSE:
            end = at + (6 if second & 0x80 else 2) + length
            if len(buffer) < end:
                return None
            payload = bytes(buffer[end - length : end])
            if second & 0x80:
                payload = bytes(masked(payload, bytes(buffer[end - length - 4 : end - length])))
            self._position = end
            return self._control(opcode, payload)
        head = 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if second & 0x80 else 0)
        if available < head:
            return None
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(buffer[at + 2 : at + 2 + size], "big")
            if length < (126 if size == 2 else 0x10000) or length >= 1 << 63:
                raise ProtocolError(PROTOCOL_ERROR, "invalid length of a frame")
        if opcode != _CONTINUATION:
            self._message_opcode = opcode
            self._message_compressed = bool(first & 0x40)
            self._message_packed = 0
        self._message_packed += length
        # Compression may make a message a little longer (stored blocks), never much.
        allowed = self._limit + (self._limit // 256 + 64 if self._message_compressed else 0)
        if self._message_packed > allowed:
            raise ProtocolError(TOO_BIG, "message too big")
        key = bytes(buffer[at + head - 4 : at + head]) if second & 0x80 else None
        self._fin = bool(first & 0x80)
        self._position = at + head
        end = at + head + length
        is_large = self._message_compressed and length > _PACKED_STEP
        if self._fin and opcode != _CONTINUATION and end <= len(buffer) and not is_large:
            return self._take_message(end, key)
        self._in_message = self._in_frame = True
        self._key = key
        self._remaining = length
        return None

    def _take_message(self, end: int, key: bytes | None) -> Message:
        """A message of one frame, whose payload has come already and lies before ``end``."""
        data = bytes(self._buffer[self._position : end])
        self._position = end
        if key is not None:
            data = bytes(masked(data, key))
        if self._message_compressed:
            data = self._inflated(data, True)
        return _checked(data, self._message_opcode)

    def _check(self, first: int, opcode: int, second: int) -> None:
        """The first two bytes of a frame (section 5.2)."""
        if first & 0x30 or (first & 0x40 and (self._inflater is None or opcode not in (_TEXT, _BINARY))):
            raise ProtocolError(PROTOCOL_ERROR, "reserved bit set")
        if opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            raise ProtocolError(PROTOCOL_ERROR, "unknown opcode")
        if bool(second & 0x80) != (self._masking is None):
            raise ProtocolError(PROTOCOL_ERROR, "frames of a client are masked, those of a server are not")
        if opcode >= _CLOSE:
            if not first & 0x80:
                raise ProtocolError(PROTOCOL_ERROR, "fragmented control frame")
            if second & 0x7F > _LONGEST_CONTROL:
                raise ProtocolError(PROTOCOL_ERROR, "control frame too long")
        elif (opcode == _CONTINUATION) != self._in_message:
            raise ProtocolError(PROTOCOL_ERROR, "frame out of place in a fragmented message")

    def _take_payload(self) -> bool:
        """Add what has come of the frame to its message. Whether that completes the frame."""
        start = self._position
        size = min(self._remaining, _PACKED_STEP) if self._message_compressed else self._remaining
        came = bytes(self._buffer[start : start + size])
        if size := len(came):
            self._position = start + size
            self._remaining -= size
            piece: bytes | bytearray = came
            if self._key is not None:
                piece = masked(came, self._key)
                self._key = rotate(self._key, size)
            self._add(self._inflated(piece, False) if self._message_compressed else piece)
        if self._remaining:
            if self._position == len(self._buffer):
                self._forget_buffer()
            return False
        self._in_frame = False
        return True

    def _add(self, piece: bytes | bytearray) -> None:
        """Add to the message. Small pieces are put together: an object for each would take more memory than they do."""
        pieces = self._pieces
        self.gathered += len(piece)
        if len(piece) >= _LARGE_PIECE:
            pieces.append(piece)
        elif pieces and isinstance(last := pieces[-1], bytearray):
            last += piece
        else:
            pieces.append(bytearray(piece))

    def _inflated(self, piece: bytes | bytearray, is_last: bool) -> bytes:
        """A piece of a compressed message; the last one may be empty."""
        inflater = self._inflater
        assert inflater is not None
        room = self._limit - self.gathered
        try:
            return inflater.end(room, piece) if is_last else inflater.inflate(piece, room)
        except TooMuch:
            raise ProtocolError(TOO_BIG, "message too big") from None
        except Corrupt:
            raise ProtocolError(INVALID_DATA, "compressed message cannot be inflated") from None

    def _finish_message(self) -> Message:
        """The message whose last frame has come, of which all pieces were added."""
        self._in_message = False
        if self._message_compressed:
            self._add(self._inflated(b"", True))
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.gathered = 0
        return _checked(data, self._message_opcode)

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        # Also where what it says is wrong: the peer waits for the end of the connection, and sends no other close.
        self.closed = True
        code, reason = NO_CODE, payload[2:]
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not is_sendable(code):
                raise ProtocolError(PROTOCOL_ERROR, "invalid close code")
            if not is_utf8(reason):
                raise ProtocolError(INVALID_DATA, "reason of a close that is not UTF-8")
        self._forget_buffer()
        return Close(code, reason)

    def _forget_buffer(self) -> None:
        self._buffer = b""
        self._position = 0

    # Sending --------------------------------------------------------------------------------------------------

    def send_message(self, data: bytes, is_text: bool) -> bytes:
        """Return a message as frames of at most 1 MiB each (spec 10), compressed if that was agreed and is worth it."""
        return b"".join(self._frame(*each) for each in fragments(*self._packed(data, is_text)))

    def send_long_message(self, data: bytes, is_text: bool) -> tuple[bytes, bytes | bytearray]:
        """Return what stands before the payload of a message, and the payload, which are to be written one after the
        other. For messages of ``LONG_MESSAGE`` to ``LONGEST_FRAME`` bytes that costs less than one piece."""
        return self._parts(*self._packed(data, is_text))

    def _packed(self, data: bytes, is_text: bool) -> tuple[int, bytes]:
        """Return the first byte of a message's only frame, and its payload before it is masked."""
        first = 0x80 | (_TEXT if is_text else _BINARY)
        if self._deflater is not None and len(data) in _WORTH_COMPRESSING:
            packed = self._deflater.compress(data)
            if packed is not None:
                return first | 0x40, packed
        return first, data

    def send_ping(self, payload: bytes = b"") -> bytes:
        """A ping; at most 125 bytes of payload."""
        return self._frame(0x80 | _PING, payload)

    def send_pong(self, payload: bytes) -> bytes:
        """The answer to a ping."""
        return self._frame(0x80 | _PONG, payload)

    def send_close(self, code: int = NO_CODE, reason: bytes = b"") -> bytes:
        """A close. A code that no frame may carry is left out, with its reason; a long reason is cut."""
        if not is_sendable(code):
            return self._frame(0x80 | _CLOSE, b"")
        cut = reason[:_LONGEST_REASON].decode("utf-8", "ignore").encode("utf-8")
        return self._frame(0x80 | _CLOSE, code.to_bytes(2, "big") + cut)

    def _frame(self, first: int, payload: bytes) -> bytes:
        return b"".join(self._parts(first, payload))

    def _parts(self, first: int, payload: bytes) -> tuple[bytes, bytes | bytearray]:
        head = frame_head(first, len(payload), self._masking is not None)
        if self._masking is None:
            return head, payload
        key = self._masking()
        return head + key, masked(payload, key)


def _checked(data: bytes, opcode: int) -> Message:
    """A whole message of what it consists of. Raises ProtocolError for text that is not UTF-8."""
    is_text = opcode == _TEXT
    if is_text and not is_utf8(data):
        raise ProtocolError(INVALID_DATA, "text that is not UTF-8")
    return Message(data, is_text)
