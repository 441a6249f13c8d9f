"""What Claude's refusals are known to say (spec 12.1): each row with the source of its fact."""

from __future__ import annotations

from ccmproxy.dialects.known_words import KnownWords, Meaning, row

#: Where the sentence of an error stands; a body that is no JSON counts as the second of these.
_MESSAGE = ("error.message", "message")

#: In the order in which they are tried.
REFUSAL_WORDS: tuple[KnownWords, ...] = (
    row(
        (403,),
        _MESSAGE,
        "OAuth token has been revoked. Please obtain a new token",
        Meaning.LOGIN_REVOKED,
        "spec 3.4; claude-relay-service#1027",
    ),
    row((403,), _MESSAGE, "OAuth token has been revoked", Meaning.LOGIN_REVOKED, "spec 3.4"),
    row(
        (401, 403),
        _MESSAGE,
        "OAuth authentication is currently not allowed for this organization",
        Meaning.ACCOUNT_REFUSED,
        "spec 12.3; claude-relay-service#990, claude-code#65101 (F52)",
    ),
    row(
        (400, 401, 403),
        _MESSAGE,
        "This organization has been disabled",
        Meaning.ACCOUNT_REFUSED,
        "spec 12.3; CLIProxyAPI#3409, claude-code#60648, claude-code#19028 (F52)",
    ),
    row(
        (400, 403),
        _MESSAGE,
        "The long context beta is not yet available for this subscription",
        Meaning.REQUEST,
        "spec 12.1 (entitlement to a feature); claude-code#23822, claude-code#6871",
    ),
    row(
        (429,),
        _MESSAGE,
        "Extra usage is required for long context requests",
        Meaning.REQUEST,
        "spec 12.2; claude-code#42616, sub2api#572, CLIProxyAPI#2464 (F48)",
    ),
)
