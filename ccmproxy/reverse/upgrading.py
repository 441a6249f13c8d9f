"""The HTTP upgrade that makes a connection a reverse connection (spec 7.2), for both sides. Pure functions on heads."""

from __future__ import annotations

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, list_items, values

#: Name of the protocol that the Upgrade field asks for.
PROTOCOL = b"reverse-proxy"
_FIELDS: Headers = [(b"Connection", b"Upgrade"), (b"Upgrade", PROTOCOL)]
#: The complete response of the receiver.
SWITCHING_PROTOCOLS = join_head(b"HTTP/1.1 101 Switching Protocols", _FIELDS)


def asking(host: bytes, target: bytes, token: str, user_agent: str) -> RequestHead:
    """Return the connector's request. ``target``: path of the endpoint, including the prefix from the remote's URL."""
    return RequestHead(
        b"GET",
        target,
        [
            (b"Host", host),
            *_FIELDS,
            (b"Authorization", b"Bearer " + token.encode("utf-8")),
            (b"User-Agent", user_agent.encode("latin-1")),
        ],
    )


def problem_of_asking(head: RequestHead, is_http_1_1: bool) -> str | None:
    """Return what is wrong with a connector's request, for the error message; None if it is valid."""
    if head.method != b"GET":
        return "a reverse connection is asked for with GET"
    if not is_http_1_1:
        return "a reverse connection needs HTTP/1.1"
    if not _upgrades(head.headers):
        return "a reverse connection needs the fields Connection: Upgrade and Upgrade: reverse-proxy"
    lengths = values(head.headers, b"content-length")
    if values(head.headers, b"transfer-encoding") or any(length.strip() != b"0" for length in lengths):
        # Otherwise it would depend on timing which bytes belong to the body, and which to the session.
        return "a handshake has no body"
    return None


def problem_of_answer(head: ResponseHead) -> str | None:
    """Return what is wrong with a 101 response; None if it is valid."""
    return None if _upgrades(head.headers) else "the answer switches to something else"


def _upgrades(headers: Headers) -> bool:
    asked = [item.lower() for item in list_items(headers, b"upgrade")]
    return asked == [PROTOCOL] and b"upgrade" in [item.lower() for item in list_items(headers, b"connection")]
