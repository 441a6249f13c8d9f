"""Responses that are not specific to a provider: JSON, pages of intermediate proxies, early refusals. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.steps import Reply

REASONS = {
    200: b"OK",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Request Entity Too Large",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    529: b"Overloaded",
}

_PAGE = b"""<!DOCTYPE html>
<html lang="en-US"><head><title>api.example.com | %d: %s</title></head>
<body><h1>%s</h1><p>Error code %d</p></body></html>
"""


class InvalidRequest(Exception):
    """The request is invalid. ``str()`` is the message for the client."""


class RequestRefused(Exception):
    """The request is refused: ``reply`` is the whole response."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def json_reply(
    status: int, document: object, headers: Iterable[tuple[bytes, bytes]] = (), *, raw: bytes | None = None
) -> Reply:
    """A JSON response; ``raw`` is sent in place of ``document`` if given."""
    body = msgspec.json.encode(document) if raw is None else raw
    head = ResponseHead(status, REASONS.get(status, b""), [(b"content-type", b"application/json"), *headers])
    return Reply(head, [body])


def page_reply(status: int, title: bytes, headers: Headers) -> Reply:
    """An HTML page, as intermediate proxies send it."""
    head = ResponseHead(
        status,
        REASONS[status],
        [(b"content-type", b"text/html; charset=UTF-8"), (b"server", b"cloudflare"), *headers],
    )
    return Reply(head, [_PAGE % (status, title, title, status)])


def retry_after_field(fault: Fault) -> Headers:
    """The Retry-After field of a fault, if it has one."""
    return [] if fault.retry_after is None else [(b"retry-after", b"%d" % fault.retry_after)]


def shapeless_reply(fault: Fault, target: bytes, broken: bytes) -> Reply | None:
    """The response for ``fault`` if it is the same for every provider, else None.

    ``target``: of the request. ``broken``: JSON that breaks off.
    """
    headers = retry_after_field(fault)
    match fault.name:
        case "bad_gateway":
            return page_reply(502, b"Bad gateway", headers)
        case "html":
            return page_reply(200, b"Sign in to the network", headers)
        case "empty":
            return json_reply(200, None, headers, raw=b"")
        case "hang":
            return Reply(ResponseHead(200, b"OK"), [])
        case "nonsense":
            return json_reply(200, {"unexpected": ["nothing", "of", "use"]}, headers)
        case "broken_json":
            return json_reply(200, None, headers, raw=broken)
        case "redirect":
            return json_reply(307, {}, [(b"location", target), *headers])
        case _:
            return None
