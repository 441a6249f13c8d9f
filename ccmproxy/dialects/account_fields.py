"""Header fields that tell of one account: none of them reaches a client (spec 8.3). Pure."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.http.headers import response_headers
from ccmproxy.http.message import Headers, lower_names


def replace_account_fields(
    headers: Headers, tells_of_account: Callable[[bytes], bool], aggregate: Headers
) -> Headers:
    """An answer's fields as a client may see them: those of its account removed, ``aggregate`` added.

    ``tells_of_account`` is asked of every name that may pass at all, in lower case.
    """
    forwarded = response_headers(headers)
    names = lower_names(forwarded)
    kept = [pair for pair, name in zip(forwarded, names, strict=True) if not tells_of_account(name)]
    return kept + aggregate
