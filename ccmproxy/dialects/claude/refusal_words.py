"""What Claude's refusals are known to say (spec 12.1): each row with the source of its fact."""

from __future__ import annotations

from ccmproxy.dialects.known_words import KnownWords, Meaning, rows

_MESSAGE = ("error.message",)

#: In the order in which they are tried.
REFUSAL_WORDS: tuple[KnownWords, ...] = (
    rows(
        (403,),
        _MESSAGE,
        "OAuth token has been revoked. Please obtain a new token",
        Meaning.LOGIN_REVOKED,
        "spec 3.4; claude-relay-service#1027",
    ),
    rows((403,), _MESSAGE, "OAuth token has been revoked", Meaning.LOGIN_REVOKED, "spec 3.4"),
    rows(
        (403,),
        _MESSAGE,
        "OAuth authentication is currently not allowed for this organization",
        Meaning.ACCOUNT_REFUSED,
        "claude-relay-service#990, claude-code#65101",
    ),
    rows(
        (400, 403),
        _MESSAGE,
        "This organization has been disabled",
        Meaning.ACCOUNT_REFUSED,
        "CLIProxyAPI#3409, claude-code#60648",
    ),
    rows(
        (429,),
        _MESSAGE,
        "Extra usage is required for long context requests",
        Meaning.REQUEST,
        "claude-code#42616, sub2api#572, CLIProxyAPI#2464",
    ),
)
