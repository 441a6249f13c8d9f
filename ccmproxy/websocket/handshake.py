"""The opening handshake (RFC 6455 section 4): what both heads must say, and what they agree on."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha1
from typing import Final

from ccmproxy.http.message import (
    Headers,
    RequestHead,
    ResponseHead,
    first_value,
    list_items,
    lower_names,
    values,
)
from ccmproxy.websocket.deflate import (
    CLIENT_OFFER,
    NAME,
    DeflateAgreement,
    Extension,
    client_agreement,
    server_agreement,
)

VERSION: Final = b"13"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PREFIX: Final = b"sec-websocket-"
#: More of Sec-WebSocket-Extensions is not looked at (bytes).
_LONGEST_OFFER: Final = 4096
_PARAMETER: Final = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:\"([0-9A-Za-z-]*)\"|([0-9A-Za-z-]+)))?"
)


class HandshakeError(Exception):
    """A head is not what the handshake asks for. ``status``: what a server answers. ``str()`` repeats no value."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def wants_websocket(head: RequestHead) -> bool:
    """Whether the client asks for WebSocket at all; :func:`accept` tells if it does so in the right way."""
    upgrade = first_value(head.headers, b"upgrade")
    return upgrade is not None and b"websocket" in upgrade.lower()


def without_handshake(headers: Headers) -> Headers:
    """The fields that are not part of the handshake itself: those concern one connection only."""
    return [
        pair for pair, name in zip(headers, lower_names(headers), strict=True) if not name.startswith(_PREFIX)
    ]


# Server ---------------------------------------------------------------------------------------------------------


class Acceptance:
    """What a server answers a valid handshake. ``headers`` of the 101; ``agreement``: None without compression."""

    __slots__ = ("agreement", "headers")

    def __init__(self, headers: Headers, agreement: DeflateAgreement | None) -> None:
        self.headers = headers
        self.agreement = agreement


def accept(head: RequestHead, compress: bool = True) -> Acceptance:
    """Check a client's handshake (section 4.2.1). Raises HandshakeError: 426 for another version, else 400.

    No sub-protocol is chosen, and no extension but permessage-deflate, if ``compress``.
    """
    headers = head.headers
    if head.method != b"GET":
        raise HandshakeError("a WebSocket handshake is a GET request")
    if b"upgrade" not in {option.lower() for option in list_items(headers, b"connection")}:
        raise HandshakeError("the Connection field does not name Upgrade")
    if b"websocket" not in {protocol.lower() for protocol in list_items(headers, b"upgrade")}:
        raise HandshakeError("the Upgrade field does not name websocket")
    if values(headers, b"sec-websocket-version") != [VERSION]:
        raise HandshakeError("Sec-WebSocket-Version must be 13", 426)
    keys = values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HandshakeError("Sec-WebSocket-Key must be 16 bytes in base64")
    fields: Headers = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", accept_value(keys[0])),
    ]
    agreement = None
    if compress and (agreed := server_agreement(_extensions(headers))):
        agreement, answer = agreed
        fields.append((b"Sec-WebSocket-Extensions", answer.encode("ascii")))
    return Acceptance(fields, agreement)


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except (Base64Error, ValueError):
        return False


def accept_value(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


# Client ---------------------------------------------------------------------------------------------------------


def request_fields(nonce: bytes, compress: bool = True) -> Headers:
    """The fields that make a GET a handshake. ``nonce``: 16 random bytes."""
    fields: Headers = [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", VERSION),
        (b"Sec-WebSocket-Key", b64encode(nonce)),
    ]
    if compress:
        fields.append((b"Sec-WebSocket-Extensions", CLIENT_OFFER.encode("ascii")))
    return fields


def check_answer(nonce: bytes, head: ResponseHead, compress: bool = True) -> DeflateAgreement | None:
    """Check the 101 that answers :func:`request_fields` (section 4.1). Raises HandshakeError.

    What was agreed, None for no compression.
    """
    headers = head.headers
    if head.status != 101:
        raise HandshakeError("not a 101")
    if b"upgrade" not in {option.lower() for option in list_items(headers, b"connection")}:
        raise HandshakeError("the Connection field does not name Upgrade")
    if [value.lower() for value in values(headers, b"upgrade")] != [b"websocket"]:
        raise HandshakeError("the Upgrade field does not name websocket")
    if values(headers, b"sec-websocket-accept") != [accept_value(b64encode(nonce))]:
        raise HandshakeError("Sec-WebSocket-Accept does not answer our key")
    if values(headers, b"sec-websocket-protocol"):
        raise HandshakeError("a sub-protocol that nobody asked for")
    chosen = _extensions(headers)
    if not chosen and not values(headers, b"sec-websocket-extensions"):
        return None
    if not compress or len(chosen) != 1 or chosen[0][0] != NAME:
        raise HandshakeError("an extension that nobody asked for")
    agreement = client_agreement(chosen[0][1])
    if agreement is None:
        raise HandshakeError("an answer to permessage-deflate that does not fit the offer")
    return agreement


def _extensions(headers: Headers) -> list[Extension]:
    """The extensions of Sec-WebSocket-Extensions, in order; one that cannot be read is left out (section 9.1)."""
    text = b",".join(values(headers, b"sec-websocket-extensions"))[:_LONGEST_OFFER].decode("latin-1")
    found: list[Extension] = []
    for item in text.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        parameters: dict[str, str | None] = {}
        for part in rest:
            match = _PARAMETER.fullmatch(part)
            key = match[1].lower() if match else ""
            if match is None or key in parameters:
                break
            parameters[key] = match[2] if match[2] is not None else match[3]
        else:
            if name:
                found.append((name.lower(), parameters))
    return found
