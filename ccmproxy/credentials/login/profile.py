"""The profile of an account: its plan and identity, where the login does not name them (spec 3.2, 12.5)."""

from __future__ import annotations

from twisted.logger import Logger

from ccmproxy.credentials.control import ControlError, Fetch
from ccmproxy.dialects.oauth import AnswerMalformed, OAuthToken, UpstreamURLs
from ccmproxy.interfaces.facets import IAccountFormat

log = Logger()


async def fetch_profile(
    tag: str,
    token: OAuthToken,
    account_format: IAccountFormat,
    urls: UpstreamURLs,
    fetch: Fetch,
) -> OAuthToken:
    """Return ``token`` with plan, tier and identity filled in, or unchanged if nothing is missing or the profile
    endpoint did not answer properly. Never fails."""
    request = account_format.profile_request(token, urls)
    if request is None:
        return token
    try:
        answer = await fetch(request)
        if answer.status == 200:
            return account_format.profile_answer(answer.body, token)
        reason = f"profile endpoint answered {answer.status}"
    except (ControlError, AnswerMalformed) as error:
        reason = str(error)
    log.info("{tag}: profile not known: {reason}", tag=tag, reason=reason)
    return token
