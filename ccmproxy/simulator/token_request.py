"""Requests to a token endpoint, as JSON or as a form (RFC 6749 section 3.2), and whether they are granted. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec

from ccmproxy.http.message import first_value
from ccmproxy.simulator.accounts import RefreshTokenExpired, RefreshTokenReused, SimulatedAccount
from ccmproxy.simulator.faults import Endpoint
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.upstream import Delivery

#: Why a refresh is refused. ``unknown``: the token was never issued, or its login has ended.
RefreshProblem = Literal["grant_type", "client", "unknown", "expired", "reused"]

_AccountT = TypeVar("_AccountT", bound=SimulatedAccount)


def token_request(request: ReceivedRequest) -> dict[str, str]:
    """The parameters of a token request, JSON or form; those that are not strings are left out. Empty if malformed."""
    content_type = first_value(request.headers, b"content-type") or b""
    if content_type.startswith(b"application/x-www-form-urlencoded"):
        return dict(parse_qsl(request.body.decode("latin-1")))
    try:
        document = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str)}


def refreshing_account(parameters: Mapping[str, str], accounts: Iterable[_AccountT]) -> _AccountT | None:
    """The account to which the refresh token was issued, current or earlier."""
    token = parameters.get("refresh_token", "")
    return next((account for account in accounts if account.knows_refresh_token(token)), None)


def deliver_refresh(
    request: ReceivedRequest,
    accounts: Iterable[_AccountT],
    deliver: Callable[[ReceivedRequest, _AccountT | None, Endpoint, Callable[[], Reply]], Delivery],
    refresh: Callable[[Mapping[str, str], _AccountT | None], Reply],
) -> Delivery:
    """The response of a token endpoint: the fault that applies, or the result of ``refresh``.

    ``deliver``: of :class:`~ccmproxy.simulator.due_faults.DueFaults`. ``refresh``: takes the parameters and the
    account. Raises RequestRefused if the request names a malformed fault.
    """
    parameters = token_request(request)
    account = refreshing_account(parameters, accounts)
    request.account = account.name if account is not None else None
    return deliver(request, account, "token", lambda: refresh(parameters, account))


def refresh_problem(
    parameters: Mapping[str, str], account: SimulatedAccount | None, client_id: str
) -> RefreshProblem | None:
    """Redeem the refresh token of ``account``, which rotates its tokens; or return the reason to refuse.

    ``client_id``: of the client to which logins are issued.
    """
    if parameters.get("grant_type") != "refresh_token":
        return "grant_type"
    if parameters.get("client_id") != client_id:
        return "client"
    if account is None:
        return "unknown"
    try:
        account.redeem(parameters["refresh_token"])
    except RefreshTokenReused:
        return "reused"
    except RefreshTokenExpired:
        return "expired"
    except KeyError:
        return "unknown"
    return None
