"""The limits of an API key of the commercial API, in the header fields of its answers (spec 3.7). Pure."""

from __future__ import annotations

import re

from ccmproxy.dialects.json_values import moment
from ccmproxy.dialects.verdicts import used_up_resets
from ccmproxy.http.message import Headers

#: For :func:`ccmproxy.dialects.verdicts.used_up_resets`.
KEY_LIMIT = re.compile(
    rb"anthropic-ratelimit-(?P<limit>requests|tokens|input-tokens|output-tokens)-(?P<fact>reset|remaining)"
)


def api_key_reset(headers: Headers) -> float:
    """Return when the used-up limits of an API key renew (Unix seconds, 0 = not said).

    The fields hold RFC 3339, as in ``anthropic-ratelimit-tokens-reset``.
    """
    times = (moment(reset) or 0.0 for reset in used_up_resets(headers, KEY_LIMIT))
    return max(times, default=0.0)
