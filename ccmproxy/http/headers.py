"""Which header fields pass through the proxy: the rules as data, and the two functions that apply them (spec 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ccmproxy.http.message import Headers, ParsedHeaders, first_value, list_items, lower_names

#: Fields that concern a single connection and are never forwarded: those of RFC 9110 section 7.6.1, and Host, which is
#: set anew for each connection.
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

#: Fields that reverse proxies add. They describe how the request reached this proxy, which is private.
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
#: Prefix of the fields that Cloudflare adds.
REVERSE_PROXY_PREFIX = b"cf-"

#: Fields with which a client authenticates to this proxy. The upstream must never see them.
KEYS = frozenset({b"x-api-key", b"api-key", b"authorization"})

#: Expect is answered by this proxy's own server. Forwarding it would ask the upstream for a "100 Continue" although the
#: body is sent right away.
EXPECT = frozenset({b"expect"})

#: Prefixes of the fields by which instances tell each other something, in lower case. They are never relayed: those of
#: an upstream would be taken for ours (spec 14).
OWN_PREFIXES = (b"x-ccm-", b"x-ocm-")

#: Asks for an answer without a content coding (RFC 9110 section 12.5.3): no Accept-Encoding means that any will do.
IDENTITY = (b"Accept-Encoding", b"identity")

#: Number of ccmproxy instances that a request has passed. Each instance sets it when it forwards to another instance.
HOPS = b"x-ccm-hops"
#: A request with more hops than this is assumed to be in a loop.
MOST_HOPS = 4

_BOTH_WAYS = HOP_BY_HOP | REVERSE_PROXY
_TO_UPSTREAM = _BOTH_WAYS | KEYS | EXPECT | {HOPS}


def _forward(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    names = lower_names(headers)
    if b"connection" in names:
        named = {name.lower() for name in list_items(headers, b"connection")}
        # Fields that the recipient needs to read the body stay, even if the sender lists them in Connection.
        dropped = dropped | (named - {b"content-length", b"content-type", b"content-encoding"})
    return ParsedHeaders(
        pair
        for pair, name in zip(headers, names, strict=True)
        if name not in dropped and name[:3] != REVERSE_PROXY_PREFIX
    )


def request_headers(headers: Headers) -> Headers:
    """Return the client's fields that are forwarded to the upstream, in wire order and with their original spelling."""
    return _forward(headers, _TO_UPSTREAM)


def response_headers(headers: Headers) -> Headers:
    """Return the upstream's fields that are forwarded to the client, in wire order and with their original spelling."""
    return _forward(headers, _BOTH_WAYS)


def hops(headers: Headers) -> int:
    """Return how many ccmproxy instances the request has passed, or ``MOST_HOPS + 1`` if the field is malformed."""
    value = first_value(headers, HOPS)
    if value is None:
        return 0
    value = value.strip()
    return int(value) if value.isdigit() and len(value) < 4 else MOST_HOPS + 1


def override(headers: Headers, overrides: Mapping[str, Sequence[str]]) -> Headers:
    """Return ``headers`` with the fields named in ``overrides`` replaced by the operator's values.

    An empty list of values removes the field (spec 1, ``headers``).
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
