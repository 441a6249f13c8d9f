"""Answers that no provider has a shape of its own for: JSON, pages of proxies in between, refusals on the way. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ccmproxy.http.message import Headers, ResponseHead
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


class Refused(Exception):
    """The request is answered with ``reply`` and nothing else."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def json_reply(
    status: int, document: object, headers: Iterable[tuple[bytes, bytes]] = (), *, raw: bytes | None = None
) -> Reply:
    """A JSON answer; ``raw`` is sent instead of ``document`` where it is given."""
    body = msgspec.json.encode(document) if raw is None else raw
    head = ResponseHead(status, REASONS.get(status, b""), [(b"content-type", b"application/json"), *headers])
    return Reply(head, [body])


def page_reply(status: int, title: bytes, headers: Headers) -> Reply:
    """A page in HTML, as proxies in between make it."""
    head = ResponseHead(
        status,
        REASONS[status],
        [(b"content-type", b"text/html; charset=UTF-8"), (b"server", b"cloudflare"), *headers],
    )
    return Reply(head, [_PAGE % (status, title, title, status)])
