"""Which header fields pass through the proxy: the rules as data, and the two functions that apply them (spec 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ccmproxy.http.message import Headers, ParsedHeaders, first_value, list_items, lower_names

#: Fields of one connection, never forwarded (RFC 9110 section 7.6.1, plus Host, which each side sets for itself).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
        b"host",
    }
)

#: Traces that reverse proxies leave: they describe the way to us, which is nobody else's business.
REVERSE_PROXY = frozenset(
    {
        b"cdn-loop",
        b"true-client-ip",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
        b"x-real-ip",
    }
)
#: Every field that begins so is a trace of Cloudflare.
REVERSE_PROXY_PREFIX = b"cf-"

#: What a client authenticates with: ours to check, never the upstream's to see.
KEYS = frozenset({b"x-api-key", b"api-key", b"authorization"})

#: Answered by the server side itself before the body is asked for; forwarding it would make the upstream wait for
#: a body that is already on its way.
EXPECT = frozenset({b"expect"})

#: How many instances of ours a request has passed; set by each that sends it on to another one.
HOPS = b"x-ccm-hops"
#: A request that has passed more goes round in a ring.
MOST_HOPS = 4

_BOTH_WAYS = HOP_BY_HOP | REVERSE_PROXY
_TO_UPSTREAM = _BOTH_WAYS | KEYS | EXPECT | {HOPS}


def _forward(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    names = lower_names(headers)
    if b"connection" in names:
        named = {name.lower() for name in list_items(headers, b"connection")}
        # A field the far side needs for framing stays, whatever the near side writes into Connection.
        dropped = dropped | (named - {b"content-length", b"content-type", b"content-encoding"})
    return ParsedHeaders(
        pair
        for pair, name in zip(headers, names, strict=True)
        if name not in dropped and name[:3] != REVERSE_PROXY_PREFIX
    )


def request_headers(headers: Headers) -> Headers:
    """The client's fields that go on to the upstream, in wire order, spelt as they came."""
    return _forward(headers, _TO_UPSTREAM)


def response_headers(headers: Headers) -> Headers:
    """The upstream's fields that go on to the client, in wire order, spelt as they came."""
    return _forward(headers, _BOTH_WAYS)


def hops(headers: Headers) -> int:
    """How many instances of ours the request has passed; one too many if the field makes no sense."""
    value = first_value(headers, HOPS)
    if value is None:
        return 0
    value = value.strip()
    return int(value) if value.isdigit() and len(value) < 4 else MOST_HOPS + 1


def override(headers: Headers, overrides: Mapping[str, Sequence[str]]) -> Headers:
    """``headers`` with the same-named fields replaced by the operator's (spec 1, ``headers``).

    An empty list of values removes the field.
    """
    if not overrides:
        return headers
    names = {name.lower().encode("latin-1") for name in overrides}
    kept = [pair for pair in headers if pair[0].lower() not in names]
    kept += [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, items in overrides.items()
        for value in items
    ]
    return kept
