"""Response header fields that describe one account: none of them reaches a client (spec 8.3). Pure."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.http.headers import OWN_PREFIXES, response_headers
from ccmproxy.http.message import Headers, lower_names


def replace_account_fields(
    headers: Headers, tells_of_account: Callable[[bytes], bool], aggregate: Headers
) -> Headers:
    """The fields of a response as a client may see them: those of the account removed, ``aggregate`` added.

    Fields that only we may send are removed as well: another instance would take the upstream's for ours (spec 14).
    ``tells_of_account`` is called with each field name, in lower case, that would otherwise pass, and returns whether
    the field describes the account.
    """
    forwarded = response_headers(headers)
    names = lower_names(forwarded)
    kept = [
        pair
        for pair, name in zip(forwarded, names, strict=True)
        if name[:6] not in OWN_PREFIXES and not tells_of_account(name)
    ]
    return kept + aggregate
