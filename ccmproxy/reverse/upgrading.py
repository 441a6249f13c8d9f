"""The upgrade by which a connection becomes a reverse one (spec 7.2): both sides' words. Pure functions of heads."""

from __future__ import annotations

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, list_items, values

#: Name of the protocol that the Upgrade field asks for.
PROTOCOL = b"reverse-proxy"
_FIELDS: Headers = [(b"Connection", b"Upgrade"), (b"Upgrade", PROTOCOL)]
#: What the receiver answers, whole.
SWITCHING_PROTOCOLS = join_head(b"HTTP/1.1 101 Switching Protocols", _FIELDS)


def asking(host: bytes, target: bytes, token: str, user_agent: str) -> RequestHead:
    """What the connector asks for. ``target``: path of the endpoint, with the URL's prefix."""
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
    """What is wrong with the request of somebody who wants to be a connector; None: nothing."""
    if head.method != b"GET":
        return "a reverse connection is asked for with GET"
    if not is_http_1_1:
        return "a reverse connection needs HTTP/1.1"
    if not _upgrades(head.headers):
        return "a reverse connection needs the fields Connection: Upgrade and Upgrade: reverse-proxy"
    lengths = values(head.headers, b"content-length")
    if values(head.headers, b"transfer-encoding") or any(length.strip() != b"0" for length in lengths):
        # Else it would depend on how much of the body has come already.
        return "a handshake has no body"
    return None


def problem_of_answer(head: ResponseHead) -> str | None:
    """What is wrong with a 101; None: nothing."""
    return None if _upgrades(head.headers) else "the answer switches to something else"


def _upgrades(headers: Headers) -> bool:
    asked = [item.lower() for item in list_items(headers, b"upgrade")]
    return asked == [PROTOCOL] and b"upgrade" in [item.lower() for item in list_items(headers, b"connection")]
